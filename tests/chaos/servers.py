"""A sweep on the real stack, in the middle of which each server that keeps something is killed and stays away."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import yaml

from jobs.settings import Settings
from jobs.spec import Spec
from service.stack.environment import client_environment
from service.stack.settings import StackSettings
from tests.chaos.count import SWEEP, count
from tests.conftest import ROOT
from tests.stack import outage, started

SERVERS = ("postgres", "s3", "mlflow")
BETWEEN_SECONDS = 4.0  # two outages
MOST_STARTS = 5  # of the driver


def outages(stack: StackSettings, folder: Path, seconds: float, trials: int) -> dict[str, int]:
    """Run a sweep through an outage of each server; see `count`. `starts` says how often the driver was started.

    The environment must be that of a client of the stack.
    """
    file = folder / "outages.yaml"
    # With the retries of any sweep: that a trial waits for a server is what is shown.
    own = {"name": "outages", "experiment": "outages", "search": {"trials": trials}, "failures": {}}
    file.write_text(yaml.safe_dump(SWEEP | own))
    log = (folder / "outages.log").open("ab")
    command, starts, kills = [sys.executable, "-m", "jobs", str(file)], 1, 0
    driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        while b"runs and masks" not in Path(log.name).read_bytes():
            assert driver.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
        for name in SERVERS:
            time.sleep(2 * BETWEEN_SECONDS if not kills else BETWEEN_SECONDS)
            kills += driver.poll() is None
            outage(stack, name, seconds)
        while driver.wait(600) and starts < MOST_STARTS:
            driver, starts = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log), starts + 1
        assert driver.returncode == 0, Path(log.name).read_text()
    finally:
        driver.kill()
        driver.wait()
        log.close()
    return {"kills": kills, "starts": starts} | count(Settings.read(), stack.mlflow_url, [Spec.load(file)])


def own_stack(seconds: float) -> dict[str, int]:
    """The same on a stack of its own."""
    folder = Path(tempfile.mkdtemp(prefix="cops-"))
    with started(folder / "home") as (settings, environment, _):
        own = environment | client_environment(settings)
        with patch.dict(os.environ, own, clear=True):
            found = outages(settings, folder, seconds, trials=20)
    shutil.rmtree(folder, ignore_errors=True)
    return found
