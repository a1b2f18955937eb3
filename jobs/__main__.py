"""`python -m jobs SWEEP.yaml`: run a sweep, here or as a Ray job."""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlencode

from rich.console import Console

from jobs.errors import UserError
from jobs.explain import explain as explained
from jobs.explain import schema
from jobs.local import HOST, check, mlflow_server
from jobs.settings import Settings
from jobs.smoke import smoke
from jobs.spec import Spec


def sweep(path: Path, *, tiny: bool = False) -> int:
    """Run the sweep of a file, or a tiny one like it, and print what it found; the exit code as in `main`.

    Raises:
        UserError: bad input; nothing has been started.
    """
    spec, settings = Spec.load(path), Settings.read()
    if tiny:
        spec = smoke(spec)
    spec.find()
    check(settings)
    if not os.environ.get("RAY_ADDRESS") and spec.resources.cpu > (os.cpu_count() or 1):
        raise UserError(
            f"resources.cpu = {spec.resources.cpu:g}: this machine has {os.cpu_count()}; ask for less, or submit the "
            "sweep to a cluster with `ray job submit`"
        )
    console = Console()
    console.print(f"sweep '{spec.name}': starting MLflow and Ray")
    # Imported only now: they take seconds, and a mistake in the sweep file should be told at once.
    from jobs import progress, report, tracking, tune

    with tune.connected(spec), mlflow_server(settings) as uri:
        tracker = tracking.Tracker(uri)
        run = tracker.start_sweep(spec)
        console.print(f"runs and masks: {tracker.page(run)}", soft_wrap=True)
        status: tracking.RunStatus = "KILLED"
        try:
            with progress.shown(console) as show:
                search = tune.fit(spec, run, uri, show)
            status = "FINISHED" if search.finished else "KILLED"  # Tune returns on Ctrl-C
        except Exception:
            status = "FAILED"
            raise
        finally:
            tracker.end_sweep(run, status)

    found = report.standings(search)
    for table in report.tables(found):
        console.print(table)
    console.print(report.legend(found), soft_wrap=True)
    for trial, reason in search.failures.items():
        console.print(f"failed: {trial.name}: {reason}", soft_wrap=True, markup=False)
    console.print(_next_steps(spec, settings), soft_wrap=True)
    if not search.finished:
        console.print(f"interrupted: {len(search.outcomes)} of {search.planned} trials have ended")
        return 130
    return 0 if len(found) == len(search.cells) else 1


def dry_run(path: Path) -> int:
    """Print what the sweep of a file would run, and what it would cost.

    Raises:
        UserError: bad input.
    """
    from jobs import estimate

    Console().print(estimate.dry_run(Spec.load(path)))
    return 0


def explain(path: Path | None) -> int:
    """Print a sweep file with every key, its value and what it is; without a file, all defaults.

    Raises:
        UserError: bad input.
    """
    print(explained(Spec.load(path) if path else None), end="")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 1 for a sweep with cells that have no result, 2 for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Run a sweep, here or as a Ray job.")
    parser.add_argument("sweep", type=Path, nargs="?", help="sweep file, e.g. jobs/sweeps/demo.yaml")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print cells, trials, score computations and hours only")
    how.add_argument("--smoke", action="store_true", help="run the whole pipeline, tiny")
    how.add_argument("--explain", action="store_true", help="print every key with its value and what it is")
    how.add_argument("--schema", action="store_true", help="print the JSON schema of a sweep file")
    given = parser.parse_args(arguments)
    if given.sweep is None and not given.explain and not given.schema:
        parser.error("name a sweep file, e.g. jobs/sweeps/demo.yaml")
    try:
        if given.schema:
            print(schema())
            return 0
        if given.explain:
            return explain(given.sweep)
        return dry_run(given.sweep) if given.dry_run else sweep(given.sweep, tiny=given.smoke)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _next_steps(spec: Spec, settings: Settings) -> str:
    workload, api = spec.workloads[0], f"http://{HOST}:{settings.api_port}"
    query = urlencode({"model": workload.model, "data": workload.data, "sparsity": spec.grid.sparsities[-1]})
    return "\n".join(
        [
            "To look further:",
            f"  make serve        MLflow UI http://{HOST}:{settings.mlflow_port}, API {api}/docs",
            f"  curl '{api}/v1/masks/best?{query}'",
            f"  curl -o mask.cops '{api}/v1/masks/ID/file'   with the answer's id; then, in Python:",
            "  cops.Mask.load('mask.cops').apply(model)",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
