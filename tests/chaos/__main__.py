"""Sweeps of short trials on a three-node cluster, under fire: kill -9 of the driver, of a worker, of a whole node.

Whenever the driver is gone, the same command goes on. At the end every planned trial must have finished exactly once,
with a readable mask and a complete study, and no run may be left running. A catalog that was kept all the while must
agree with MLflow.
"""

import argparse
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from cops import Mask
from jobs.identity import study_key
from jobs.local import mlflow_server
from jobs.plan import cells
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.tracking import Runs
from service.catalog import Catalog
from service.sync import differences
from service.syncing import Syncing
from tests.conftest import ROOT, Home, new_home

if TYPE_CHECKING:
    from tests.chaos.cluster import Nodes

LONGEST = 15.0  # seconds between two kills
SWEEP_SECONDS = 900.0
SWEEP: dict[str, Any] = {
    "workloads": [{"model": "convnet", "data": "digits"}],
    "grid": {
        "pairs": [{"target": "snip", "controls": ["grasp"]}, {"target": ["snip", "synflow"], "controls": ["grasp"]}],
        "sparsities": [0.8, 0.9, 0.95],
    },
    "baselines": ["dense", "random", "snip"],
    "search": {"trials": 12},
    "training": {"epochs": 1},
    "samples": 256,
    "confirmations": 2,
    "failures": {"retries": 1000, "backoff_seconds": 0},
}


def attack(home: Home, nodes: "Nodes", file: Path, kills: int, draw: random.Random) -> int:
    """Run the sweep of a file to its end, killing what it runs on meanwhile at most `kills` times; how often it did."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray would look for the head at another address
    env = os.environ | {"RAY_ADDRESS": nodes.address, "PYTHONPATH": str(ROOT)} | loopback
    command = [sys.executable, "-m", "jobs", str(file)]
    log = file.with_suffix(".log").open("ab")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)

    done, driver, deadline = 0, start(), time.monotonic() + SWEEP_SECONDS
    try:
        while True:
            wait = draw.uniform(0, LONGEST) if done < kills else SWEEP_SECONDS
            try:
                code = driver.wait(wait)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline + kills * LONGEST:
                    raise TimeoutError(f"the sweep does not end: see {log.name}") from None
            else:
                if code == 0:
                    return done
                raise RuntimeError(f"the sweep ended with exit code {code}: see {log.name}")
            match draw.choice(["driver", "worker", "node"]):
                case "driver":
                    driver.kill()
                    driver.wait()
                    driver = start()
                case "worker":
                    if not nodes.kill_worker(draw, str(home.path)):
                        continue
                case "node":
                    nodes.kill_node(draw)
            done += 1
    finally:
        driver.kill()
        driver.wait()
        log.close()


def count(settings: Settings, uri: str, specs: list[Spec]) -> dict[str, int]:
    """What is left of the sweeps: how many trials there should be, and how many are as they should."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = []
    token = ""
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    finished = [run for run in runs if run.info.status == "FINISHED" and "cops.trial" in run.data.tags]
    times = Counter(run.data.tags["cops.trial"] for run in finished)
    unreadable = 0
    with tempfile.TemporaryDirectory() as folder:
        for run in finished:
            if run.data.tags["cops.kind"] == "search" and "cops.mask" in run.data.tags:
                try:
                    Mask.load(Path(client.download_artifacts(run.info.run_id, "mask.cops", folder)))
                except Exception:
                    unreadable += 1
    return {
        "planned": sum(Search(spec).planned for spec in specs),
        "finished": len(times),
        "twice": sum(times.values()) - len(times),
        "unreadable": unreadable,
        "running": sum(run.info.status == "RUNNING" for run in runs),
        "incomplete_studies": sum(_incomplete(settings, spec) for spec in specs),
    }


def _incomplete(settings: Settings, spec: Spec) -> int:
    found = 0
    for cell in cells(spec):
        study = optuna.load_study(study_name=study_key(spec, cell), storage=settings.studies_url)
        states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
        keys = {trial.user_attrs["cops.trial"] for trial in study.get_trials(deepcopy=False)}
        wanted = spec.search.trials if cell.tunable else 1
        found += not (states["COMPLETE"] >= wanted == len(keys)) or states["RUNNING"] > 0
    return found


def chaos(kills: int, seed: int) -> dict[str, int]:
    """Run sweeps until `kills` kills are done and the last sweep has ended; see `count`."""
    draw, done, specs = random.Random(seed), 0, list[Spec]()
    folder = Path(tempfile.mkdtemp(prefix="cops-"))
    home = new_home(folder / "home")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ |= home.environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings = Settings.read()
    from tests.chaos.cluster import Nodes  # Ray reads how to authenticate when it is imported

    try:
        with (
            Nodes(folder) as nodes,
            mlflow_server(settings) as uri,
            Catalog(settings.catalog_file) as catalog,
            Syncing(catalog, Runs(uri)) as syncing,
        ):
            os.environ.pop("RAY_ADDRESS", None)
            while not specs or done < kills:
                file = folder / f"sweep{len(specs)}.yaml"
                file.write_text(yaml.safe_dump(SWEEP | {"name": file.stem, "seed": len(specs)}))
                specs.append(Spec.load(file))
                done += attack(home, nodes, file, kills - done, draw)
                print(f"{file.stem} ended, {done} of {kills} kills", file=sys.stderr, flush=True)
            syncing.fresh(60)
            disagreeing = len(differences(catalog, Runs(uri)))
            found = {"kills": done, "masks": catalog.count(), "disagreeing": disagreeing}
            found |= count(settings, uri, specs)
    except BaseException:
        print(f"what is left is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return found


def right(found: dict[str, int]) -> bool:
    """Whether nothing is lost, and nothing done twice."""
    wrong = ("twice", "unreadable", "running", "incomplete_studies", "disagreeing")
    return found["planned"] == found["finished"] and not any(found[name] for name in wrong)


def main() -> int:
    """Print what came of it; exit code 1 if anything is lost or was done twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = chaos(options.kills, options.seed)
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if right(found) else 1


if __name__ == "__main__":
    sys.exit(main())
