"""The client and the commands over it, against the real API of a real sweep."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from safetensors.torch import load_file

from cops import Mask
from cops.network import prunable
from jobs.local import mlflow_server
from jobs.settings import Settings
from jobs.workloads import build_model, load_data
from service.client import ApiError, AsyncClient, Client
from tests.conftest import ROOT, Swept
from tests.service.api import api, running


@pytest.fixture(scope="module")
def address(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(home=swept.home.path, mlflow_port=swept.home.mlflow_port, api_port=swept.home.api_port)
    with mlflow_server(settings) as uri, api(uri, tmp_path_factory.mktemp("api")) as address:
        yield address


@pytest.fixture
def client(address: str, tmp_path: Path) -> Iterator[Client]:
    with Client(address, cache=tmp_path / "cache") as client:
        yield client


def cops(address: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of `cops`, as a user runs it."""
    environment = {"COPS_API_URL": address, "XDG_CACHE_HOME": str(cache), "PATH": "", "COLUMNS": "120"}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120, check=False)


def test_the_best_mask_is_applied_in_one_line(client: Client) -> None:
    model = build_model("convnet", load_data("digits"), seed=0)
    found = client.best("convnet", "digits", 0.9, target="snip", control="grasp")
    found.apply(model)
    weights = prunable(model)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros / sum(weight.numel() for weight in weights.values()) == pytest.approx(found.summary.removed)
    assert found.mask.sparsity == pytest.approx(found.summary.removed)


def test_both_clients_say_the_same(client: Client, address: str, tmp_path: Path) -> None:
    async def ask() -> tuple[object, ...]:
        async with AsyncClient(address, cache=tmp_path / "other") as other:
            best = await other.best("convnet", "digits", 0.9)
            path = await other.mask_file(best.summary.id)
            front, masks = await other.frontier("convnet", "digits"), await other.masks(limit=2)
            return best.summary, path.read_bytes(), front, masks, await other.layers(best.summary.id)

    best = client.best("convnet", "digits", 0.9)
    content = client.mask_file(best.summary.id).read_bytes()
    front, masks = client.frontier("convnet", "digits"), client.masks(limit=2)
    assert asyncio.run(ask()) == (best.summary, content, front, masks, client.layers(best.summary.id))


def test_pages_are_followed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    every = client.masks()
    monkeypatch.setattr("service.client.operations.PAGE", 1)
    assert len(every) == 3
    assert client.masks() == every
    assert client.masks(limit=2) == every[:2]


def test_a_file_is_fetched_once_and_again_if_it_is_damaged(client: Client) -> None:
    mask = client.masks(limit=1)[0]
    path = client.mask_file(mask.id)
    good = path.read_bytes()
    assert path.name == hashlib.sha256(good).hexdigest()
    first = path.stat().st_mtime_ns
    assert client.mask_file(mask.id).stat().st_mtime_ns == first
    path.write_bytes(b"x" + good[1:])
    assert client.mask_file(mask.id).read_bytes() == good


def test_the_trained_network_comes_with_its_zeros(client: Client) -> None:
    best = client.best("convnet", "digits", 0.9, target="snip", control="grasp", min_confirmations=1)
    state = load_file(client.weights_file(best.summary.id))
    model = build_model("convnet", load_data("digits"), seed=0)
    model.load_state_dict(state)
    for name, kept in best.mask.kept.items():
        assert not state[name][~kept].any()
        assert state[name][kept].any()


def test_masks_of_few_samples_are_asked_for_by_name(client: Client) -> None:
    assert {mask.samples for mask in client.masks()} == {None}
    assert client.masks(samples=32) == client.frontier("convnet", "digits", samples=32) == []
    with pytest.raises(ApiError, match=r"samples=32.*with masks: none"):
        client.best("convnet", "digits", 0.9, samples=32)


def test_what_the_api_refuses_is_one_line(client: Client) -> None:
    with pytest.raises(ApiError, match="no mask") as caught:
        client.best("convnet", "digits", 0.42)
    assert caught.value.status == 404
    assert "\n" not in str(caught.value)
    with pytest.raises(ApiError) as caught:
        client.best("convnet", "digits", 1.5)
    assert caught.value.status == 422


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1", cache=tmp_path) as client, pytest.raises(ApiError, match="cops serve"):
        client.masks()


def test_what_fails_for_a_moment_is_asked_again_and_damage_is_told(tmp_path: Path, client: Client) -> None:
    """A server that answers 503 twice, then sends a file that is not what its checksum says."""
    summary = client.masks(limit=1)[0]
    answer = json.dumps({**vars(summary)})
    app, asked = FastAPI(), list[float]()

    @app.get("/v1/masks/{mask_id}")
    def mask(mask_id: str) -> Response:
        asked.append(time.monotonic())
        return Response(answer, 503 if len(asked) < 3 else 200, media_type="application/json")

    @app.get("/v1/masks/{mask_id}/file")
    def file(mask_id: str) -> Response:
        return Response(b"other", headers={"ETag": '"0"'})

    with (
        running(app) as address,
        Client(address, cache=tmp_path / "new") as other,
        pytest.raises(ApiError, match="came damaged"),
    ):
        other.mask_file(summary.id)
    assert len(asked) == 3
    assert not list((tmp_path / "new").glob("*"))


def test_commands_find_show_and_fetch(address: str, tmp_path: Path) -> None:
    found = json.loads(cops(address, tmp_path, "best", "convnet", "digits", "0.9", "--json").stdout)
    shown = cops(address, tmp_path, "best", "convnet", "digits", "0.9")
    assert shown.returncode == 0, shown.stderr
    assert found["id"] in shown.stdout
    assert f"cops fetch {found['id']}" in shown.stdout

    done = cops(address, tmp_path, "fetch", found["id"], "-o", str(tmp_path / "best.cops"))
    assert "cops.Mask.load" in done.stdout
    assert Mask.load(tmp_path / "best.cops").sparsity == pytest.approx(found["removed"])

    with Client(address, cache=tmp_path / "c") as client:
        masks = [mask.id for mask in client.masks()]
    compared = json.loads(cops(address, tmp_path, "compare", masks[0], masks[1], "--json").stdout)
    assert 0 <= compared["similarity"] <= 1
    assert compared["masks"][0]["id"] == masks[0]
    assert "kept by both" in cops(address, tmp_path, "compare", masks[0], masks[1]).stdout

    sweep = json.loads(cops(address, tmp_path, "status", "--json").stdout)[0]["id"]
    lines = cops(address, tmp_path, "logs", sweep).stdout.splitlines()
    assert "trials 7/7" in "\n".join(lines)
    assert [json.loads(line) for line in cops(address, tmp_path, "logs", sweep, "--json").stdout.splitlines()] == lines

    front = cops(address, tmp_path, "frontier", "convnet", "digits")
    assert "sparsity" in front.stdout
    assert "snip" in front.stdout or "magnitude" in front.stdout
    assert json.loads(cops(address, tmp_path, "frontier", "convnet", "digits", "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", "convnet", "digits", "0.42"), "no mask"),
        (("best", "convnet", "digits", "2"), "sparsity"),
        (("fetch", "xyz"), "mask_id"),
        (("fetch", "0" * 32, "-o", "/no/such/folder/mask.cops"), "there is no folder"),
        (("status", "0" * 32), "no sweep with an id that begins with"),
        (("submit", "no-such-file.yaml"), "no file 'no-such-file.yaml'"),
    ],
)
def test_commands_refuse_in_one_line(address: str, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cops(address, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
