"""What a worker does: trial after trial of a batch, each recorded in MLflow. Knows no Ray, which moves its events."""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from cops import InfeasibleError
from jobs.errors import UserError
from jobs.known import FailureKind
from jobs.plan import Trial
from jobs.spec import Spec
from jobs.tracking import Session, SupersededError, Tracker, TrialRun
from jobs.trial import Epoch, Result

STEP_SECONDS = 1.0  # before a worker speaks up: the driver's cost for each time is some 10 ms
LOG_SECONDS = 5.0  # between two requests for the curve of a long trial
LASTING = (ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError, AssertionError)

Event = dict[str, Any]  # of one trial, by its `index` in the batch
Runner = Callable[[Trial], Generator[Epoch, None, Result]]


class Worker:
    """Runs batches of trials, a step at a time, and says what happened.

    An event holds the trial's `index`, the `seconds` that it has taken, and one of: `epoch`, `value` and `run`, where
    epochs decide about stopping; `outcome`, the metrics of its end; `failure`, a line, and its `kind`.

    Args:
        runner: runs a trial, as `jobs.trial.run` does; closed when the trial is stopped early.
    """

    def __init__(self, spec: Spec, session: Session, tracker: Tracker, runner: Runner) -> None:
        self._spec, self._session, self._tracker = spec, session, tracker
        self._runner = runner
        self._todo: deque[tuple[int, Trial]] = deque()
        self._running: _Running | None = None

    def take(self, batch: Sequence[Trial]) -> None:
        """Take another batch; what still runs of the last one has been stopped early, and its run ended."""
        running, self._running = self._running, None
        if running is not None:
            running.steps.close()
            self._tracker.log_epochs(running.run.id, running.epochs)
        self._todo = deque(enumerate(batch))

    @property
    def done(self) -> bool:
        """Whether the batch is."""
        return self._running is None and not self._todo

    def advance(self) -> list[Event]:
        """Go on until there is something worth telling: a while has passed, or the batch is done."""
        events: list[Event] = []
        started = time.monotonic()
        while not self.done and (time.monotonic() - started < STEP_SECONDS or not events):
            events += self._once()
        return events

    def _once(self) -> list[Event]:
        """Run one more epoch, or to the end of a trial."""
        if self._running is None:
            index, trial = self._todo.popleft()
            run = self._tracker.start_trial(self._spec, self._session, trial)
            self._running = _Running(index, trial, run, self._runner(trial))
        now = self._running
        try:
            epoch = next(now.steps)
        except StopIteration as end:
            return [self._finish(now, end.value)]
        except Exception as error:  # whatever a model or a score raises
            return [self._fail(now, error)]
        now.epochs.append(epoch)
        if time.monotonic() - now.logged > LOG_SECONDS:
            self._tracker.log_epochs(now.run.id, now.epochs)
            now.epochs, now.logged = [], time.monotonic()
        if self._spec.stopping.scheduler == "none":
            return []
        told = {"epoch": epoch.number, "value": epoch.validation_accuracy, "run": now.run.id, "seconds": now.seconds}
        return [{"index": now.index, **told}]

    def _finish(self, now: "_Running", result: Result) -> Event:
        accuracy = result.metrics["validation_accuracy"]
        try:
            if accuracy != accuracy:  # noqa: PLR0124  # NaN
                raise ValueError(f"its validation accuracy is {accuracy}")
            self._tracker.finish_trial(self._spec, self._session, now.trial, now.run, result, now.epochs)
        except SupersededError:
            raise
        except Exception as error:  # the tracking server's or the artifact store's
            return self._fail(now, error)
        self._running = None
        return {"index": now.index, "outcome": result.metrics, "seconds": now.seconds}

    def _fail(self, now: "_Running", error: Exception) -> Event:
        self._running = None
        cause = getattr(error, "cause", None)  # of a score or data, which another process computed
        shared = isinstance(cause, Exception)
        cause = cause if isinstance(cause, Exception) else error
        reason, kind = f"{type(cause).__name__}: {cause}", _kind(cause)
        kind = "cell" if shared and kind == "final" else kind
        self._tracker.fail_trial(now.run.id, reason)
        return {"index": now.index, "failure": reason, "kind": kind, "seconds": now.seconds}


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, InfeasibleError):
        return "infeasible"
    return "final" if isinstance(error, (*LASTING, UserError)) else "passing"


class _Running:
    """A trial that runs, and its epochs that MLflow does not know yet."""

    def __init__(self, index: int, trial: Trial, run: TrialRun, steps: Generator[Epoch, None, Result]) -> None:
        self.index, self.trial, self.run, self.steps = index, trial, run, steps
        self.epochs: list[Epoch] = []
        self.started = self.logged = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
