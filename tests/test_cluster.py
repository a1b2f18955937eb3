"""What may go wrong with a Ray cluster: real nodes, a real token, real sweeps."""

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chaos.cluster import Nodes
from tests.conftest import ROOT, SMOKE, Home, new_home

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray would look for the head at another address


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="cops-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def start(home: Home, file: Path, address: str, **extra: str) -> subprocess.Popen[str]:
    environment = home.environment | {"RAY_ADDRESS": address, **LOOPBACK} | extra
    command = [sys.executable, "-m", "jobs", str(file)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1)


def test_what_was_lost_with_a_node_is_made_again_though_no_cpu_is_free(folder: Path) -> None:
    """The trial of the only worker needs data and scores that went with the worker before it."""
    home, file = new_home(folder / "home"), folder / "lost.yaml"
    tree = yaml.safe_load(SMOKE.read_text()) | {"name": "lost", "training": {"epochs": 8}}
    file.write_text(yaml.safe_dump(tree))
    with Nodes(folder, head=0, workers=1) as nodes:
        driver = start(home, file, nodes.address)
        assert driver.stdout is not None
        try:
            while " 0 done" in (line := driver.stdout.readline()) or " done" not in line:
                assert driver.poll() is None, driver.communicate()
            nodes.kill_node(random.Random(0))
            said, wrong = driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert driver.returncode == 0, said + wrong
    assert "trials 7/7" in said
