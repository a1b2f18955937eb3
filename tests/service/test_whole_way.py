"""From a sweep file to an applied mask and its accuracy, by commands and by the client, on the real stack."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from cops import Mask
from cops.network import prunable
from jobs.train import accuracy
from jobs.workloads import build_model, load_data
from service.client import Client
from service.commands.sweeps import OVER
from tests.conftest import ROOT, SMOKE
from tests.service.conftest import Stack

SECONDS = 200


@pytest.fixture(autouse=True)
def own_cache(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")


def cops(*arguments: str) -> str:
    command = [sys.executable, "-m", "service.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_network(path: Path, mask: Mask, test_accuracy: float) -> None:
    """The trained network has the mask's zeros, and is as accurate as the API says."""
    data = load_data("digits")
    model = build_model("convnet", data, seed=0)
    model.load_state_dict(load_file(path))
    assert all(not weight[~mask.kept[name]].any() for name, weight in prunable(model).items())
    assert accuracy(model, data, data.test) == test_accuracy


def test_by_commands(tmp_path: Path) -> None:
    file = tmp_path / "way.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | {"name": "by-commands", "seed": 7}))
    told = cops("submit", str(file), "--follow")
    assert "sweep 'by-commands' is pending" in told
    assert "best COPS mask" in told

    (sweep,) = [one for one in json.loads(cops("status", "--json")) if one["name"] == "by-commands"]
    assert cops("status", sweep["id"][:8], "--watch").splitlines()[-1].startswith("by-commands  finished  7/7")
    assert "best COPS mask" in cops("logs", sweep["id"][:8])

    question = ("convnet", "digits", "0.9", "--target", "snip", "--control", "grasp", "--min-confirmations", "1")
    best = json.loads(cops("best", *question, "--json"))
    assert best["confirmations"] >= 1
    cops("fetch", best["id"], "-o", str(tmp_path / "mask.cops"))
    cops("fetch", best["id"], "--weights", "-o", str(tmp_path / "weights.safetensors"))
    mask = Mask.load(tmp_path / "mask.cops")
    model = mask.apply(build_model("convnet", load_data("digits"), seed=best["seed"]))
    assert all(not weight[~mask.kept[name]].any() for name, weight in prunable(model).items())
    check_network(tmp_path / "weights.safetensors", mask, best["test_accuracy"])


def test_by_the_client() -> None:
    """The same cells under another name: every trial is known already."""
    sweep = yaml.safe_load(SMOKE.read_text()) | {"name": "by-client", "seed": 7}
    with Client() as client:
        now = client.submit(sweep)
        deadline = time.monotonic() + SECONDS
        while now.state not in OVER:
            assert time.monotonic() < deadline, now
            time.sleep(0.5)
            now = client.sweep(now.id)
        assert now.state == "finished"
        assert now.counts["reused"] == now.planned
        assert "best COPS mask" in "\n".join(client.logs(now.id))

        found = client.best("convnet", "digits", 0.9, target="snip", control="grasp", min_confirmations=1)
        model = found.apply(build_model("convnet", load_data("digits"), seed=found.summary.seed))
        zeros = sum(int((weight == 0).sum()) for weight in prunable(model).values())
        assert zeros == sum(weight.numel() for weight in prunable(model).values()) - found.mask.count
        assert found.summary.test_accuracy is not None
        check_network(client.weights_file(found.summary.id), found.mask, found.summary.test_accuracy)
