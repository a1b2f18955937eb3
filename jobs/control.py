"""Stop, cancel and resume: said by a tag on the sweep's run, heard by the process that drives it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from jobs.limits import Limits
from jobs.progress import summary
from jobs.search import Search
from jobs.tracking import Session, Sweeps, Tracker

POLL_SECONDS = 3.0
LEARN_SECONDS = 10.0  # between two times that other sweeps' results are asked for
SKEW_SECONDS = 60.0  # that the clock of another sweep's worker may be behind
STOP, CANCEL = "stop", "cancel"
TAKEN = "another process has taken over the sweep"


def stop(tracker: Sweeps, sweep: str) -> None:
    """Let the running trials of a sweep end, and start no more; `sweep` is its MLflow run."""
    tracker.set_control(sweep, STOP)


def cancel(tracker: Sweeps, sweep: str) -> None:
    """End a sweep and its running trials. Either way `python -m jobs` with the same file resumes it."""
    tracker.set_control(sweep, CANCEL)


class CancelledError(KeyboardInterrupt):
    """Someone, or `ray job stop`, wants this process to end at once."""


@contextmanager
def cancellable() -> Iterator[None]:
    """Raise CancelledError in the main thread at SIGTERM, which Python and Ray would take for a sudden end."""

    def cancelled(_number: int, _frame: object) -> None:
        raise CancelledError

    before = signal.signal(signal.SIGTERM, cancelled)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Watch(threading.Thread):
    """Listens, while the main thread runs a sweep, for what is wanted of it, and notes how far it is.

    What other sweeps finish meanwhile need not run here, and is told to the search.
    """

    def __init__(self, limits: Limits, search: Search, session: Session, tracker: Tracker) -> None:
        super().__init__(name="watch", daemon=True)
        self._limits, self._search, self._session, self._tracker = limits, search, session, tracker
        self._over = threading.Event()
        self._progress: dict[str, Any] = summary(search, limits)
        self._learnt = time.time()

    def run(self) -> None:
        """Listen until `__exit__`."""
        while not self._over.wait(POLL_SECONDS):
            try:
                wish = self._tracker.wish(self._session.run)
                if wish.session == self._session.id:
                    self._note()
                    self._learn()
            except Exception:  # noqa: S112  # the server may be back the next time
                continue
            if wish.session != self._session.id:
                self._search.close(TAKEN, "KILLED")
            elif wish.control == STOP:
                self._search.close("stopped", "KILLED")
            if wish.session != self._session.id or wish.control == CANCEL:
                self._search.close("cancelled", "KILLED")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        with suppress(Exception):  # a server that does not answer is told of elsewhere
            if self._tracker.wish(self._session.run).session == self._session.id:
                self._note()

    def _learn(self) -> None:
        now = time.time()
        if now - self._learnt >= LEARN_SECONDS:
            since = int(1000 * (self._learnt - SKEW_SECONDS))
            self._search.learn(self._tracker.known(self._search.spec, since, beside=self._session))
            self._learnt = now

    def _note(self) -> None:
        with suppress(RuntimeError):  # the main thread has just added to what is counted: the last count will do
            self._progress = summary(self._search, self._limits)
        self._tracker.note(self._session, self._progress, self._limits.spent(self._search))
