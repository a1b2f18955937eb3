"""One Optuna study per cell, each with its own budget; then confirmation of the cell's winner. No Ray in here.

A single study over everything would drift to the least sparse cell, where accuracy is best.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import optuna

from jobs.identity import key
from jobs.plan import Cell, Trial, cells
from jobs.spec import Spec

optuna.logging.set_verbosity(optuna.logging.WARNING)

Outcome = Mapping[str, float]  # metrics of a finished trial; holds `validation_accuracy`

STEP = 0.01  # of alpha and weights: a finer step changes a mask less than another seed does, and names stay short
REDRAWS = 10  # of a proposal that ran already, before the sampler gives way to a uniform one
RANDOM_REDRAWS = 500  # uniform ones, before the cell counts as searched out


class CellSearch:
    """Proposes the trials of one cell and keeps their outcomes.

    Search trials come first, as many as the budget says and no two alike; when the last of them has ended, the one with
    the best validation accuracy is confirmed with fresh training seeds.
    """

    def __init__(self, spec: Spec, cell: Cell) -> None:
        self.cell = cell
        self.outcomes: dict[Trial, Outcome | None] = {}  # None = failed
        self.failures: dict[Trial, str] = {}
        self.running: dict[Trial, optuna.trial.Trial | None] = {}
        self._budget = spec.search.trials if cell.tunable else 1
        self._confirmations = spec.confirmations
        self._queue: deque[Trial] = deque()
        seed = int(key("study", [cell.model, cell.data, cell.name, spec.seed])[:8], 16)
        startup = max(1, min(10, self._budget // 2))
        self._uniform: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        self._sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            if spec.search.sampler == "tpe"
            else self._uniform
        )
        self._study = optuna.create_study(direction="maximize", sampler=self._sampler)

    @property
    def winner(self) -> Trial | None:
        """The search trial with the best validation accuracy so far; None while there is none."""
        found = {
            trial: outcome["validation_accuracy"]
            for trial, outcome in self.outcomes.items()
            if outcome is not None and trial.kind == "search"
        }
        return max(found, key=lambda trial: found[trial]) if found else None

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is to come."""
        return not self.running and not self._queue and self._asked() >= self._budget

    @property
    def planned(self) -> int:
        """Number of trials that this cell takes in all, as far as is known."""
        return len(self.outcomes) if self.finished else self._budget + self._confirmations

    def ask(self) -> Trial | None:
        """The next trial to run, or None: the cell is finished or waits for running trials."""
        if self._queue:
            trial = self._queue.popleft()
            self.running[trial] = None
            return trial
        if self._asked() >= self._budget:
            return None
        for sampler, redraws in ((self._sampler, REDRAWS), (self._uniform, RANDOM_REDRAWS)):
            self._study.sampler = sampler
            for _ in range(redraws):
                proposal = self._study.ask()
                trial = self._suggest(proposal)
                if trial not in self.outcomes and trial not in self.running:
                    self.running[trial] = proposal
                    return trial
                # Not told as a result: the study would pile up on the point that it already likes best.
                self._study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        self._budget = self._asked()
        self._confirm()
        return self.ask()

    def tell(self, trial: Trial, outcome: Outcome | None, failure: str | None = None) -> None:
        """The end of a trial that `ask` gave out; no outcome = it failed, and `failure` says why."""
        proposal = self.running.pop(trial)
        self.outcomes[trial] = outcome
        if failure is not None:
            self.failures[trial] = failure
        if proposal is not None:
            if outcome is None:
                self._study.tell(proposal, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(proposal, outcome["validation_accuracy"])
            self._confirm()

    def _asked(self) -> int:
        return sum(trial.kind == "search" for trial in (*self.outcomes, *self.running))

    def _confirm(self) -> None:
        searching = self._asked() < self._budget or any(trial.kind == "search" for trial in self.running)
        if not searching and self.winner is not None:
            self._queue.extend(
                replace(self.winner, kind="confirmation", training_seed=seed)
                for seed in range(1, self._confirmations + 1)
            )

    def _suggest(self, proposal: optuna.trial.Trial) -> Trial:
        alpha = tuple(
            round(proposal.suggest_float(f"alpha[{control}]", 0, 1, step=STEP), 2) for control in self.cell.controls
        )
        weights = stick_breaking(
            [proposal.suggest_float(f"stick[{score}]", 0, 1, step=STEP) for score in self.cell.target[:-1]]
        )
        return Trial(self.cell, weights if self.cell.target else (), alpha)


def stick_breaking(fractions: list[float]) -> tuple[float, ...]:
    """Map `J - 1` numbers, uniform in [0, 1], to `J` weights, uniform on the simplex; two weights are (u, 1 - u)."""
    weights, rest = [], 1.0
    for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
        weights.append(round(rest * (1 - (1 - fraction) ** (1 / left)), 4))
        rest -= weights[-1]
    return (*weights, round(rest, 4))


class Search:
    """All cells of a sweep, served in turn, so that they end together and early results cover the grid."""

    def __init__(self, spec: Spec) -> None:
        self.cells = {cell: CellSearch(spec, cell) for cell in cells(spec)}
        self._turn = deque(self.cells.values())

    @property
    def finished(self) -> bool:
        """Whether every cell is."""
        return all(cell.finished for cell in self.cells.values())

    def ask(self) -> Trial | None:
        """The next trial to run, or None: all is finished or waits for running trials."""
        for _ in range(len(self._turn)):
            cell = self._turn[0]
            self._turn.rotate(-1)
            trial = cell.ask()
            if trial is not None:
                return trial
        return None

    def tell(self, trial: Trial, outcome: Outcome | None, failure: str | None = None) -> None:
        """The end of a trial that `ask` gave out; see `CellSearch.tell`."""
        self.cells[trial.cell].tell(trial, outcome, failure)

    @property
    def planned(self) -> int:
        """Number of trials of the sweep."""
        return sum(cell.planned for cell in self.cells.values())

    @property
    def outcomes(self) -> dict[Trial, Outcome | None]:
        """All trials that have ended; None = failed."""
        return {trial: outcome for cell in self.cells.values() for trial, outcome in cell.outcomes.items()}

    @property
    def failures(self) -> dict[Trial, str]:
        """Why the failed trials failed."""
        return {trial: reason for cell in self.cells.values() for trial, reason in cell.failures.items()}
