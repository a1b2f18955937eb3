"""`python -m jobs SWEEP.yaml`: run a sweep, here or as a Ray job."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jobs.errors import UserError
from jobs.local import HOST, check, mlflow_server
from jobs.settings import Settings
from jobs.spec import Spec

if TYPE_CHECKING:
    from jobs.search import Search
    from jobs.tracking import Session, Tracker


def sweep(path: Path) -> int:
    """Run the sweep of a file and print what it found; the exit code as in `main`.

    Raises:
        UserError: bad input; nothing has been started.
    """
    spec, settings = Spec.load(path), Settings.read()
    check(settings)
    if not os.environ.get("RAY_ADDRESS") and spec.resources.cpu > (os.cpu_count() or 1):
        raise UserError(
            f"resources.cpu = {spec.resources.cpu:g}: this machine has {os.cpu_count()}; ask for less, or submit the "
            "sweep to a cluster with `ray job submit`"
        )
    console = Console()
    console.print(f"sweep '{spec.name}': starting")
    # Imported only now: they take seconds, and a mistake in the sweep file should be told at once.
    from jobs import control, report, tracking
    from jobs.search import Search
    from jobs.studies import Studies

    settings.home.mkdir(parents=True, exist_ok=True)
    with control.cancellable(), mlflow_server(settings) as uri:
        tracker = tracking.Tracker(uri)
        studies = Studies(settings.studies_url)
        session = tracker.start_sweep(spec)
        console.print(f"runs and masks: {tracker.page(session)}", soft_wrap=True)
        search = Search(spec, tracker.known(spec), studies)
        if session.resumed or search.counts()["reused"]:
            console.print(f"known already: {search.counts()['reused'] + search.counts()['stopped']} trials")
        try:
            _run(spec, settings, search, session, tracker, console)
        except control.CancelledError:
            search.close("cancelled", "KILLED")
        except BaseException:
            search.close("an error of the sweep itself", "FAILED")
            raise
        finally:
            studies.close()
            tracker.end_sweep(session, search.status)

    found = report.standings(search)
    for table in report.tables(found):
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


def _run(
    spec: Spec, settings: Settings, search: "Search", session: "Session", tracker: "Tracker", console: Console
) -> None:
    """Run what there is left to run."""
    from jobs import control, progress, tune

    if search.finished:
        return
    with tune.connected(spec), control.cancellable(), progress.shown(console) as show:  # Ray sets a handler, too
        computed = tune.fit(search, session, settings, tracker, show)
    console.print(f"score vectors computed: {computed}")
    if not search.finished:  # Tune returns on Ctrl-C
        search.close("interrupted", "KILLED")


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 1 for a sweep with cells that have no result, 2 for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Run a sweep, here or as a Ray job.")
    parser.add_argument("sweep", type=Path, help="sweep file, e.g. jobs/sweeps/demo.yaml")
    try:
        return sweep(parser.parse_args(arguments).sweep)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _next_steps(spec: Spec, settings: Settings) -> str:
    workload, api = spec.workloads[0], f"http://{HOST}:{settings.api_port}"
    query = f"model={workload.model}&data={workload.data}&sparsity={spec.grid.sparsities[-1]!r}"
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
