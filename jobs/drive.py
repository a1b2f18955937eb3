"""One sweep from its file to its table: what `python -m jobs` and a Ray job do."""

import os
import shlex
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jobs.errors import UserError
from jobs.local import HOST, mlflow_server
from jobs.preflight import preflight
from jobs.provenance import provenance
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
    if not os.environ.get("RAY_ADDRESS"):  # a cluster's workers may have more than this process sees
        _fits_here(spec)
    preflight(settings, spec.experiment)
    console = Console()
    console.record = not console.is_terminal  # a job's log goes with its cluster: it is kept with the sweep, too
    console.print(f"sweep '{spec.name}': starting MLflow and Ray")
    # Imported only now: they take seconds, and a mistake in the sweep file should be told at once.
    from jobs import control, progress, tracking, tune
    from jobs.search import Search
    from jobs.storage import Studies

    with tune.connected(spec) as awaited, control.cancellable(), mlflow_server(settings) as uri:
        if awaited:
            console.print(awaited, soft_wrap=True)
        settings.home.mkdir(parents=True, exist_ok=True)
        studies, tracker = Studies(settings.studies_url), tracking.Tracker(uri)
        session = tracker.start_sweep(spec, provenance(path))
        console.print(f"runs and masks: {tracker.page(session)}", soft_wrap=True)
        with _kept(console, tracker, session):
            status: tracking.RunStatus = "FAILED"
            last = None
            try:
                search = Search(spec, tracker.known(spec), studies)
                if search.reused:
                    console.print(f"known already: {search.reused} trials")
                _fit(search, session, settings, tracker, console)
                if search.status != "KILLED":
                    _keep_report(search, tracker, session)
                    console.print(f"report: {tracker.page(session)}/artifacts/report.html", soft_wrap=True)
                    _register(search, tracker, session, console)
                status, last = search.status, progress.summary(search)
            finally:
                tune.disconnect()  # ends what still runs, before MLflow is told that it has ended
                studies.close()
                tracker.end_sweep(session, status, last)
            _tell(console, search)

    console.print(_next_steps(spec, settings), soft_wrap=True)
    if search.closed:
        console.print(f"{search.closed}: {len(search.outcomes)} of {search.planned} trials have ended")
    if search.status == "KILLED":
        console.print("it goes on there" if search.closed == control.TAKEN else "the same command goes on from here")
        return 130
    every = all(cell.winner is not None for cell in search.cells.values())
    return 0 if every and search.status == "FINISHED" else 1


def _fit(search: "Search", session: "Session", settings: Settings, tracker: "Tracker", console: Console) -> None:
    """Run a search to its end, or until it is interrupted, which closes it."""
    from jobs import progress, tune

    try:
        with progress.shown(console) as show:
            computed = tune.fit(search, session, settings, tracker, show)
        console.print(f"score vectors computed: {computed}")
    except KeyboardInterrupt:  # which Ray makes of a CancelledError where it waits
        search.close("cancelled", "KILLED")
    if not search.finished:  # as Ray Tune returns on Ctrl-C
        search.close("interrupted", "KILLED")


def _fits_here(spec: Spec) -> None:
    spec.look()
    if spec.resources.cpu > (os.cpu_count() or 1):
        raise UserError(
            f"resources.cpu = {spec.resources.cpu:g}: this machine has {os.cpu_count()}; ask for less, or submit the "
            "sweep to a cluster with `ray job submit`"
        )


def _tell(console: Console, search: "Search") -> None:
    """Print what a sweep found, and what failed."""
    from jobs import initialisations, report

    found = report.standings(search)
    for table in report.tables(found) + report.fronts(search) + initialisations.tables(found):
        console.print(table)
    console.print(report.legend(found), soft_wrap=True)
    for line in report.failures(search):
        console.print(line, soft_wrap=True, markup=False)


@contextmanager
def _kept(console: Console, tracker: "Tracker", session: "Session") -> Iterator[None]:
    """Keep what was recorded of a console with the sweep's run, however this ends."""
    from jobs.tracking import LOG_FILE

    failure = ""
    try:
        yield
    except Exception:
        failure = traceback.format_exc()
        raise
    finally:
        # Where the server or the store does not answer, or another process has the sweep, there is nothing to keep.
        with suppress(Exception), tempfile.TemporaryDirectory() as folder:
            if console.record and tracker.wish(session.run).session == session.id:
                Path(folder, LOG_FILE).write_text(console.export_text() + failure, encoding="utf-8")
                tracker.log_folder(session, Path(folder))


def _keep_report(search: "Search", tracker: "Tracker", session: "Session") -> None:
    """Draw the sweep's page and keep it with its run, which shows it inline."""
    from jobs import page
    from jobs.identity import trial_key

    winners = {cell: one.winner for cell, one in search.cells.items() if one.winner is not None and cell.target}
    keys = {cell: trial_key(search.spec, winner) for cell, winner in winners.items()}
    densities = {cell: tracker.layer_densities(key) for cell, key in keys.items()}
    with tempfile.TemporaryDirectory() as folder:
        page.write(search, densities, Path(folder))
        tracker.log_folder(session, Path(folder))


def _register(search: "Search", tracker: "Tracker", session: "Session", console: Console) -> None:
    """Keep the trained network of each cell's confirmed winner in the model registry, and say so."""
    from jobs.champions import candidates
    from jobs.tracking.registry import Registry

    for line in Registry(tracker.uri).register(session, candidates(search)):
        console.print(line, soft_wrap=True, markup=False)


def _next_steps(spec: Spec, settings: Settings) -> str:
    workload, api = spec.workloads[0], f"http://{HOST}:{settings.api_port}"
    names = f"{shlex.quote(str(workload.model))} {shlex.quote(str(workload.data))}"
    return "\n".join(
        [
            "To look further:",
            f"  make serve        MLflow UI http://{HOST}:{settings.mlflow_port}, API {api}/docs; beside it:",
            "  . .venv/bin/activate",
            f"  cops best {names} {spec.grid.sparsities[-1]}",
            "  cops fetch ID     with the answer's id; then, in Python: cops.Mask.load('mask.cops').apply(model)",
        ]
    )
