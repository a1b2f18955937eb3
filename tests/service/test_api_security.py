"""Who must not get in does not, whatever he sends; and no secret is in a log."""

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from jobs.errors import UserError
from jobs.explain import LEAST
from jobs.identity import sweep_key
from jobs.spec import Spec
from service import guard
from service.app import create_app
from service.observe import JsonLines
from service.tokens import TokenFile
from tests.conftest import free_port
from tests.service.api import api, running, settings

ID = "0" * 32
OPEN = {"/healthz", "/readyz"}
SWEEP = yaml.safe_dump(LEAST).encode()
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """An address at which nobody listens: what is refused must not get as far as MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens.json")
    made = {scope: file.create(scope, scope)[0] for scope in ("read", "submit", "admin")}
    made["revoked"], revoked = file.create("revoked", "admin")
    file.revoke(revoked.id)
    made["expired"], _ = file.create("expired", "admin", days=1e-9)
    made["wrong"] = made["admin"][:-4] + ("aaaa" if made["admin"][-4:] != "aaaa" else "bbbb")
    made["file"] = str(file.path)
    return made


@pytest.fixture(scope="module")
def guarded(nowhere: str, tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API that asks for tokens, and never for money."""
    home = tmp_path_factory.mktemp("guarded")
    with (
        api(nowhere, home, tokens=Path(tokens["file"]), api_host="0.0.0.0", submit_rate="1000/minute") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def fresh(nowhere: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API on loopback that asks for none."""
    home = tmp_path_factory.mktemp("fresh")
    with (
        api(nowhere, home, submit_rate="1000/minute") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def operations(client: httpx.Client) -> list[tuple[str, str]]:
    paths = client.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), re.sub(r"\{(mask_id|sweep_id|other_id)\}", ID, path).replace("{wish}", "stop"))
        for path, methods in paths.items()
        for method in methods
        if path not in OPEN
    ]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_no_operation_answers_without_a_good_token(guarded: httpx.Client, tokens: dict[str, str]) -> None:
    every = operations(guarded)
    assert len(every) >= 19
    for method, path in every:
        answer = guarded.request(method, path)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert guarded.request(method, path, headers={"Authorization": "Basic eDp5"}).status_code == 401
        scope = "read" if method == "GET" else "submit"
        answer = guarded.request(method, path, headers=bearer(tokens[scope]))
        assert answer.status_code not in (401, 403, 429, 500), (path, answer.text)
        if scope == "submit":
            answer = guarded.request(method, path, headers=bearer(tokens["read"]))
            assert answer.status_code == 403
            assert "scope submit; 'read' has read" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["wrong", "revoked", "expired"])
def test_a_bad_token_opens_nothing(nowhere: str, tokens: dict[str, str], tmp_path: Path, kind: str) -> None:
    """And who tries many is told to wait, even with a good one."""
    with (
        api(nowhere, tmp_path, tokens=Path(tokens["file"])) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        every = operations(client)
        for method, path in every[:10]:
            answer = client.request(method, path, headers=bearer(tokens[kind]))
            assert answer.status_code == 401, path
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
            assert {"wrong": "unknown"}.get(kind, kind) in answer.json()["detail"]
        for method, path in every:
            answer = client.request(method, path, headers=bearer(tokens[kind]))
            assert answer.status_code == 429, path
            assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert client.get("/v1/models", headers=bearer(tokens["read"])).status_code == 429
        assert client.get("/healthz").status_code == 200


def test_requests_are_counted_by_token(nowhere: str, tokens: dict[str, str], tmp_path: Path) -> None:
    with (
        api(nowhere, tmp_path, tokens=Path(tokens["file"]), read_rate="3/minute", submit_rate="1/minute") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        told = [client.get("/v1/models", headers=bearer(tokens["read"])).status_code for _ in range(5)]
        assert told == [200, 200, 200, 429, 429]
        assert client.get("/v1/models", headers=bearer(tokens["admin"])).status_code == 200
        told = [client.post("/v1/sweeps", headers=bearer(tokens["submit"])).status_code for _ in range(3)]
        assert told == [415, 429, 429]


def test_a_new_token_counts_at_once_and_a_revoked_one_no_more(guarded: httpx.Client, tokens: dict[str, str]) -> None:
    file = TokenFile(Path(tokens["file"]))
    text, token = file.create("late", "read")
    assert guarded.get("/v1/models", headers=bearer(text)).status_code == 200
    file.revoke(token.id)
    assert guarded.get("/v1/models", headers=bearer(text)).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "cops.example"])
def test_beyond_loopback_it_does_not_start_without_tokens(tmp_path: Path, host: str) -> None:
    with pytest.raises(UserError, match="cops token create"):
        create_app("http://127.0.0.1:1", settings(tmp_path, api_host=host))
    file = TokenFile(tmp_path / "tokens.json")
    file.create("old", "admin", days=1e-9)
    with pytest.raises(UserError, match="cops token create"):
        create_app("http://127.0.0.1:1", settings(tmp_path, api_host=host))


def test_a_file_of_tokens_counts_on_loopback_too(nowhere: str, tmp_path: Path) -> None:
    TokenFile(tmp_path / "tokens.json").create("me", "read")
    with api(nowhere, tmp_path) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/masks/..%2f..%2f..%2fetc%2fpasswd/file",
        "/v1/masks/../../etc/passwd",
        "/v1/masks/%2e%2e/file",
        f"/v1/masks/{ID}%00/file",
        f"/v1/masks/{ID}%0a/file",
        f"/v1/masks/{ID}%0d%0aX-Evil:%201/file",
        f"/v1/sweeps/{ID}'%20or%20'1'='1",
        f"/v1/masks/{'A' * 5000}/file",
        "/static-offline-docs/..%2f..%2fcore.py",
        "/static-offline-docs/../core.py",
    ],
)
def test_ids_are_ids(fresh: httpx.Client, path: str) -> None:
    """Sent as it stands: a client library would tidy it up."""
    answer = raw(fresh, f"GET {path} HTTP/1.1\r\nHost: {fresh.base_url.netloc.decode()}\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4(04|22) ", answer), answer[:200]
    assert b"\r\nX-Evil" not in answer
    assert b"root:" not in answer
    assert b"FastAPIOffline" not in answer


def test_no_header_can_be_slipped_in(fresh: httpx.Client) -> None:
    for query in ("cursor=a%0d%0aX-Evil:%201", "model=a%0d%0aX-Evil:%201", "limit=1%0d%0aX-Evil:%201"):
        answer = fresh.get(f"/v1/masks?{query}")
        assert "X-Evil" not in answer.headers
    request = f"GET /healthz HTTP/1.1\r\nHost: {fresh.base_url.netloc.decode()}\r\nX-Request-Id: a\rX-Evil: 1\r\n\r\n"
    assert b"\r\nx-evil" not in raw(fresh, request).lower()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8050", "", "[", "a b"])
def test_other_names_are_refused_on_loopback(fresh: httpx.Client, host: str) -> None:
    """A page whose name was made to point here must not read what is served here."""
    answer = raw(fresh, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]


def test_other_sites_pages_steer_nothing(fresh: httpx.Client) -> None:
    own = f"http://{fresh.base_url.netloc.decode()}"
    for origin, status in (("https://evil.example", 403), ("null", 403), (own, 503)):
        assert fresh.post(f"/v1/sweeps/{ID}/stop", headers={"Origin": origin}).status_code == status
    assert fresh.post("/v1/sweeps", content=SWEEP, headers={"Content-Type": "text/plain"}).status_code == 415
    assert "access-control-allow-origin" not in fresh.get("/v1/models", headers={"Origin": own}).headers


def test_bodies_too_large_are_refused(fresh: httpx.Client) -> None:
    large = b"#" * (guard.BODY_BYTES + 1)
    answer = fresh.post("/v1/sweeps", content=large, headers=YAML)
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    in_pieces = fresh.post("/v1/sweeps", content=iter([large[:60_000]] * 3), headers=YAML)
    assert in_pieces.status_code == 413
    assert fresh.post("/v1/sweeps", content=large[:-1], headers=YAML).status_code == 422


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_bodies_too_slow_are_given_up(fresh: httpx.Client, length: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    host = fresh.base_url.netloc.decode()
    start = f"POST /v1/sweeps HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/yaml\r\n{length}\r\n\r\n"
    assert raw(fresh, start, "5\r\nname:\r\n").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("yaml", b"a: &a [1]\nb: *a\n", "aliases"),
        ("yaml", b"[" * 20_000, "nested more than 20 deep"),
        ("yaml", b"a: 1\na: 2\n", "key 'a' stands twice"),
        ("yaml", b"\xff\xfe\x00", "sweep cannot be read"),
        ("yaml", b"!!python/object/apply:os.system [id]", "not YAML"),
        ("yaml", b"? [a]\n: 1\n", "not YAML"),
        ("yaml", b"", "must hold keys and values"),
        ("json", b"[" * 60_000, "sweep cannot be read"),
        ("json", b'{"name": 1, "name": 2}', "key 'name' stands twice"),
        ("json", b'{"name": ' + b"9" * 5000 + b"}", "sweep cannot be read"),
        ("json", b'{"name": NaN}', "name"),
        ("json", b'"\\ud800"', "must hold keys and values"),
        ("json", json.dumps(LEAST | {"seed": "x"}).encode(), "seed = 'x'"),
        ("json", json.dumps(LEAST | {"epocs": 1}).encode(), "unknown key 'epocs'"),
        ("json", json.dumps(LEAST | {"workloads": [{"model": "a(b=" + "-" * 99_999, "data": "digits"}]}).encode(), ""),
    ],
)
def test_bodies_that_are_no_sweep_say_why(fresh: httpx.Client, kind: str, body: bytes, words: str) -> None:
    answer = fresh.post("/v1/sweeps", content=body, headers={"Content-Type": f"application/{kind}"})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


def test_a_wrong_sweep_is_told_in_the_words_of_the_command(fresh: httpx.Client, tmp_path: Path) -> None:
    tree = LEAST | {"training": {"epochs": 0}}
    file = tmp_path / "sweep"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as told:
        Spec.load(file)
    answer = fresh.post("/v1/sweeps", json=tree)
    assert answer.json()["detail"] == str(told.value).replace(str(file), "sweep")


def workload(model: Any = "convnet", data: Any = "digits") -> dict[str, Any]:
    return LEAST | {"workloads": [{"model": model, "data": data}]}


@pytest.fixture(scope="module")
def choosy(nowhere: str, tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API that allows data of some folders."""
    where = {"tokens": Path(tokens["file"]), "allowed_data": "/srv/data:/srv/more"}
    home = tmp_path_factory.mktemp("choosy")
    with api(nowhere, home, **where) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (workload(model="os:system"), "workloads[0].model = 'os:system': an import path"),
        (workload(model={"name": "subprocess:run", "options": {"args": "id"}}), "an import path"),
        (workload(data="os:getcwd"), "workloads[0].data = 'os:getcwd': an import path"),
        (workload(data={"name": "image_folder", "options": {"path": "/etc"}}), "COPS_ALLOWED_DATA"),
        (workload(data='image_folder(path="/srv/data/../../etc")'), "COPS_ALLOWED_DATA"),
        (workload(data='image_folder(path="data")'), "COPS_ALLOWED_DATA"),
        (workload(data='image_folder(path="~/x")'), "COPS_ALLOWED_DATA"),
        (workload(data='image_folder(path="/srv/database")'), "COPS_ALLOWED_DATA"),
        (workload(data='image_folder(path="/srv/data/cifar")'), None),
        (workload(data='image_folder(path="/srv/more")'), None),
        (workload(), None),
    ],
)
def test_a_sweep_names_what_the_server_allows(
    choosy: httpx.Client, tokens: dict[str, str], tree: dict[str, Any], words: str | None
) -> None:
    answer = choosy.post("/v1/sweeps", json=tree, headers=bearer(tokens["submit"]))
    assert answer.status_code == (403 if words else 503), answer.text
    assert (words or "RAY_API_SERVER_ADDRESS") in answer.json()["detail"]
    answer = choosy.post("/v1/sweeps", json=tree, headers=bearer(tokens["admin"]))
    assert answer.status_code == 503


def test_without_tokens_nobody_is_admin(fresh: httpx.Client) -> None:
    """Whoever else uses this machine can ask, too, and must not run code as us."""
    assert fresh.post("/v1/sweeps", json=workload()).status_code == 503
    answer = fresh.post("/v1/sweeps", json=workload(model="os:system"))
    assert answer.status_code == 403
    assert "cops token create" in answer.json()["detail"]


def test_no_secret_is_logged(nowhere: str, tokens: dict[str, str], tmp_path: Path) -> None:
    """Neither tokens, right or wrong, nor what queries and bodies hold; but who asked what is."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonLines().format(record))

    handler = Kept()
    loggers = [logging.getLogger(name) for name in ("cops", "service", "jobs", "uvicorn", "urllib3", "mlflow")]
    before = [(one, one.level, one.propagate) for one in loggers]
    try:
        for one in loggers:
            one.addHandler(handler)
            one.setLevel(logging.DEBUG)
        with api(nowhere, tmp_path, tokens=Path(tokens["file"])) as address, httpx.Client(base_url=address) as client:
            for kind in ("read", "wrong", "revoked"):
                client.get("/v1/masks?model=hidden-query", headers=bearer(tokens[kind]), timeout=60)
                client.post("/v1/sweeps", content=b"hidden-body: 1", headers=bearer(tokens[kind]) | YAML)
                client.get(f"/v1/models?token={tokens[kind]}")
    finally:
        for one, level, propagate in before:
            one.removeHandler(handler)
            one.setLevel(level)
            one.propagate = propagate
    said = [json.loads(line) for line in lines if json.loads(line)["logger"] == "cops.api"]
    assert len(said) == 9
    assert {one["status"] for one in said} >= {401, 403}
    assert said[0]["token"] == tokens["read"].split("_")[1]
    for secret in (*tokens.values(), "hidden-query", "hidden-body"):
        assert not [line for line in lines if secret in line]


def test_what_fails_tells_nothing_to_the_outside(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(nowhere, settings(tmp_path))

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("inner matters")

    with running(app) as address, caplog.at_level(logging.ERROR, "cops.api"):
        answer = httpx.get(f"{address}/broken")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert "inner matters" not in answer.text
    (record,) = [one for one in caplog.records if one.name == "cops.api"]
    assert "inner matters" in record.__dict__["fields"]["error"]
    assert record.__dict__["fields"]["request_id"] == answer.headers["X-Request-Id"]


def test_the_same_file_is_the_same_sweep() -> None:
    """What is kept of a sweep, with all its defaults, is read as the sweep that it was."""
    spec = Spec.model_validate(workload(model={"name": "resnet20", "options": {"width": 0.5}}))
    kept = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    assert sweep_key(Spec.parse(kept, "kept")) == sweep_key(spec)


def raw(client: httpx.Client, *parts: str) -> bytes:
    """What is answered to bytes that are sent as they stand."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 80), timeout=30) as connection:
        for part in parts:
            connection.sendall(part.encode("latin-1"))
            time.sleep(0.05)
        found = b""
        while b"\r\n\r\n" not in found and (more := connection.recv(65536)):
            found += more
        return found
