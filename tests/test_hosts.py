"""A short form of `python -m tests.chaos --hosts`: a cluster on hosts of its own, one of which loses its raylet."""

import json
import subprocess
import sys

import pytest

from tests.chaos.hosts import missing
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    if why := missing():
        pytest.skip(why)
    command = [sys.executable, "-m", "tests.chaos", "--hosts", "--short", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_sweep_survives_that_a_worker_is_killed(found: dict[str, int]) -> None:
    assert (found["faults"], found["needless_starts"]) == (1, 0)
    assert found["finished"] == found["planned"] > 5
    assert not any(found[name] for name in ("twice", "unreadable", "running", "incomplete_studies"))


def test_nobody_gets_in_without_secrets_or_with_wrong_ones(found: dict[str, int]) -> None:
    assert found["doors"] > 10
    assert (found["open_to_strangers"], found["closed_to_us"]) == (0, 0)
