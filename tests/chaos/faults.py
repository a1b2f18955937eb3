"""Sweeps on hosts of their own, submitted from one of them, while machines and their network fail.

`python -m tests.chaos --hosts` starts this apart from the machine's own network. After each sweep every planned trial
must have finished exactly once; see `count`. Before, a host without secrets knocks at every door.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from jobs.settings import Settings
from jobs.spec import Spec
from tests.chaos.count import SWEEP, count
from tests.chaos.hosts import slow
from tests.chaos.lab import Lab, lab
from tests.conftest import ROOT

CUT_SECONDS = 60.0
SLOW = {"seconds": 0.2, "loss": 0.05}  # of each direction
SECRET = ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
SWEEP_SECONDS = 900.0  # for a sweep, its faults included
MOST_STARTS = 3  # of a sweep


def cut_worker(lab: Lab) -> None:
    """A worker's cable is out for a minute: Ray takes it for dead meanwhile, and it does not know."""
    worker = lab.hosts["worker1"]
    worker.plug(into="")
    time.sleep(CUT_SECONDS)
    worker.plug(into="bridge")


def cut_store(lab: Lab) -> None:
    """The same of PostgreSQL and MLflow: nobody says that they are away."""
    lab.store.plug(into="")
    time.sleep(CUT_SECONDS)
    lab.store.plug(into="bridge")


def kill_raylet(lab: Lab) -> None:
    """`kill -9` of a worker's raylet, whose container is started again."""
    (raylet,) = lab.processes(lab.hosts["worker2"], "raylet")
    raylet.kill()


def vanish(lab: Lab) -> None:
    """A worker's machine is gone without a word, as a spot machine may be; another one joins."""
    gone, new = ("worker2", "worker3") if "worker3" not in lab.hosts else ("worker3", "worker2")
    lab.hosts.pop(gone).off()
    lab.worker(new)


def kill_head(lab: Lab) -> None:
    """The head's machine is gone, and the sweep's driver with it; a new head knows nothing, and the workers join it."""
    lab.hosts.pop("head").off()
    lab.head()
    lab.ready(2)


Fault = Callable[[Lab], None]
# Of each sweep; None is a sweep over a slow link to S3 from its start to its end.
SWEEPS: dict[str, list[Fault] | None] = {
    "workers": [kill_raylet, cut_worker, vanish],
    "head": [kill_head, cut_store],
    "slow-s3": None,
}
SHORT: dict[str, list[Fault] | None] = {"short": [kill_raylet]}


def run(lab: Lab, name: str, faults: list[Fault], *, short: bool) -> tuple[Spec, int]:
    """Submit a sweep, let the faults happen while it runs, and submit it again where its driver was lost.

    Returns:
        The sweep, and how often it was submitted.
    """
    file = lab.folder / f"{name}.yaml"
    own: dict[str, Any] = {"name": name, "experiment": name, "seed": sorted([*SWEEPS, *SHORT]).index(name)}
    if short:
        own |= {"grid": SWEEP["grid"] | {"sparsities": [0.9]}, "baselines": ["snip"], "search": {"trials": 3}}
        own |= {"confirmations": 0}
    file.write_text(yaml.safe_dump(SWEEP | own | {"failures": {"backoff_seconds": 1}}))
    spec, started, starts = Spec.load(file), time.monotonic(), 1
    job = lab.submit(file)
    for number, fault in enumerate(faults, 1):
        while finished(name) < 4 * number - 2:
            assert job.poll() is None, f"the sweep ended before its faults: see {lab.client.log}"
            assert time.monotonic() < started + SWEEP_SECONDS, f"nothing happens: see {lab.client.log}"
            time.sleep(0.5)
        print(f"{name}: {finished(name)} trials, now {fault.__name__}", file=sys.stderr, flush=True)
        fault(lab)
        if fault is kill_head:  # who waits for the job's log is not told that its server is gone
            job.kill()
            job, starts = lab.submit(file), starts + 1
    while (code := job.wait(SWEEP_SECONDS)) and starts < MOST_STARTS:
        job, starts = lab.submit(file), starts + 1
    assert code == 0, f"the sweep failed: see {lab.client.log}"
    print(f"{name}: ended after {time.monotonic() - started:.0f} s, {starts} starts", file=sys.stderr, flush=True)
    return spec, starts


def finished(experiment: str) -> int:
    """Trials that have finished."""
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    query = "attributes.status = 'FINISHED' and tags.`cops.trial` != ''"
    return 0 if found is None else len(client.search_runs([found.experiment_id], query))


def knock(lab: Lab, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the doors say to the client host when it has these secrets."""
    every = lab.secrets("head")
    known = {name: every[name] for name in ("PATH", "HOME")} | {"PYTHONPATH": str(ROOT)}
    done = lab.client.run(sys.executable, "-m", "tests.chaos.doors", environment=known | dict(secrets), timeout=300)
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


def doors(lab: Lab) -> dict[str, int]:
    """How many doors there are, how many are open without secrets or with wrong ones, and how many closed with ours."""
    every = lab.secrets("head")
    ours = {name: every[name] for name in (*SECRET, "RAY_AUTH_MODE", "MLFLOW_TRACKING_USERNAME", "AWS_ACCESS_KEY_ID")}
    wrong = ours | dict.fromkeys(SECRET, "0" * 32)
    said = {"none": knock(lab, {}), "wrong": knock(lab, wrong), "ours": knock(lab, ours)}
    print(json.dumps(said, indent=1), file=sys.stderr, flush=True)
    strangers = [answer for which in ("none", "wrong") for answer in said[which].values()]
    closed = [answer for answer in said["ours"].values() if answer != "open"]
    return {"doors": len(said["ours"]), "open_to_strangers": strangers.count("open"), "closed_to_us": len(closed)}


def main() -> int:
    """Print what came of it, as JSON."""
    short = "short" in sys.argv
    sweeps = SHORT if short else SWEEPS
    folder = Path(tempfile.mkdtemp(prefix="cops-", dir="/tmp"))  # which hosts share, unlike /var/tmp
    folder.chmod(0o755)  # PostgreSQL's user needs to go there
    faults, starts, heads, specs = 0, 0, 0, list[Spec]()
    try:
        with lab(folder) as built:
            found = doors(built)
            for name, these in sweeps.items():
                with slow(built.s3, **SLOW) if these is None else nullcontext():
                    spec, started = run(built, name, these or [], short=short)
                specs.append(spec)
                starts += started
                faults += len(these or [slow])
                heads += kill_head in (these or [])
            counted = count(Settings.read(), built.secrets("head")["MLFLOW_TRACKING_URI"], specs)
    except BaseException as error:
        print(f"what is left is in {folder}", file=sys.stderr)
        if isinstance(error, subprocess.CalledProcessError):
            print(error.stderr, file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    needless = starts - len(sweeps) - heads  # nobody but the head takes the driver along
    print(json.dumps({"faults": faults, "starts": starts, "needless_starts": needless} | found | counted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
