"""`python -m tests.infra.rehearsal`: the compose file's services without docker, as root; three minutes.

In a network namespace of its own every service runs with its command, environment and health check from compose.yaml,
under its own name, PostgreSQL from its wheel. Then a sweep goes through `ray job submit` inside, as infra/README.md
says, and the API answers which mask is best. Two things differ: the head has CPUs and runs the trials, since two Ray
nodes want one host each, and everything runs as root.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.infra import services
from tests.infra.manifests import BIN, ROOT

ORDER = ("postgres", "s3", "mlflow", "head", "api")
ADDRESSES = {name: f"10.77.0.{number}" for number, name in enumerate(ORDER, 2)}
SECONDS = 120.0  # for a service to be well
QUESTION = "/v1/masks/best?model=convnet&data=digits&sparsity=0.9"


def outside() -> int:
    """Start this again in namespaces of its own: network, mounts, processes."""
    line = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m"]
    return subprocess.run([*line, "tests.infra.rehearsal", "inside"], cwd=ROOT, check=False).returncode


def inside() -> int:
    """Run everything; 0 if the mask was found, else an exception."""
    every = services.filled()
    _prepare()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        token = _token(every["api"])
        for name in ORDER:
            started = time.monotonic()
            environment = _environment(every[name])
            command = services.postgres(folder, environment) if name == "postgres" else services.command(every[name])
            command = ["--num-cpus=2" if word == "--num-cpus=0" else word for word in command]
            stack.enter_context(_running(name, command, environment, folder))
            _wait(name, services.health(every[name]), environment, folder)
            print(f"{name:9} well after {time.monotonic() - started:.0f} s", flush=True)
        head = _environment(every["head"])
        submit: list[str | Path] = [BIN / "ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--"]
        sweep = [*submit, "python", "-m", "jobs", ROOT / "jobs" / "sweeps" / "smoke.yaml"]
        subprocess.run(sweep, env=head, check=True, stdout=(folder / "sweep.log").open("w"), timeout=300)
        print("sweep done")
        _refused(head)
        time.sleep(5)  # the catalog follows MLflow every two seconds
        request = Request(f"http://api:8050{QUESTION}", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=10) as answer:
            mask = json.load(answer)
        print(f"mask {mask['id']}: validation accuracy {mask['validation_accuracy']:.3f}")
    return 0


def _refused(environment: dict[str, str]) -> None:
    """Ray, MLflow and the API let nobody in without what they ask for."""
    jobs: list[str | Path] = [BIN / "ray", "job", "list", "--address", "http://127.0.0.1:8265"]
    for token, wanted in ((environment["RAY_AUTH_TOKEN"], True), ("x" * 32, False)):
        done = subprocess.run(jobs, env=environment | {"RAY_AUTH_TOKEN": token}, check=False, capture_output=True)
        assert (done.returncode == 0) is wanted, done.stderr.decode()
    for address in ("http://mlflow:5050/api/2.0/mlflow/experiments/search?max_results=1", f"http://api:8050{QUESTION}"):
        with pytest.raises(HTTPError, match="401"):
            urlopen(address, timeout=10)
    print("refused without secrets: Ray's jobs, MLflow, the API")


def _prepare() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path in services.MADE:
        Path(path).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", path], check=True)
    hosts = Path("/run/hosts")
    hosts.write_text("".join(f"{address} {name}\n" for name, address in ADDRESSES.items()) + "127.0.0.1 localhost\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    for address in ADDRESSES.values():
        subprocess.run(["ip", "address", "add", f"{address}/24", "dev", "lo"], check=True)


def _environment(service: dict[str, Any]) -> dict[str, str]:
    return services.environment(service) | {"PYTHONPATH": str(ROOT)}


def _token(service: dict[str, Any]) -> str:
    command: list[str | Path] = [BIN / "cops", "token", "create", "rehearsal", "--scope", "read"]
    done = subprocess.run(command, env=_environment(service), check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT)
    return done.stdout.strip()


@contextmanager
def _running(name: str, command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()


def _wait(name: str, test: list[str], environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while subprocess.run(test, env=environment, check=False, capture_output=True, cwd="/").returncode:
        if time.monotonic() > deadline:
            print(*(folder / f"{name}.log").read_text().splitlines()[-20:], sep="\n")
            raise SystemExit(f"{name} is not well: {test}")
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(inside() if sys.argv[1:] == ["inside"] else outside())
