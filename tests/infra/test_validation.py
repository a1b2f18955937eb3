"""The manifests are what their tools and servers take: checked by the real tools and schemas, without any server."""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from referencing import Registry, Resource

from tests.infra import kuberay
from tests.infra.manifests import (
    BIN,
    CHART,
    EXAMPLES,
    INFRA,
    SMOKE,
    compose,
    compose_environment,
    render,
    run,
    services,
    templates,
)

KUBERNETES = "1.35"
DEFINITIONS = Path(
    kubernetes_validate.__path__[0], "kubernetes-json-schema", f"v{KUBERNETES}.0-local-strict", "_definitions.json"
)
Documents = dict[str, list[dict[str, Any]]]


def validate(document: dict[str, Any]) -> None:
    """Strict: an unknown field is an error."""
    if document["apiVersion"] == "ray.io/v1":
        jsonschema.Draft202012Validator(kuberay.resource(document["kind"]), registry=_registry()).validate(document)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@cache
def _registry() -> Registry[Any]:
    definitions: Resource[Any] = Resource.from_contents(json.loads(DEFINITIONS.read_text()))
    registry: Registry[Any] = Registry().with_resource("kubernetes", definitions)
    return registry


def test_compose_takes_the_file() -> None:
    done = compose("config", "--quiet", **compose_environment())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(compose_environment().keys() - {"TORCH_INDEX", "PROMETHEUS_TOKEN"}))
def test_compose_refuses_to_start_without_a_secret(name: str) -> None:
    done = compose("config", "--quiet", **compose_environment() | {name: ""})
    assert done.returncode
    assert f"{name} is missing a value: make it as .env.example says" in done.stderr


def test_compose_waits_for_what_is_well() -> None:
    for name, one in services().items():
        for needed, how in one.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", (name, needed)
            assert "healthcheck" in services()[needed] or needed == "api", (name, needed)


def test_dockerfile_is_clean() -> None:
    done = run(BIN / "hadolint", INFRA / "docker" / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_health_check_asks_readyz() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text()
    (given,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)*\s*CMD (\[.*\])$", text, re.MULTILINE)
    _, *arguments = json.loads(given)
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        codes = [run(sys.executable, *arguments, COPS_API_PORT=port).returncode for _ in range(2)]
        server.shutdown()
    assert (codes, asked) == ([0, 1], ["/readyz", "/readyz"])


@pytest.mark.parametrize("script", sorted((INFRA / "docker").glob("*.sh")), ids=lambda path: path.name)
def test_shell_takes_the_scripts(script: Path) -> None:
    assert run("sh", "-n", script).returncode == 0
    assert script.stat().st_mode & 0o111


def test_install_refuses_an_unknown_kind(tmp_path: Path) -> None:
    done = run(INFRA / "docker" / "install.sh", tmp_path / "x", "gpu")
    assert (done.returncode, done.stderr) == (2, "install.sh: kind 'gpu' should be cpu, cuda or s3\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_helm_takes_the_chart(helm_program: Path, path: Path) -> None:
    done = run(helm_program, "lint", "--strict", "--values", path, "--set-file", f"sweep.file={SMOKE}", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_kubernetes_and_kuberay_take_what_it_makes(rendered: Documents, name: str) -> None:
    documents = rendered[name]
    for one in documents:
        validate(one)
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))


def test_the_schemas_are_strict(rendered: Documents) -> None:
    """An unknown field anywhere, or a value of another type, is found."""
    (cluster,) = (one for one in rendered["kind"] if one["kind"] == "RayCluster")
    text = json.dumps(cluster)
    for wrong in (
        text.replace('"minReplicas"', '"minReplica"'),
        text.replace('"containerPort"', '"containersPort"'),
        text.replace('"idleTimeoutSeconds": 300', '"idleTimeoutSeconds": "300"'),
    ):
        assert wrong != text
        with pytest.raises(jsonschema.ValidationError):
            validate(json.loads(wrong))
    (service, *_) = (one for one in rendered["kind"] if one["kind"] == "Service")
    with pytest.raises(jsonschema.ValidationError):
        validate(service | {"specs": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "postgres.host is needed, or postgres.inCluster.enabled"),
        (["--set", "postgres.host=x", "--set", "sweep.enabled=true"], "sweep.file is needed"),
        (["--set", "postgres.host=x", "--set", "api.replica=3"], "additional properties 'replica' not allowed"),
        (["--set", "postgres.host=x", "--set", "api.replicas=two"], "got string, want integer"),
        (["--set", "postgres.host=x", "--set", "api.ingress.enabled=true"], "api.ingress.host is needed"),
        (["--set", "postgres.password=x"], "additional properties 'password' not allowed"),
    ],
)
def test_bad_values_are_refused(helm_program: Path, options: list[str], message: str) -> None:
    done = run(helm_program, "template", "cops", CHART, *options)
    assert done.returncode
    assert message in done.stderr


def test_selectors_find_their_pods(rendered: Documents) -> None:
    for documents in rendered.values():
        pods = [template["metadata"]["labels"] for _, _, template in templates(documents)]
        for one in documents:
            spec = one.get("spec", {})
            selector = spec.get("selector", {}) if one["kind"] in ("Service", "PodDisruptionBudget") else {}
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), one["metadata"]


def test_pods_are_restricted(rendered: Documents) -> None:
    """The profile `restricted` of Kubernetes' pod security standards, and limits of memory."""
    for documents in rendered.values():
        for kind, name, template in templates(documents):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True, (kind, name)
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for one in pod["containers"]:
                assert one["securityContext"]["allowPrivilegeEscalation"] is False, one["name"]
                assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert "memory" in one["resources"]["limits"]
                assert {"cpu", "memory"} <= one["resources"]["requests"].keys()


def test_kueue_is_asked(helm_program: Path, rendered: Documents) -> None:
    (job,) = (one for one in rendered["gpu"] if one["kind"] == "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "sweeps"
    assert job["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    options = ["--values", str(CHART / "examples" / "gpu.yaml"), "--set-file", f"sweep.file={SMOKE}"]
    (fixed,) = (
        one for one in render(helm_program, *options, "--set", "kueue.elastic=false") if one["kind"] == "RayJob"
    )
    cluster = fixed["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert [(one["replicas"], one["maxReplicas"]) for one in cluster["workerGroupSpecs"]] == [(32, 32), (8, 8)]
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        gpus = worker["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpus, worker["image"].rsplit("-", 1)[1]) in [("1", "cuda"), (None, "cpu")]


def test_the_sweep_in_the_chart_is_the_file(rendered: Documents) -> None:
    (found,) = (one["data"]["sweep.yaml"] for one in rendered["gpu"] if "sweep.yaml" in one.get("data", {}))
    assert yaml.safe_load(found) == yaml.safe_load(SMOKE.read_text())


def test_values_are_all_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load((CHART / "values.yaml").read_text()))
    open_ones = [path for path, part in _objects(schema, "") if part.get("additionalProperties") is None]
    assert open_ones == ["/global", "/networkPolicy/clients"]


def _objects(part: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if part.get("type") == "object":
        yield path, part
    for name, one in part.get("properties", {}).items():
        yield from _objects(one, f"{path}/{name}")
    if "items" in part:
        yield from _objects(part["items"], path)


def test_ray_takes_the_cluster_file() -> None:
    schema = json.loads(Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    cluster = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for name, one in cluster["available_node_types"].items():
        spot = one["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        assert spot == (None if name == "head" else "spot")


def test_cloudformation_takes_the_template() -> None:
    done = run(BIN / "cfn-lint", INFRA / "aws" / "account.yaml")
    assert (done.returncode, done.stdout) == (0, "")


def test_policies_are_narrow() -> None:
    """No action on everything, but to look at machines; nobody but `cops gc` may remove a run's files."""
    text = re.sub(r"!(\w+)", "", (INFRA / "aws" / "account.yaml").read_text())
    for name, one in yaml.safe_load(text)["Resources"].items():
        documents = [one["Properties"].get("PolicyDocument")]
        documents += [policy["PolicyDocument"] for policy in one["Properties"].get("Policies", [])]
        for statement in [statement for document in documents if document for statement in document["Statement"]]:
            if statement["Effect"] == "Deny":
                continue
            actions, resources = (
                [value] if isinstance(value := statement[key], str) else value for key in ("Action", "Resource")
            )
            assert not [action for action in actions if "*" in action], name
            assert "*" not in resources or all(action.startswith("ec2:Describe") for action in actions), name
            if "s3:DeleteObject" in actions and name != "Clean":
                assert [resource for resource in resources if not resource.endswith("/scores/*")] == []
