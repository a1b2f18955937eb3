"""What to run next: each cell's search trials, then confirmation of its winner. Knows neither Ray nor Optuna.

A single study over everything would drift to the least sparse cell, where accuracy is best: each cell has its own.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.identity import trial_key
from jobs.known import FailureKind, Known, KnownTrials, Outcome, by_study, searched
from jobs.plan import Cell, Trial, ablations, cells, confirmations
from jobs.spec import Spec
from jobs.storage import Studies
from jobs.studies import CellStudy

if TYPE_CHECKING:
    import optuna

Status = Literal["FINISHED", "FAILED", "KILLED"]  # as MLflow calls them
ENOUGH = 10  # trials that must have ended before a failure rate says anything


@dataclass(frozen=True)
class Failure:
    """Why a trial failed, and whether another try may help.

    A `passing` error may not come again, and a `lost` worker may not be lost again; what was `preempted` was not the
    trial's fault. An `infeasible` trial asks for levels that no mask reaches together: nothing is wrong with the sweep.
    What no trial of its `cell` can do without, a score or the data, cannot be had: the others would fail alike.
    """

    reason: str
    kind: FailureKind = "final"


class CellSearch:
    """Proposes the trials of one cell and keeps how they ended.

    Search trials come first, as many as the budget says and no two alike; when the last of them has ended, the one with
    the best validation accuracy is confirmed with fresh training seeds. A trial that is known is never proposed.

    Args:
        known: all trials that ended before, by key; more of them while the sweep runs, see `Search.learn`.
        earlier: those of them that are search trials of this cell.
    """

    def __init__(
        self,
        spec: Spec,
        cell: Cell,
        known: KnownTrials,
        earlier: Mapping[Trial, Known],
        studies: Studies | None,
        now: Callable[[], float],
    ) -> None:
        self.cell = cell
        self.outcomes: dict[Trial, Outcome | None] = {}  # None = failed
        self.failures: dict[Trial, str] = {}
        self.stopped: set[Trial] = set()
        self.reused: set[Trial] = set()
        self.running: dict[Trial, optuna.Trial | None] = {}
        self._spec, self._known, self._now = spec, known, now
        self._queue: deque[Trial] = deque()
        self._later: dict[Trial, tuple[float, optuna.Trial | None]] = {}  # to be tried again, and when
        self._tries: Counter[Trial] = Counter()
        self._study = CellStudy(spec, cell, earlier, studies)
        self.proposed = 0  # search trials that are new
        self._asked = 0  # search trials
        self._searching = 0  # those of them that run, or wait for another try
        self._confirmed = self._closed = False
        blank = Trial(cell, (), ())
        self._follow_ups = len(confirmations(spec, blank) + ablations(spec, blank))
        for trial, one in earlier.items():
            self._asked += 1
            self._reuse(trial, one)
        self._budget = self._study.budget
        self._confirm()

    @property
    def winner(self) -> Trial | None:
        """The search trial with the best validation accuracy so far; None while there is none.

        Of equals the one with the highest levels: which ended first must not decide, for that changes on resuming.
        """
        found = {
            trial: outcome["validation_accuracy"]
            for trial, outcome in self.outcomes.items()
            if outcome is not None and trial.kind == "search"
        }
        return max(found, key=lambda trial: (found[trial], trial.alpha, trial.weights)) if found else None

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is to come."""
        waiting = self._queue or self._later or self._asked < self._budget
        return not self.running and (self._closed or not waiting)

    @property
    def ended(self) -> int:
        """Number of trials that have ended in whichever way."""
        return len(self.outcomes) + len(self.stopped)

    @property
    def planned(self) -> int:
        """Number of trials that this cell takes in all, as far as is known."""
        if self.finished and not self._closed:
            return self.ended
        waiting = len(self._queue) if self._confirmed else self._follow_ups
        return self.ended + len(self.running) + len(self._later) + waiting + max(0, self._budget - self._asked)

    def ask(self) -> Trial | None:
        """The next trial to run, or None: the cell is finished, or waits for running trials or the next try of one."""
        if self._closed:
            return None
        while (trial := self._due()) is not None:
            if not self._known_by_now(trial):
                return trial
        if self._asked >= self._budget:
            return None
        proposed = self._propose()
        if proposed is not None:
            return proposed
        self.end_search()
        return self.ask()

    def tell(self, trial: Trial, outcome: Outcome | None, failure: Failure | None = None) -> bool:
        """A trial that `ask` gave out has ended: `outcome`, or `failure`, or neither = it was stopped early.

        Returns:
            Whether that is its end: a failed trial may be tried again.
        """
        proposal = self.running.pop(trial)
        accuracy = outcome["validation_accuracy"] if outcome else 0.0
        if not math.isfinite(accuracy):
            outcome, failure = None, Failure(f"its validation accuracy is {accuracy}")
        if failure is not None and self._again(trial, failure):
            tries = self._tries[trial]
            wait = self._spec.failures.backoff_seconds * 2.0 ** max(0, tries - 1)
            self._later[trial] = self._now() + wait, proposal
            return False
        if failure is not None:
            self.failures[trial] = failure.reason
            if failure.kind == "cell":
                self.end_search()
        if outcome is None and failure is None:
            self.stopped.add(trial)
        else:
            self.outcomes[trial] = outcome
        if proposal is not None:
            self._searching -= 1
            if trial in self.stopped:
                self._study.stop(proposal)
            else:
                self._study.end(proposal, outcome)
            self._confirm()
        return True

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """A running trial's validation accuracy after an epoch; whether it lags so far behind that it should stop."""
        proposal = self.running[trial]
        lags = proposal is not None and self._study.lags(proposal, epoch, value)
        return lags and epoch < self._spec.training.epochs  # at its end nothing is saved by stopping it

    def importances(self) -> dict[str, float]:
        """How much alpha and each weight matter; see `CellStudy.importances`."""
        return self._study.importances()

    def end_search(self) -> None:
        """No new search trial from here on; the winner is confirmed."""
        self._budget = min(self._budget, self._asked)
        self._confirm()

    def close(self) -> None:
        """Nothing new from here on."""
        self._closed = True

    def _due(self) -> Trial | None:
        """The next trial that is to be tried again or was lined up, which runs from now on."""
        due = next((trial for trial, (when, _) in self._later.items() if when <= self._now()), None)
        if due is not None:
            _, self.running[due] = self._later.pop(due)
        elif self._queue:
            due = self._queue.popleft()
            self.running[due] = None
        return due

    def _known_by_now(self, trial: Trial) -> bool:
        """Whether a trial that would run has ended already, perhaps in another sweep a moment ago; then it has here."""
        known = self._known.get(trial_key(self._spec, trial))
        if known is not None:
            self.reused.add(trial)
            self.tell(trial, known.outcome)
        return known is not None

    def _propose(self) -> Trial | None:
        """A new search trial; None if none is left. Known ones on the way are answered at once."""
        while self._asked < self._budget and (found := self._study.ask(self._taken)) is not None:
            proposal, trial = found
            self._asked += 1
            self._searching += 1
            self.running[trial] = proposal
            if not self._known_by_now(trial):
                self.proposed += 1
                return trial
        return None

    def _taken(self, trial: Trial) -> bool:
        return trial in self.outcomes or trial in self.running or trial in self.stopped or trial in self._later

    def _again(self, trial: Trial, failure: Failure) -> bool:
        if failure.kind == "preempted":
            return True
        self._tries[trial] += 1
        return failure.kind in ("passing", "lost") and self._tries[trial] <= self._spec.failures.retries

    def _reuse(self, trial: Trial, known: Known) -> None:
        self.reused.add(trial)
        if known.outcome is None:
            self.stopped.add(trial)
        else:
            self.outcomes[trial] = known.outcome

    def _confirm(self) -> None:
        """Line up the confirmations and ablations of the winner, once all search trials have ended."""
        if self._confirmed or self._asked < self._budget or self._searching or self.winner is None:
            return
        self._confirmed = True
        for trial in confirmations(self._spec, self.winner) + ablations(self._spec, self.winner):
            known = self._known.get(trial_key(self._spec, trial))
            if known is None:
                self._queue.append(trial)
            else:
                self._reuse(trial, known)


class Search:
    """All cells of a sweep, served in turn, so that they end together and early results cover the grid.

    Args:
        known: trials that ended before; they are not run again.
        studies: external storage of the studies; none in tests.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        spec: Spec,
        known: KnownTrials | None = None,
        studies: Studies | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._known = self._useful(known or {})
        earlier = by_study(self._known.values())
        self.cells = {
            cell: CellSearch(spec, cell, self._known, searched(spec, cell, earlier), studies, now)
            for cell in cells(spec)
        }
        self.closed: str | None = None  # why, if nothing new is started
        self.status: Status = "FINISHED"  # that the sweep ends with
        self._turn = deque(cell for cell in self.cells.values() if not cell.finished)
        self._ran = self._failed = 0

    @property
    def finished(self) -> bool:
        """Whether every cell is."""
        return all(cell.finished for cell in self._turn)

    def ask(self) -> Trial | None:
        """The next trial to run, or None: all is finished or waits for running trials."""
        for _ in range(len(self._turn)):
            cell = self._turn.popleft()
            trial = cell.ask()
            if not cell.finished:
                self._turn.append(cell)
            if trial is not None:
                return trial
        return None

    def tell(self, trial: Trial, outcome: Outcome | None, failure: Failure | None = None) -> bool:
        """The end of a trial that `ask` gave out; see `CellSearch.tell`. Too many failures end the sweep."""
        over = self.cells[trial.cell].tell(trial, outcome, failure)
        if over:
            self._ran += 1
            self._failed += failure is not None and failure.kind not in ("infeasible", "cell")
            if self._ran >= ENOUGH and self._failed > self.spec.failures.limit * self._ran:
                self.close(
                    f"{self._failed} of {self._ran} trials failed, more than failures.limit = "
                    f"{self.spec.failures.limit:g} allows",
                    "FAILED",
                )
        return over

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Whether a running trial should stop; see `CellSearch.report`."""
        return self.cells[trial.cell].report(trial, epoch, value)

    def learn(self, known: KnownTrials) -> None:
        """More trials have ended elsewhere: none of them starts here from now on. Any thread may say so."""
        self._known.update(self._useful(known))

    def _useful(self, known: KnownTrials) -> dict[str, Known]:
        """Trials that another sweep stopped early have not ended for one that stops none."""
        none = self.spec.stopping.scheduler == "none"
        return {name: one for name, one in known.items() if one.outcome is not None or not none}

    def end_search(self) -> None:
        """No new search trial from here on; winners are confirmed."""
        for cell in self.cells.values():
            cell.end_search()

    def close(self, reason: str, status: Status) -> None:
        """Nothing new from here on, for `reason`; what runs may end."""
        if self.closed is None:
            self.closed, self.status = reason, status
        for cell in self.cells.values():
            cell.close()

    @property
    def reused(self) -> int:
        """Number of trials that had ended before."""
        return sum(len(cell.reused) for cell in self.cells.values())

    @property
    def proposed(self) -> int:
        """Number of search trials started that nobody had run."""
        return sum(cell.proposed for cell in self.cells.values())

    @property
    def planned(self) -> int:
        """Number of trials of the sweep."""
        return sum(cell.planned for cell in self.cells.values())

    @property
    def outcomes(self) -> dict[Trial, Outcome | None]:
        """All trials that have run to their end; None = failed."""
        return {trial: outcome for cell in self.cells.values() for trial, outcome in cell.outcomes.items()}

    @property
    def failures(self) -> dict[Trial, str]:
        """Why the failed trials failed."""
        return {trial: reason for cell in self.cells.values() for trial, reason in cell.failures.items()}

    def counts(self) -> dict[str, int]:
        """Number of trials by state."""
        every = self.cells.values()
        failed = sum(len(cell.failures) for cell in every)
        stopped = sum(len(cell.stopped) for cell in every)
        reused = sum(len(cell.reused - cell.stopped) for cell in every)
        ended, running = sum(cell.ended for cell in every), sum(len(cell.running) for cell in every)
        return {
            "done": ended - failed - stopped - reused,
            "reused": reused,
            "stopped": stopped,
            "failed": failed,
            "running": running,
            "waiting": self.planned - ended - running,
        }
