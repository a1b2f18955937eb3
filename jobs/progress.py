"""How far a sweep is: a live bar in a terminal, plain lines in a job's log."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.feed import OnChange
from jobs.limits import Limits
from jobs.report import Standing, best_masks, standings
from jobs.search import Search

LINE_SECONDS = 5.0  # between two lines of a log
LIVE_SECONDS = 0.5  # between two updates of a terminal
MOST_CELLS = 12  # that a line tells of


@contextmanager
def shown(console: Console) -> Iterator[OnChange]:
    """A function that shows where a search stands, each time that it is called."""
    if not console.is_terminal:

        def line(search: Search, limits: Limits) -> None:
            counts = search.counts()
            ended = search.planned - counts["running"] - counts["waiting"]
            now = f"{time.strftime('%H:%M:%S')} trials {ended}/{search.planned}"
            console.print(f"{now} {state(search, limits)}", soft_wrap=True, highlight=False)

        yield _Seldom(line, LINE_SECONDS)
        return
    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=None)

        def update(search: Search, limits: Limits) -> None:
            counts, planned = search.counts(), search.planned
            ended = planned - counts["running"] - counts["waiting"]
            bar.update(task, total=planned, completed=ended, description=state(search, limits))

        yield _Seldom(update, LIVE_SECONDS)


class _Seldom:
    """Calls a function at most so often, and at the end: a large sweep changes hundreds of times per second."""

    def __init__(self, show: OnChange, seconds: float) -> None:
        self._show, self._seconds = show, seconds
        self._last = -seconds

    def __call__(self, search: Search, limits: Limits) -> None:
        now = time.monotonic()
        if now - self._last >= self._seconds or search.finished:
            self._last = now
            self._show(search, limits)


def state(search: Search, limits: Limits) -> str:
    """Counts by state, use of the workers, time to go, each network's best mask by sparsity; `*`: unconfirmed."""
    counts = search.counts()
    parts = [f"{number} {name}" for name, number in counts.items() if number or name == "running"]
    parts.append(f"use {100 * limits.use:.0f}%")
    eta = _eta(counts, limits)
    if eta is not None:
        parts.append(f"ETA {_duration(eta)}")
    best = _bests(standings(search))
    if best:
        several = len(search.spec.workloads) > 1
        figures = (
            f"{f'{one.cell.model} ' if several else ''}@{one.cell.sparsity!r} {one.cell.method} "
            f"{100 * one.validation:.1f}%{'' if one.confirmed else '*'}"
            for one in best[:MOST_CELLS]
        )
        parts.append("best " + ", ".join(figures))
    return " · ".join(parts)


def summary(search: Search, limits: Limits | None = None) -> dict[str, Any]:
    """Where a search stands, as plain values: counts by state, the best of each cell, seconds to go, why it was closed.

    Each network's best COPS mask by sparsity comes first: of a large sweep, only the first cells are kept with its run.
    """
    found, counts = standings(search), search.counts()
    first = [id(one) for one in _bests(found)]
    return {
        "counts": counts,
        "planned": search.planned,
        "cells": len(search.cells),
        "eta_seconds": None if limits is None else _eta(counts, limits),
        "closed": search.closed,
        "best": [
            {
                "name": one.cell.name,
                "model": one.cell.model,
                "data": one.cell.data,
                "sparsity": one.cell.sparsity,
                "validation_accuracy": one.validation,
                "confirmed": one.confirmed,
            }
            for one in sorted(found, key=lambda one: id(one) not in first)
        ],
    }


def _bests(found: Sequence[Standing]) -> list[Standing]:
    """The best COPS mask of each network, data set and sparsity."""
    workloads = dict.fromkeys((one.cell.model, one.cell.data) for one in found)
    groups = ([one for one in found if (one.cell.model, one.cell.data) == workload] for workload in workloads)
    return [one for group in groups for one in best_masks(group).values()]


def _eta(counts: dict[str, int], limits: Limits) -> float | None:
    """Seconds to go; None if nobody knows."""
    left = counts["running"] + counts["waiting"]
    return left * limits.trial_seconds / limits.workers if left and limits.trial_seconds is not None else None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
