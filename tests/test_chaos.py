"""A short form of `python -m tests.chaos`: real processes, killed at random moments."""

import json
import subprocess
import sys

from tests.conftest import ROOT


def test_nothing_is_lost_or_done_twice_under_fire() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 2
    assert found["finished"] == found["planned"] > 50
    assert not any(found[name] for name in ("twice", "unreadable", "running", "incomplete_studies", "disagreeing"))
    assert found["masks"] > 40
