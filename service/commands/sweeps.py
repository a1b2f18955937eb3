"""`cops submit | status | logs | stop | cancel | resume`: sweeps in the cluster, by the API."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.errors import UserError
from service.show import Json, percent, print_json, table

if TYPE_CHECKING:
    from service.sweeps import SweepStatus

app = typer.Typer()
Id = Annotated[str, typer.Argument(help="Id of a sweep, or its first digits, as `cops status` lists it.")]
WATCH_SECONDS = 2.0
OVER = ("finished", "failed", "stopped", "lost")
SHOWN = 12  # cells of one sweep


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="Sweep file, e.g. jobs/sweeps/demo.yaml.", show_default=False)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its log until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Start a sweep in the cluster; the same file goes on where it ended. The same as `ray job submit`, by the API."""
    from service.client import Client

    if not file.is_file():
        raise UserError(f"no file '{file}': give the path of a sweep file")
    with Client() as client:
        status = client.submit(file)
        if as_json:
            print_json(status)
            return
        print(f"sweep '{status.name}' is {status.state}: {status.id}")
        if follow:
            for line in client.logs(status.id, follow=True):
                print(line, flush=True)
        else:
            print(f"cops status {status.id[:8]} --watch     cops logs {status.id[:8]} --follow")


@app.command()
def status(
    sweep_id: Annotated[str | None, typer.Argument(help="Id of a sweep, or its first digits; all without.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """How sweeps stand: trials by state, the best so far, the time to go."""
    from service.client import Client

    with Client() as client:
        if sweep_id is None:
            if watch:
                raise UserError("--watch needs the id of a sweep: `cops status` lists them")
            every = client.sweeps()
            if as_json:
                print_json(every)
                return
            columns = ("id", "name", "state", "trials", "best", "time to go")
            Console().print(table(*columns, rows=[_row(one) for one in every]))
            return
        whole = _whole(client.sweeps(), sweep_id)
        now = client.sweep(whole)
        if watch and not as_json:
            _watch(now, lambda: client.sweep(whole))
        elif as_json:
            print_json(now)
        else:
            Console().print(_details(now))


@app.command()
def logs(
    sweep_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the sweep ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON string, for programs.")] = False,
) -> None:
    """What a sweep has printed, while it runs and after."""
    from service.client import Client

    with Client() as client:
        for line in client.logs(_whole(client.sweeps(), sweep_id), follow=follow):
            print(json.dumps(line) if as_json else line, flush=True)


@app.command()
def stop(sweep_id: Id, as_json: Json = False) -> None:
    """Let the running trials of a sweep end, and start no more."""
    _steer(sweep_id, "stop", as_json=as_json)


@app.command()
def cancel(sweep_id: Id, as_json: Json = False) -> None:
    """End a sweep and its running trials."""
    _steer(sweep_id, "cancel", as_json=as_json)


@app.command()
def resume(sweep_id: Id, as_json: Json = False) -> None:
    """Let a sweep go on where it ended."""
    _steer(sweep_id, "resume", as_json=as_json)


def _steer(sweep_id: str, wish: str, *, as_json: bool) -> None:
    from service.client import Client

    with Client() as client:
        whole = _whole(client.sweeps(), sweep_id)
        calls = {"stop": client.stop, "cancel": client.cancel, "resume": client.resume}
        now = calls[wish](whole)
    if as_json:
        print_json(now)
    else:
        print(f"sweep '{now.name}' is {now.state}")


def _whole(every: "list[SweepStatus]", first: str) -> str:
    """The id that begins so."""
    found = [one.id for one in every if one.id.startswith(first)]
    if len(found) != 1:
        what = "no sweep" if not found else f"{len(found)} sweeps"
        raise UserError(f"{what} with an id that begins with '{first}': `cops status` lists them")
    return found[0]


def _watch(now: "SweepStatus", ask: Callable[[], "SweepStatus"]) -> None:
    """Show a sweep until it ends: in place in a terminal, else a line for each change."""
    console, told = Console(), ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            line = "  ".join(_row(now)[1:])
            if live is not None:
                live.update(_details(now), refresh=True)
            elif line != told:
                print(line, flush=True)
            if now.state in OVER:
                return
            told = line
            time.sleep(WATCH_SECONDS)
            now = ask()


def _row(one: "SweepStatus") -> list[str]:
    best = max(one.best, key=lambda cell: cell.validation_accuracy, default=None)
    return [
        one.id[:8],
        one.name,
        one.state,
        _trials(one),
        f"{percent(best.validation_accuracy)}% {best.name}" if best else "",
        "" if one.eta_seconds is None else str(timedelta(seconds=round(one.eta_seconds))),
    ]


def _trials(one: "SweepStatus") -> str:
    ended = sum(one.counts.get(state, 0) for state in ("done", "reused", "stopped", "failed"))
    return f"{ended}/{one.planned}" if one.planned is not None else ""


def _details(one: "SweepStatus") -> Table:
    counts = ", ".join(f"{count} {state}" for state, count in one.counts.items() if count)
    spent = ", ".join(f"{value:.2f} {name.replace('_', ' ')}" for name, value in one.spent.items())
    rows = [
        ["id", one.id],
        ["state", one.state + (f": {one.closed}" if one.closed else "")],
        ["trials", f"{_trials(one)} ({counts})" if counts else ""],
        ["time to go", _row(one)[-1]],
        ["spent", spent],
        ["MLflow", one.page or ""],
        ["job", f"{one.job.id} {one.job.status}" if one.job else ""],
    ]
    rows += [
        [
            f"{cell.name}" if len({cell.model for cell in one.best}) == 1 else f"{cell.model} {cell.name}",
            f"{percent(cell.validation_accuracy)}%" + ("" if cell.confirmed else " *"),
        ]
        for cell in one.best[:SHOWN]
    ]
    if len(one.best) > SHOWN:
        rows.append(["", f"and {len(one.best) - SHOWN} more cells: --json"])
    if any(not cell.confirmed for cell in one.best[:SHOWN]):
        rows.append(["*", "one search run, which flatters"])
    return table(one.name, "", rows=[row for row in rows if row[1]])
