"""No-op trials of four workers against the real stack: HTTP tracking on PostgreSQL, files in S3, studies in PostgreSQL.

The server's own rate beside it, in the same run: as many clients send the same requests and files, without a sweep.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from jobs.settings import Settings
from service.stack.environment import client_environment
from tests.benchmarks.show import Measures, show
from tests.conftest import ROOT
from tests.stack import started

CPU = 0.5  # of a trial: four workers on two cores
TRIALS, QUICK = 500, 100


def stack_measures(folder: Path, *, quick: bool) -> Measures:
    """All measures, on a stack that is started in `folder`."""
    with started(folder / "home") as (settings, environment, _):
        # In a process of its own: Ray reads how to authenticate when it is imported.
        command = [sys.executable, "-m", "tests.benchmarks.stack", "--inside", str(QUICK if quick else TRIALS)]
        env = environment | client_environment(settings)
        done = subprocess.run(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    ours, alone, workers = found["rate"], found["alone"], found["workers"]
    print(f"stack, {workers} workers: {ours:.3g} runs/s; the servers alone take {alone:.3g}/s", file=sys.stderr)
    return {
        f"runs lost of {found['trials']}, real stack": {"value": found["lost"], "target": 0, "better": "less"},
        "runs recorded twice, real stack": {"value": found["twice"], "target": 0, "better": "less"},
        "real stack, runs per second / the servers alone": {
            "value": round(ours / alone, 4),
            "target": 0.8,
            "better": "more",
        },
    }


def inside(trials: int) -> dict[str, float]:
    """The sweep, in the environment of a client of the stack."""
    from jobs import tune
    from jobs.tracking import Tracker
    from tests.benchmarks.sweep import PER_CELL, no_training, run, server_alone, spec_of

    settings = Settings.read()
    uri = str(settings.tracking_uri)
    spec, tracker = spec_of(trials // PER_CELL, PER_CELL, resources={"cpu": CPU}), Tracker(uri)
    session = tracker.start_sweep(spec)
    with tune.connected(spec):
        workers = tune.slots(spec)
        _, watch, _ = run(spec, settings, tracker, session, no_training)
    tracker.end_sweep(session, "FINISHED")
    times = Counter(record.trial for page in tracker.records() for record in page)
    alone = server_alone(uri, session, workers, trials)
    lost, twice = trials - len(times), sum(times.values()) - len(times)
    rates = {"rate": 1 / watch.seconds_per_trial, "alone": alone}
    return rates | {"trials": trials, "workers": workers, "lost": lost, "twice": twice}


def main() -> None:
    """Print the measures as a table, or as JSON."""
    if "--inside" in sys.argv:
        print(json.dumps(inside(int(sys.argv[-1]))))
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory(prefix="cops-") as folder:
        found = stack_measures(Path(folder), quick="--quick" in sys.argv)
    show(found, "COPS on its stack", as_json="--json" in sys.argv)


if __name__ == "__main__":
    main()
