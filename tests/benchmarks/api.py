"""What the API serves, side by side in one run: `python -m tests.benchmarks.api [--json] [--quick]`.

`cops serve` over an MLflow server on a real PostgreSQL with 10,000 real runs' copies; its catalog holds 100,000 masks.
The same two cores carry the load, the API and MLflow: the ratios mean more than the rates.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil

from service.catalog import Catalog
from tests.benchmarks.load import Load, Question
from tests.benchmarks.show import Measures, show
from tests.benchmarks.tracking import CALM, SPARSITIES, copied, fill, note
from tests.conftest import ROOT, new_home

SECONDS = 5.0  # of one load
ROUNDS = 3  # of which the median counts
UNLIMITED = {"COPS_READ_RATE": "100000000/minute"}


@contextmanager
def served(uri: str, folder: Path) -> Iterator[tuple[int, psutil.Process, Path]]:
    """Port and process of `cops serve` over an MLflow server, and its catalog's file."""
    home = new_home(folder / "served")
    env = home.environment | CALM | UNLIMITED | {"MLFLOW_TRACKING_URI": uri}
    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urlopen(f"http://127.0.0.1:{home.api_port}/readyz", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield home.api_port, psutil.Process(server.pid), home.path / "catalog.db"
    finally:
        server.terminate()
        server.wait(60)


def rates(port: int, questions: list[Question], connections: int, seconds: float) -> list[Load]:
    """As often as `ROUNDS` says."""
    return [Load.put(port, questions, connections, seconds) for _ in range(ROUNDS)]


def middle(loads: list[Load]) -> Load:
    """That with the median rate."""
    return sorted(loads, key=lambda one: one.rate)[len(loads) // 2]


def measure(folder: Path, *, quick: bool, soak: float) -> Measures:
    """All measures; `soak` is the minutes over which memory is watched."""
    copies, masks = (1_000, 10_000) if quick else (10_000, 100_000)
    seconds = SECONDS / 5 if quick else SECONDS
    found: Measures = {}
    errors = 0

    def record(name: str, value: float, target: float, better: str) -> None:
        found[name] = {"value": round(value, 4), "target": target, "better": better}

    best: list[Question] = [
        ("/v1/masks/best?" + urlencode({"model": "convnet", "data": "digits", "sparsity": at} | other), "")
        for at in SPARSITIES
        for other in ({}, {"target": "snip"}, {"control": "grasp"}, {"layout": "2:4"}, {"tolerance": 0.05})
    ]
    with copied(folder, copies) as (uri, pattern), served(uri, folder) as (port, process, file):
        with Catalog(file) as catalog:
            fill(catalog, pattern, masks)
        Load.put(port, best, 16, 1.0)  # warms it up
        for connections in (16, 64):
            nothing, ours = [], []
            for _ in range(ROUNDS):  # in turn: what else the machine does then falls on both
                nothing.append(Load.put(port, [("/healthz", "")], connections, seconds))
                ours.append(Load.put(port, best, connections, seconds))
            errors += sum(one.errors for one in nothing + ours)
            one, zero = middle(ours), middle(nothing)
            note(
                f"{connections} connections: best {one.rate:.0f}/s, p50 {one.p50:.1f} ms, p99 {one.p99:.1f} ms; "
                f"healthz {zero.rate:.0f}/s, p99 {zero.p99:.1f} ms"
            )
            ratio = statistics.median(a.rate / b.rate for a, b in zip(ours, nothing, strict=True))
            record(f"best / healthz, requests per second, {connections} connections", ratio, 0.3, "more")
            theirs = middle(
                [Load.put(_port(uri), [_search(at) for at in SPARSITIES], connections, seconds) for _ in range(ROUNDS)]
            )
            errors += theirs.errors
            note(f"MLflow's search: {theirs.rate:.1f}/s, p50 {theirs.p50:.0f} ms, p99 {theirs.p99:.0f} ms")
            record(
                f"best / MLflow's search, requests per second, {connections} connections",
                one.rate / theirs.rate,
                25,
                "more",
            )
        before = process.memory_info().rss
        until, after = time.monotonic() + 60 * soak, before
        while time.monotonic() < until:
            errors += Load.put(port, best, 16, min(60.0, max(1.0, until - time.monotonic()))).errors
            after = process.memory_info().rss
            note(f"memory {after / 1e6:.0f} MB")
        record(f"memory after {soak:g} minutes of load / before", after / before, 1.1, "less")
    record("errors", errors, 0, "less")
    return found


def _port(uri: str) -> int:
    return int(uri.rpartition(":")[2])


def _search(sparsity: str) -> Question:
    """The same question to MLflow: the best confirmed run of a model at a sparsity."""
    terms = ["attributes.status = 'FINISHED'", "tags.`cops.kind` = 'confirmation'"]
    terms += ["params.model = 'convnet'", "params.data = 'digits'", f"params.sparsity = '{sparsity}'"]
    body = {"experiment_ids": ["1"], "filter": " and ".join(terms), "max_results": 1}
    return "/api/2.0/mlflow/runs/search", json.dumps(body | {"order_by": ["metrics.validation_accuracy DESC"]})


def main() -> None:
    """Print the measures as a table, or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.api", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs and masks, short loads")
    parser.add_argument("--soak", type=float, default=10.0, help="minutes over which memory is watched")
    options = parser.parse_args()
    os.environ |= CALM
    with tempfile.TemporaryDirectory(prefix="cops-") as folder:
        found = measure(Path(folder), quick=options.quick, soak=0.2 if options.quick else options.soak)
    show(found, "COPS API", as_json=options.json)


if __name__ == "__main__":
    main()
