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
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jobs.local import mlflow_server
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.tracking import Runs
from service.catalog import Catalog
from service.sync import differences
from service.syncing import Syncing
from tests.chaos.count import SWEEP, count, right
from tests.chaos.hosts import apart, missing
from tests.conftest import ROOT, Home, new_home

if TYPE_CHECKING:
    from tests.chaos.cluster import Nodes

LONGEST = 15.0  # seconds between two kills
SWEEP_SECONDS = 900.0


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


def main() -> int:
    """Print what came of it; exit code 1 if anything is lost or was done twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when")
    parser.add_argument("--servers", action="store_true", help="kill PostgreSQL, S3 and MLflow of a stack instead")
    parser.add_argument("--seconds", type=float, default=30.0, help="for which each server is kept down")
    parser.add_argument("--hosts", action="store_true", help="cut and kill hosts in network namespaces; takes root")
    parser.add_argument("--short", action="store_true", help="of --hosts: one fault")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.hosts:
        if why := missing():
            parser.error(why)
        found = apart("tests.chaos.faults", *["short"] * options.short)
    elif options.servers:
        from tests.chaos.servers import own_stack  # its clients are not needed for the rest

        found = own_stack(options.seconds)
    else:
        found = chaos(options.kills, options.seed)
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if right(found) else 1


if __name__ == "__main__":
    sys.exit(main())
