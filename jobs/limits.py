"""What a sweep has used up, and whether it may go on."""

import math
import time
from collections.abc import Callable, Mapping

from jobs.search import Search
from jobs.spec import Spec

RECENT = 0.2  # weight of the latest trial in the average: the first ones wait for their scores


class Limits:
    """Counts what a sweep uses up, over all its sessions, and holds it to its budget.

    Args:
        spent: by the earlier sessions.
        workers: how many trials run at once.
        now: the clock, in seconds.
    """

    def __init__(
        self, spec: Spec, spent: Mapping[str, float], workers: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec, self._before, self._now = spec, spent, now
        self.workers = workers
        self._started = now()
        self._busy = 0.0
        self.trial_seconds: float | None = None  # of a trial, on average; None before the first has ended

    def ended(self, seconds: float) -> None:
        """A trial took `seconds` of a worker, whatever came of it."""
        self._busy += seconds
        before = seconds if self.trial_seconds is None else self.trial_seconds
        self.trial_seconds = before + RECENT * (seconds - before)

    def lost(self, seconds: float) -> None:
        """A worker was lost after `seconds` on a trial that did not end; it says nothing of how long trials take."""
        self._busy += seconds

    @property
    def use(self) -> float:
        """Share of the workers' time in this session that trials which have ended took."""
        return self._busy / max(1e-9, self.seconds * self.workers)

    @property
    def seconds(self) -> float:
        """Length of this session."""
        return self._now() - self._started

    def spent(self, search: Search) -> dict[str, float]:
        """What the sweep has used up so far."""
        now = {
            "hours": self.seconds / 3600,
            "gpu_hours": self._busy * self._spec.resources.gpu / 3600,
            "trials": float(search.proposed),
        }
        return {name: self._before.get(name, 0.0) + value for name, value in now.items()}

    def apply(self, search: Search) -> None:
        """End the search where its budget is spent: all of it with the time, else but for confirmations."""
        budget, spent = self._spec.budget, self.spent(search)
        for name in ("hours", "gpu_hours"):
            limit = getattr(budget, name)
            if limit is not None and spent[name] >= limit:
                search.close(f"budget.{name} = {limit:g} is spent", "FINISHED")
        if spent["trials"] >= (budget.trials or math.inf):
            search.end_search()
