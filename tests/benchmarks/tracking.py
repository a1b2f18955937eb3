"""What keeping and asking costs, side by side in one run: `python -m tests.benchmarks.tracking [--json] [--quick]`.

A smoke sweep really runs, against an MLflow server on a real PostgreSQL. Its runs are copied there in bulk, under other
names, sparsities and accuracies; then MLflow's search API, over HTTP, and the catalog are asked the same question.
"""

import argparse
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg2
from mlflow import MlflowClient

from jobs.tracking import Record, Runs
from service import facts
from service.catalog import Catalog, Wanted
from service.sync import news
from tests.benchmarks.show import Measures, show
from tests.benchmarks.stack import stack_measures
from tests.conftest import ROOT, SMOKE, free_port, new_home
from tests.postgres import Postgres

CALM = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
SPARSITIES = ("0.8", "0.85", "0.9", "0.95", "0.98")
QUESTIONS = 2000
SEARCHES = 10  # of each sparsity
BATCH = 2000
# What the copy number `n` of a run has in place of the original's; the rest is as it was.
COPIED: dict[str, dict[str, str]] = {
    "runs": {name: f"{name} - 1000 * n" for name in ("start_time", "end_time")},
    "tags": {"value": "CASE WHEN key IN ('cops.mask', 'cops.trial') THEN md5(value || n) ELSE value END"},
    "params": {"value": f"CASE WHEN key = 'sparsity' THEN (ARRAY{list(SPARSITIES)})[1 + n %% 5] ELSE value END"},
    "latest_metrics": {
        "value": "CASE WHEN key = 'validation_accuracy' "
        "THEN value * (('x' || substr(md5(n::text), 1, 6))::bit(24)::int / 16777216.0) ELSE value END"
    },
}
COPIED["metrics"] = COPIED["latest_metrics"]


@contextmanager
def mlflow_on(database: str, folder: Path) -> Iterator[str]:
    """An MLflow server on a database."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    command += ["--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri()]
    env = os.environ | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def copy_runs(database: str, runs: list[str], times: int) -> None:
    """Copy runs in MLflow's database; copy n of two runs with one mask has one mask."""
    with (
        closing(psycopg2.connect(database.replace("+psycopg2", ""))) as connection,
        connection,
        connection.cursor() as at,
    ):
        for table, changed in COPIED.items():
            at.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", (table,))
            columns = [name for (name,) in at.fetchall()]
            changes = {"run_uuid": "md5(run_uuid || n)"} | changed
            values = ", ".join(changes.get(name, name) for name in columns)
            at.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "
                f"SELECT {values} FROM {table}, generate_series(1, %s) AS n WHERE run_uuid = ANY(%s)",
                (times, runs),
            )
        at.execute("ANALYZE")


def fill(catalog: Catalog, pattern: list[Record], masks: int) -> None:
    """Take in copies of one mask's runs under other names, sparsities, seeds, targets, layouts and accuracies."""
    draw = random.Random(0)
    for first in range(0, masks, BATCH):
        records = []
        for _ in range(min(BATCH, masks - first)):
            mask, target = secrets.token_hex(16), draw.choice(["snip", "synflow", "snip+synflow"])
            params = {
                "sparsity": draw.choice(SPARSITIES),
                "seed": str(draw.randrange(5)),
                "target": target,
                **{f"weight_{name}": "0.5" for name in target.split("+")},
                "layout": draw.choice(["unstructured", "2:4"]),
            }
            for record in pattern:
                metrics = record.metrics | {"validation_accuracy": draw.random(), "test_accuracy": draw.random()}
                run, trial = secrets.token_hex(16), secrets.token_hex(16)
                given = record.params | params
                records.append(replace(record, run=run, trial=trial, mask=mask, params=given, metrics=metrics))
        with catalog.file.writing() as connection:
            facts.add(connection, records)


def questions() -> list[Wanted]:
    """Those that the API is asked: of a sparsity, some with a tolerance, of one target, control, layout or seed."""
    draw, found = random.Random(0), []
    others: list[Callable[[Wanted], Wanted]] = [
        lambda wanted: wanted,
        lambda wanted: replace(wanted, sparsity=draw.uniform(0.5, 0.95), tolerance=0.1),
        lambda wanted: replace(wanted, target=draw.choice(["snip", "snip+synflow"]), layout="2:4"),
        lambda wanted: replace(wanted, control="grasp", seed=draw.randrange(5), metric="test_accuracy"),
        lambda wanted: replace(wanted, control="force"),  # there is none: all are looked at
    ]
    for number in range(QUESTIONS):
        wanted = Wanted("convnet", "digits", float(draw.choice(SPARSITIES)))
        found.append(others[number % len(others)](wanted))
    return found


def seconds(ask: Callable[..., object], *arguments: object) -> float:
    """What a question takes."""
    began = time.perf_counter()
    ask(*arguments)
    return time.perf_counter() - began


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def copied(folder: Path, copies: int) -> Iterator[tuple[str, list[Record]]]:
    """An MLflow server on PostgreSQL with so many copied runs, and the runs of a real mask that they are copies of."""
    with Postgres() as postgres, mlflow_on(postgres.url, folder) as uri:
        home = new_home(folder / "home")
        sweep = [sys.executable, "-m", "jobs", str(SMOKE)]
        env = home.environment | {"MLFLOW_TRACKING_URI": uri}
        subprocess.run(sweep, env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        real = [one for page in Runs(uri).records() for one in page]
        confirmed = next(one for one in real if one.kind == "confirmation" and one.params["controls"])
        pattern = [one for one in real if one.mask == confirmed.mask]
        copy_runs(postgres.url, [one.run for one in pattern], copies // len(pattern))
        yield uri, pattern


def catalog_measures(folder: Path, *, quick: bool) -> Measures:
    """The catalog's measures; `quick` with a tenth of the runs and masks."""
    copies, masks = (1_000, 10_000) if quick else (10_000, 100_000)
    with copied(folder, copies) as (uri, pattern):
        faster = _against_mlflow(uri, folder / "same.db")
    slowest = _many(folder / "many.db", pattern, masks)
    return {
        f"best of {copies} runs: MLflow's search on PostgreSQL / the catalog": _measure(faster, 25, "more"),
        f"p99 of best among {masks} masks, ms": _measure(slowest, 10, "less"),
    }


def _measure(value: float, target: float, better: str) -> dict[str, Any]:
    return {"value": round(value, 4), "target": target, "better": better}


def _against_mlflow(uri: str, file: Path) -> float:
    """What MLflow's search takes, over what the catalog takes: medians of the same questions over the same runs."""
    client, runs = MlflowClient(uri), Runs(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    with Catalog(file) as catalog:
        took = seconds(news, catalog, runs)
        with catalog.file.reading() as connection:
            count = len(facts.runs(connection))
        note(f"the catalog is made of {count} runs in {took:.1f} s: {count / took:.0f} runs/s")
        note(f"no news are read in {1000 * seconds(news, catalog, runs):.0f} ms")

        def search(sparsity: str) -> str:
            terms = ["attributes.status = 'FINISHED'", "tags.`cops.kind` = 'confirmation'"]
            terms += ["params.model = 'convnet'", "params.data = 'digits'", f"params.sparsity = '{sparsity}'"]
            order = ["metrics.validation_accuracy DESC"]
            (found,) = client.search_runs(experiments, " and ".join(terms), max_results=1, order_by=order)
            return str(found.data.tags["cops.mask"])

        def best(sparsity: str) -> str:
            mask = catalog.best(Wanted("convnet", "digits", float(sparsity)))
            assert mask is not None
            return mask.id

        for sparsity in SPARSITIES:
            assert search(sparsity) == best(sparsity)
        asked = SPARSITIES * SEARCHES
        theirs = statistics.median([seconds(search, sparsity) for sparsity in asked])
        ours = statistics.median([seconds(best, sparsity) for sparsity in asked])
    note(f"best of {count} runs: MLflow's search {1000 * theirs:.3g} ms, the catalog {1000 * ours:.3g} ms")
    return theirs / ours


def _many(file: Path, pattern: list[Record], masks: int) -> float:
    """The 99th percentile of what `best` takes, in milliseconds."""
    with Catalog(file) as catalog:
        took = seconds(fill, catalog, pattern, masks)
        note(f"{masks} masks taken in, {len(pattern) * masks / took:.0f} runs/s; {file.stat().st_size / 1e6:.0f} MB")
        times = sorted(1000 * seconds(catalog.best, wanted) for wanted in questions())
        note(f"best: median {statistics.median(times):.3g} ms, slowest {times[-1]:.3g} ms")
        here = Wanted("convnet", "digits")
        _, cursor = catalog.page_json(here, limit=1000)
        others: dict[str, tuple[Any, ...]] = {
            "the frontier": (catalog.frontier, here),
            "a page of 100": (catalog.page_json, here),
            "the second page of 1000": (catalog.page_json, here, "-validation_accuracy", cursor, 1000),
            "a page for which all masks are looked at": (catalog.page_json, replace(here, control="force")),
            "names": (catalog.names,),
        }
        for name, question in others.items():
            note(f"{name}: {1000 * seconds(*question):.3g} ms")
    return times[round(0.99 * len(times)) - 1]


def main() -> None:
    """Print the measures as a table, or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tracking", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs and masks")
    parser.add_argument("--skip-stack", action="store_true", help="only the catalog")
    options = parser.parse_args()
    os.environ |= CALM
    with tempfile.TemporaryDirectory(prefix="cops-") as folder:
        found = catalog_measures(Path(folder), quick=options.quick)
        if not options.skip_stack:
            found |= stack_measures(Path(folder), quick=options.quick)
    show(found, "COPS tracking", as_json=options.json)


if __name__ == "__main__":
    main()
