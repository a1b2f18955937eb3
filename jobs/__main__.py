"""`python -m jobs SWEEP.yaml`: run a sweep, here or as a Ray job."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from rich.console import Console

from jobs.errors import UserError
from jobs.explain import explain as explained
from jobs.explain import schema
from jobs.local import HOST, mlflow_server
from jobs.preflight import preflight
from jobs.settings import Settings
from jobs.smoke import smoke
from jobs.spec import Spec

if TYPE_CHECKING:
    from jobs.search import Search
    from jobs.tracking import Session, Tracker


def sweep(path: Path, *, tiny: bool = False) -> int:
    """Run the sweep of a file, or a tiny one like it, and print what it found; the exit code as in `main`.

    Raises:
        UserError: bad input; nothing has been started.
    """
    spec, settings = Spec.load(path), Settings.read()
    if tiny:
        spec = smoke(spec)
    spec.find()
    preflight(settings, spec.experiment)
    if not os.environ.get("RAY_ADDRESS"):  # a cluster's workers may have more than this process sees
        _fits_here(spec)
    console = Console()
    console.print(f"sweep '{spec.name}': starting MLflow and Ray")
    # Imported only now: they take seconds, and a mistake in the sweep file should be told at once.
    from jobs import control, initialisations, progress, report, tracking, tune
    from jobs.search import Search
    from jobs.storage import Studies

    with tune.connected(spec), control.cancellable(), mlflow_server(settings) as uri:
        settings.home.mkdir(parents=True, exist_ok=True)
        studies, tracker = Studies(settings.studies_url), tracking.Tracker(uri)
        session = tracker.start_sweep(spec)
        console.print(f"runs and masks: {tracker.page(session)}", soft_wrap=True)
        status: tracking.RunStatus = "FAILED"
        try:
            search = Search(spec, tracker.known(spec), studies)
            if search.reused:
                console.print(f"known already: {search.reused} trials")
            try:
                with progress.shown(console) as show:
                    computed = tune.fit(search, session, settings, tracker, show)
                console.print(f"score vectors computed: {computed}")
            except KeyboardInterrupt:  # which Ray makes of a CancelledError where it waits
                search.close("cancelled", "KILLED")
            if not search.finished:  # as Ray Tune returns on Ctrl-C
                search.close("interrupted", "KILLED")
            if search.status != "KILLED":
                _keep_report(search, tracker, session)
                console.print(f"report: {tracker.page(session)}/artifacts/report.html", soft_wrap=True)
            status = search.status
        finally:
            tune.disconnect()  # ends what still runs, before MLflow is told that it has ended
            studies.close()
            tracker.end_sweep(session, status)

    found = report.standings(search)
    for table in report.tables(found) + report.fronts(search) + initialisations.tables(found):
        console.print(table)
    console.print(report.legend(found), soft_wrap=True)
    for line in report.failures(search):
        console.print(line, soft_wrap=True, markup=False)
    console.print(_next_steps(spec, settings), soft_wrap=True)
    if search.closed:
        console.print(f"{search.closed}: {len(search.outcomes)} of {search.planned} trials have ended")
    if search.status == "KILLED":
        console.print("the same command goes on from here")
        return 130
    return 0 if len(found) == len(search.cells) and search.status == "FINISHED" else 1


def _fits_here(spec: Spec) -> None:
    spec.look()
    if spec.resources.cpu > (os.cpu_count() or 1):
        raise UserError(
            f"resources.cpu = {spec.resources.cpu:g}: this machine has {os.cpu_count()}; ask for less, or submit the "
            "sweep to a cluster with `ray job submit`"
        )


def _keep_report(search: "Search", tracker: "Tracker", session: "Session") -> None:
    """Draw the sweep's page and keep it with its run, which shows it inline."""
    from jobs import page
    from jobs.identity import trial_key

    winners = {cell: one.winner for cell, one in search.cells.items() if one.winner is not None and cell.target}
    keys = {cell: trial_key(search.spec, winner) for cell, winner in winners.items()}
    densities = {cell: tracker.layer_densities(session, key) for cell, key in keys.items()}
    with tempfile.TemporaryDirectory() as folder:
        page.write(search, densities, Path(folder))
        tracker.log_folder(session, Path(folder))


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
