"""How far a sweep is: a live bar in a terminal, plain lines in a job's log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jobs.report import best_masks, standings
from jobs.search import Search
from jobs.tune import OnChange

LINE_SECONDS = 5


@contextmanager
def shown(console: Console) -> Iterator[OnChange]:
    """A function that shows where a search stands, each time that it is called."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    bar = Progress(
        TextColumn("trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=None)

        def update(search: Search) -> None:
            bar.update(task, total=search.planned, completed=len(search.outcomes), description=_state(search))

        yield update


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def __call__(self, search: Search) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or search.finished:
            self._last = now
            done = f"{time.strftime('%H:%M:%S')} trials {len(search.outcomes)}/{search.planned}"
            self._console.print(f"{done} {_state(search)}", soft_wrap=True)


def _state(search: Search) -> str:
    running = sum(len(cell.running) for cell in search.cells.values())
    parts = [f"{running} running"]
    if search.failures:
        parts.append(f"{len(search.failures)} failed")
    best = best_masks(standings(search))
    if best:
        figures = (
            f"@{sparsity!r} {100 * one.validation:.1f}%{'' if one.confirmed else '*'}" for sparsity, one in best.items()
        )
        parts.append("best " + " ".join(figures))
    return " · ".join(parts)
