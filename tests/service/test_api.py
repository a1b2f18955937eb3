"""The API over a real sweep's masks: what it finds, its files, and how it says what is wrong."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from playwright.sync_api import sync_playwright

from cops import Mask
from jobs.local import mlflow_server
from jobs.settings import Settings
from service.tokens import TokenFile
from tests.conftest import Swept, free_port
from tests.service.api import api
from tests.test_product import CHROMIUM

WHERE = {"model": "convnet", "data": "digits"}


@pytest.fixture(scope="module")
def mlflow(swept: Swept) -> Iterator[str]:
    settings = Settings(home=swept.home.path, mlflow_port=swept.home.mlflow_port, api_port=swept.home.api_port)
    with mlflow_server(settings) as uri:
        yield uri


@pytest.fixture(scope="module")
def client(mlflow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with api(mlflow, tmp_path_factory.mktemp("api")) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def best(client: httpx.Client) -> dict[str, object]:
    answer = client.get("/v1/masks/best", params=WHERE | {"sparsity": 0.9, "target": "snip"})
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_pages_follow_one_another(client: httpx.Client) -> None:
    every = client.get("/v1/masks", params=WHERE).json()
    answer = client.get("/v1/masks", params={**WHERE, "limit": 2, "sort": "-validation_accuracy"})
    found = answer.json()
    while "next" in answer.links:
        answer = client.get(answer.links["next"]["url"])
        assert answer.status_code == 200, answer.text
        assert 1 <= len(answer.json()) <= 2
        found += answer.json()
    assert len(every) == 3
    assert found == every


def test_filters_and_frontier(client: httpx.Client) -> None:
    pairs = client.get("/v1/masks", params={"control": "grasp", "sort": "validation_accuracy"}).json()
    assert {mask["method"] for mask in pairs} == {"snip|grasp"}
    accuracies = [mask["validation_accuracy"] for mask in pairs]
    assert accuracies == sorted(accuracies)
    assert client.get("/v1/masks", params={"sparsity_min": 0.91}).json() == []
    (front,) = client.get("/v1/frontier", params=WHERE).json()
    near = client.get("/v1/masks/best", params=WHERE | {"sparsity": 0.85, "tolerance": 0.1}).json()
    assert front == near


def test_a_file_is_checked_cached_and_cut(client: httpx.Client, tmp_path: Path) -> None:
    mask = best(client)
    path = f"/v1/masks/{mask['id']}/file"
    answer = client.get(path)
    sha256 = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["ETag"] == f'"{sha256}"'
    assert "immutable" in answer.headers["Cache-Control"]
    assert mask["file_sha256"] in (None, sha256)
    again = client.get(path, headers={"If-None-Match": f'"x", W/"{sha256}"'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", f'"{sha256}"')
    head = client.head(path)
    assert (head.headers["Content-Length"], head.content) == (str(len(answer.content)), b"")
    part = client.get(path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"COPS")

    (tmp_path / "mask.cops").write_bytes(answer.content)
    kept = Mask.load(tmp_path / "mask.cops")
    layers = client.get(f"/v1/masks/{mask['id']}/layers").json()
    assert layers == pytest.approx(kept.layer_density())


def test_similarity(client: httpx.Client, tmp_path: Path) -> None:
    one, other, *_ = client.get("/v1/masks").json()
    masks = []
    for at in (one, other):
        path = tmp_path / at["id"]
        path.write_bytes(client.get(f"/v1/masks/{at['id']}/file").content)
        masks.append(Mask.load(path))
    told = client.get(f"/v1/masks/{one['id']}/similarity/{other['id']}").json()
    assert told == {"similarity": pytest.approx(masks[0].similarity(masks[1]))}


def test_what_is_not_there_says_so(client: httpx.Client) -> None:
    id_ = best(client)["id"]
    for path, words in [
        (f"/v1/masks/{'0' * 32}/file", "list them with /v1/masks"),
        (f"/v1/masks/{id_}/similarity/{'0' * 32}", f"no mask {'0' * 32}"),
        (f"/v1/masks/{id_}/url", "not in S3"),
        (f"/v1/sweeps/{'0' * 32}", "no sweep"),
        (f"/v1/sweeps/{'0' * 32}/logs", "no sweep"),
        ("/v2/masks", "see /docs"),
    ]:
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert words in problem(answer)["detail"]


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem that an answer holds, which must be whole."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["request_id"] == answer.headers["X-Request-Id"]
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("/v1/masks/best", {"data": "digits", "sparsity": 0.9}, "model is missing: add it"),
        ("/v1/masks/best", WHERE | {"sparsity": "nan"}, "sparsity = 'nan'"),
        ("/v1/masks/best", WHERE | {"sparsity": 0.9, "sparsty": 0.9}, "unknown parameter sparsty"),
        ("/v1/masks", {"limit": 0}, "limit = '0'"),
        ("/v1/masks", {"sort": "name"}, "sort = 'name'"),
        ("/v1/masks", {"cursor": "xyz"}, "leave the cursor out"),
        ("/v1/masks/NOTHEX/file", {}, "mask_id = 'NOTHEX'"),
        ("/v1/sweeps/NOTHEX", {}, "sweep_id = 'NOTHEX'"),
        ("/v1/masks/best", WHERE | {"sparsity": 0.9, "seed": 10**30}, "seed"),
    ],
)
def test_bad_parameters_are_named(client: httpx.Client, path: str, query: dict[str, object], words: str) -> None:
    answer = client.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 422
    assert words in problem(answer)["detail"]


def test_other_methods_are_refused(client: httpx.Client) -> None:
    for path, methods in (("/v1/masks", "GET"), ("/v1/sweeps", "GET, POST")):
        answer = client.delete(path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods)
        problem(answer)


def test_a_request_keeps_its_id(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    for bad in ("a b", "x" * 65, "a\tb"):
        assert client.get("/healthz", headers={"X-Request-Id": bad}).headers["X-Request-Id"] not in ("", bad)


def test_what_is_known(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()
    assert models["with_masks"] == ["convnet"]
    assert {"convnet", "resnet20"} <= {one["name"] for one in models["shipped"]}
    assert client.get("/v1/data").json()["with_masks"] == ["digits"]
    assert "snip" in {one["name"] for one in client.get("/v1/scores").json()}
    Draft202012Validator.check_schema(client.get("/v1/schema").json())


def test_a_sweep_that_ended_tells_how(client: httpx.Client) -> None:
    (sweep,) = client.get("/v1/sweeps").json()
    assert sweep == client.get(f"/v1/sweeps/{sweep['id']}").json()
    assert (sweep["name"], sweep["state"], sweep["planned"]) == ("smoke", "finished", 7)
    assert sweep["counts"]["done"] == 7
    assert {one["name"] for one in sweep["best"]} == {"dense", "magnitude @0.9", "snip|grasp @0.9"}
    assert sweep["best"][0]["name"] == "snip|grasp @0.9"
    assert sweep["page"].endswith(sweep["run"])
    log = client.get(f"/v1/sweeps/{sweep['id']}/logs")
    assert log.headers["Content-Type"].startswith("text/plain")
    assert "trials 7/7" in log.text
    assert "best COPS mask" in log.text
    assert client.get(f"/v1/sweeps/{sweep['id']}/logs?follow=true").text == log.text
    assert client.post(f"/v1/sweeps/{sweep['id']}/stop").status_code == 409


def test_without_a_cluster_nothing_is_submitted(client: httpx.Client) -> None:
    (sweep,) = client.get("/v1/sweeps").json()
    answer = client.post(f"/v1/sweeps/{sweep['id']}/resume")
    assert answer.status_code == 503
    assert "RAY_API_SERVER_ADDRESS" in problem(answer)["detail"]
    assert "cops up" in problem(answer)["detail"]


def test_metrics_count_what_was_asked(client: httpx.Client) -> None:
    client.get("/v1/masks/best", params=WHERE | {"sparsity": 0.9})
    client.get("/v1/masks/" + "f" * 32)
    text = client.get("/metrics").text
    assert 'cops_requests_total{method="GET",route="/v1/masks/best",status="200"}' in text
    assert 'route="/v1/masks/{mask_id}",status="404"' in text
    assert "cops_catalog_masks 3.0" in text
    assert 'cops_sweeps{state="finished"} 1.0' in text
    assert "f" * 32 not in text


def test_ready_while_its_parts_are(client: httpx.Client) -> None:
    assert client.get("/readyz").json() == {"parts": {"catalog": "ok", "mlflow": "ok"}}


def test_without_mlflow_the_catalog_answers_on(
    client: httpx.Client, mlflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api(mlflow, tmp_path):
        pass
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        api(nowhere, tmp_path, ray_jobs=nowhere) as address,
        httpx.Client(base_url=address, timeout=60) as cut,
    ):
        assert best(cut) == best(client)
        answer = cut.get("/readyz")
        assert answer.status_code == 503
        assert "mlflow: " in problem(answer)["detail"]
        assert "ray: " in problem(answer)["detail"]
        sweeps = cut.get("/v1/sweeps")
        assert sweeps.status_code == 503
        assert "MLflow" in problem(sweeps)["detail"]
        assert cut.get(f"/v1/masks/{best(cut)['id']}/file").status_code == 503
        assert cut.get("/metrics").status_code == 200


def test_the_description_is_whole(client: httpx.Client) -> None:
    tree = client.get("/openapi.json").json()
    text = json.dumps(tree)
    assert "HTTPValidationError" not in text
    for path, operations in tree["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            assert ("security" in operation) == (path not in ("/healthz", "/readyz"))
            assert path == "/healthz" or "503" in operation["responses"]
    Draft202012Validator.check_schema(tree["components"]["schemas"]["Spec"])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_docs_need_no_network(client: httpx.Client) -> None:
    asked = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{str(client.base_url).rstrip('/')}/docs")
        page.get_by_text("/v1/masks/best", exact=True).wait_for(timeout=60_000)
        browser.close()
    assert all(url.startswith((str(client.base_url), "data:")) for url in asked), asked


def test_replicas_need_not_know_of_one_another(mlflow: str, tmp_path: Path) -> None:
    """What one answers the other goes on from, and a token is revoked for both."""
    file = TokenFile(tmp_path / "tokens.json")
    text, token = file.create("balancer", "read")
    headers = {"Authorization": f"Bearer {text}"}
    with (
        api(mlflow, tmp_path / "one", tokens=file.path) as first,
        api(mlflow, tmp_path / "other", tokens=file.path) as second,
        httpx.Client(base_url=first, headers=headers, timeout=60) as one,
        httpx.Client(base_url=second, headers=headers, timeout=60) as other,
    ):
        every = one.get("/v1/masks").json()
        assert len(every) == 3
        assert other.get("/v1/masks").json() == every
        answer = one.get("/v1/masks", params={"limit": 1})
        found = answer.json()
        for replica in (other, one):
            answer = replica.get(answer.links["next"]["url"])
            found += answer.json()
        assert found == every
        path = f"/v1/masks/{every[0]['id']}/file"
        tags = [replica.get(path).headers["ETag"] for replica in (one, other)]
        assert tags[0] == tags[1]
        assert other.get(path, headers={"If-None-Match": tags[0]}).status_code == 304
        (sweep,) = one.get("/v1/sweeps").json()
        assert other.get(f"/v1/sweeps/{sweep['id']}").json() == sweep
        file.revoke(token.id)
        for replica in (one, other):
            refused = replica.get("/v1/masks")
            assert refused.status_code == 401
            assert "revoked" in problem(refused)["detail"]
