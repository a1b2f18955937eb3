"""Keeps a catalog in agreement with MLflow, in a thread of its own.

Each reading puts right whatever the catalog has wrong of what it reads; the rarer it is, the more it sees.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

from jobs.tracking import Runs, TrackingError
from service.catalog import Catalog
from service.catalogfile import DamagedError
from service.sync import audit, deletions, news

log = logging.getLogger(__name__)

NEWS_SECONDS = 2.0
LATE_SECONDS = 60.0
LATE_OVERLAP_MS = 600_000  # no worker's clock is later, nor its attempts to say that a run has ended
AUDIT_SECONDS = 3600.0
SHARE = 10  # rare readings take at most one part in so many of the time
LEAST_SECONDS = 0.2  # between two rounds, whoever waits for one
WAIT_SECONDS = 2.0
START_SECONDS = 10.0
STOP_SECONDS = 5.0


@dataclass
class _Reading:
    every: float  # seconds
    read: Callable[[], object]
    share: int = 1  # it pauses for at least so many times as long as it took
    due: float = 0.0  # on the monotonic clock

    def run(self) -> None:
        began = time.monotonic()
        self.read()
        now = time.monotonic()
        self.due = now + max(self.every, self.share * (now - began))


class Syncing:
    """While entered, a thread reads news every two seconds, late ones every minute, all runs at first and every hour.

    While MLflow is down, the catalog stays as it is. Entering waits for the first reading, but not for long.

    Args:
        catalog: to keep; other processes may keep it, too.
        runs: what it should agree with.
    """

    def __init__(self, catalog: Catalog, runs: Runs) -> None:
        self._catalog, self._runs = catalog, runs
        self._news = _Reading(NEWS_SECONDS, partial(news, catalog, runs))
        self._deletions = _Reading(NEWS_SECONDS, partial(deletions, catalog, runs), SHARE)
        self._late = _Reading(LATE_SECONDS, partial(news, catalog, runs, LATE_OVERLAP_MS), SHARE)
        self._audit: Iterator[None] | None = None
        # What is not there yet is about to be made of all runs.
        self._audit_due = time.monotonic() + (AUDIT_SECONDS if catalog.synced is None else 0)
        self._state = threading.Condition()
        self._begun = self._ended = 0  # rounds
        self._asked = self._stopped = False
        self.problem: str | None = None  # why the last round failed
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)

    def fresh(self, seconds: float = WAIT_SECONDS) -> bool:
        """Wait until all that MLflow knows now is in the catalog, for at most `seconds`; whether it is.

        Answers at once while MLflow is down.
        """
        with self._state:
            if self.problem is not None:
                return False
            wanted, self._asked = self._begun + 1, True
            self._state.notify_all()
            self._state.wait_for(lambda: self._ended >= wanted or self.problem or self._stopped, seconds)
            return self._ended >= wanted

    def _run(self) -> None:
        while True:
            with self._state:
                if self._stopped:
                    return
                self._begun += 1
                asked, self._asked = self._asked, False
            problem = self._round(all_news=asked)
            with self._state:
                if problem and not self.problem:
                    log.warning("the catalog stays as it is until MLflow answers: %s", problem)
                self.problem = problem
                if problem is None:
                    self._ended = self._begun
                self._state.notify_all()
                self._state.wait_for(lambda: self._stopped, LEAST_SECONDS)
                self._state.wait_for(lambda: self._stopped or self._asked, NEWS_SECONDS - LEAST_SECONDS)

    def _round(self, *, all_news: bool) -> str | None:
        """One turn of each reading that is due; what went wrong."""
        try:
            for reading in (self._news, self._deletions, self._late):
                if time.monotonic() >= reading.due or (all_news and reading is not self._late):
                    reading.run()
            if self._audit is None and time.monotonic() >= self._audit_due:
                self._audit = audit(self._catalog, self._runs)
            if self._audit is not None and next(self._audit, self) is self:
                self._audit, self._audit_due = None, time.monotonic() + AUDIT_SECONDS
        except (TrackingError, DamagedError, sqlite3.Error, OSError) as error:
            self._audit = None
            return f"{type(error).__name__}: {error}"
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        with self._state:
            self._state.wait_for(lambda: self._ended or self.problem, START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()
        self._thread.join(STOP_SECONDS)
