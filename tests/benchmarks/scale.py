"""How far one driver goes: `python -m tests.benchmarks.scale [--quick] [--json]`.

Trials are no-ops, as in `tests.benchmarks.sweep`, and no MLflow server is asked. Three tables:

- sweeps of more and more trials on Ray, each in a process of its own: what a trial costs, and the driver's memory;
- more and more simulated GPUs with a trial on each: what an actor takes, and how many this machine would carry;
- the driver alone with the GPUs of 500 nodes, which no machine could simulate as processes: search, batches and keys
  against a clock that jumps from one end of a trial to the next.
"""

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from jobs.feed import Feed
from jobs.limits import Limits
from jobs.search import Search
from tests.benchmarks.sweep import CALM, PER_CELL, SESSION, Files, asleep, fresh, no_training, run, spec_of
from tests.conftest import ROOT

Row = dict[str, float]
GPUS_PER_NODE = 8
TRIAL_SECONDS = 60.0  # of a trial of the driver alone, by its clock: a short one
LIMIT = 10  # actors are started while there would be memory for so many more
SLEEP_SECONDS = 5.0


def sweep(folder: Path, trials: int) -> Row:
    """A sweep of no-op trials on a Ray of two CPUs."""
    from jobs import tune

    spec = spec_of(trials // PER_CELL, PER_CELL)
    settings = fresh(folder, "sweep")
    with tune.connected(spec):
        before = _resident()
        rate, watch, _ = run(spec, settings, Files(str(settings.home / "m")), SESSION, no_training)
        grown = _resident() - before
    each = 1000 * watch.seconds_per_trial
    return {"trials": trials, "trials/s": rate, "ms/trial": each, "driver MB": _peak(), "MB grown": grown}


def gpus(folder: Path, count: int) -> Row:
    """As many simulated GPUs, an actor on each."""
    import ray

    from jobs import tune

    os.environ["COPS_BENCHMARK_SLEEP"] = str(SLEEP_SECONDS)
    spec = spec_of(count, 2, resources={"cpu": 0.01, "gpu": 1}, scoring={"batch_size": 16})
    settings = fresh(folder, "gpus")
    ray.init("local", num_gpus=count, include_dashboard=False, configure_logging=False, log_to_driver=False)
    most: list[float] = []

    def look(search: Search, _: Limits) -> None:
        if search.counts()["running"] == count:
            most.append(max(most[-1] if most else 0.0, _actors()))

    search, started = Search(spec), time.perf_counter()
    tune.fit(search, SESSION, settings, Files(str(settings.home / "m")), look, asleep)
    ray.shutdown()
    outcomes = [outcome for outcome in search.outcomes.values() if outcome is not None]
    begun = {outcome["worker"]: outcome["started"] for outcome in reversed(outcomes)}
    assert len(begun) == count, f"{len(begun)} of {count} GPUs were in use"
    carried = psutil.virtual_memory().available / 1e6 / (most[-1] / count)
    return {
        "GPUs": count,
        "MB/actor": most[-1] / count,
        "s to start all": max(begun.values()) - min(begun.values()),
        "s in all": time.perf_counter() - started,
        "driver MB": _peak(),
        "actors that fit": carried,
    }


def driver(folder: Path, nodes: int, trials: int) -> Row:
    """What the driver computes for a sweep on so many nodes; a worker's step takes no time, a trial a minute."""
    now, slots = 0.0, nodes * GPUS_PER_NODE
    spec, before = spec_of(trials // PER_CELL, PER_CELL), _resident()
    search = Search(spec)
    limits = Limits(spec, {}, slots, lambda: now)
    feed = Feed(search, SESSION, Files(str(folder)), limits, lambda *_: None, lambda: now)
    running: list[tuple[float, int, int]] = []
    number, started = 0, time.process_time()
    while not search.finished:
        while len(running) < slots and (batch := feed.next(str(number))):
            heapq.heappush(running, (now + TRIAL_SECONDS * len(batch), number, len(batch)))
            number += 1
        now, first, size = heapq.heappop(running)
        outcome = {"validation_accuracy": 0.5 + (first * 7919 % 1000) / 2000}
        feed.take(str(first), [{"index": i, "outcome": outcome, "seconds": TRIAL_SECONDS} for i in range(size)])
        feed.over(str(first), lost=False)
    seconds = time.process_time() - started
    return {
        "nodes": nodes,
        "GPUs": slots,
        "trials": trials,
        "ms/trial": 1000 * seconds / trials,
        "trials/s at most": trials / seconds,
        "trials/s asked": slots / TRIAL_SECONDS,
        "MB grown": _resident() - before,
    }


MEASURES: dict[str, Callable[..., Row]] = {"sweep": sweep, "gpus": gpus, "driver": driver}
FULL: dict[str, list[list[int]]] = {
    "sweep": [[1000], [3000], [10_000]],
    "gpus": [[4], [8], [16], [24]],
    "driver": [[50, 1000], [50, 3000], [50, 10_000], [500, 10_000], [500, 30_000]],
}
QUICK: dict[str, list[list[int]]] = {"sweep": [[500], [1000]], "gpus": [[4]], "driver": [[50, 1000], [500, 1000]]}


def apart(name: str, numbers: list[int]) -> Row:
    """A measure in a process of its own, whose memory is then its own."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--measure", name, *map(str, numbers)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | CALM, text=True, stdout=subprocess.PIPE, check=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _actors() -> float:
    """Megabytes of all workers of our Ray, what they share counted once."""
    below = psutil.Process().children(recursive=True)
    return sum(float(one.memory_full_info().pss) for one in below if "ray::" in " ".join(one.cmdline())) / 1e6


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer trials and GPUs")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, *numbers = options.measure
        with tempfile.TemporaryDirectory(prefix="cops-") as folder:
            print(json.dumps(MEASURES[name](Path(folder), *map(int, numbers))))
        return
    found: dict[str, list[Row]] = {}
    for name, rows in (QUICK if options.quick else FULL).items():
        for numbers in rows:
            if name == "gpus" and found.get(name) and found[name][-1]["actors that fit"] < numbers[0] + LIMIT:
                print(f"{numbers[0]} simulated GPUs: left out, there is no memory for them", file=sys.stderr)
                continue
            found.setdefault(name, []).append(apart(name, numbers))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(found))
        return
    for name, rows_ in found.items():
        table = Table(*rows_[0], title=name)
        for row in rows_:
            table.add_row(*(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in row.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
