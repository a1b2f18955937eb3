"""Optuna: one study per cell. With `storage`, which writes studies down, the only file here that imports it.

The study that proposes is in memory, where asking takes milliseconds; whatever ends is also kept in a study of the same
trials in external storage. MLflow is the truth: what it knows and the storage lacks, because a process died in between,
is added at the next start.
"""

import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import product

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from jobs.identity import key, study_key, trial_key
from jobs.known import Known, Outcome
from jobs.plan import Cell, Trial
from jobs.spec import Spec
from jobs.storage import Direction, Studies

STEP = 0.01  # of alpha and weights: a finer step changes a mask less than another seed does, and names stay short
MAXIMISED = {"validation_accuracy"}
ENOUGH = 4  # trials for importances to say anything
MOVES = 1000  # of a proposal that is taken, before a cell counts as searched out: from 100 on, to anywhere
TRIAL = "cops.trial"  # attribute of an Optuna trial: our trial's content key
Keep = Callable[[FrozenTrial], None]


class CellStudy:
    """Proposes the search trials of one cell.

    Args:
        earlier: search trials that have ended already.
        studies: external storage; none in tests.
    """

    def __init__(
        self, spec: Spec, cell: Cell, earlier: Mapping[Trial, Known] | None = None, studies: Studies | None = None
    ) -> None:
        self._spec, self._cell = spec, cell
        self._objective = spec.search.objective if cell.tunable else ("validation_accuracy",)
        directions: list[Direction] = ["maximize" if name in MAXIMISED else "minimize" for name in self._objective]
        self._space: dict[str, BaseDistribution] = {
            name: FloatDistribution(0, 1, step=STEP)
            for name in (*map(_level, cell.controls), *map(_stick, cell.target[:-1]))
        }
        name = study_key(spec, cell)
        self._keep: Keep = (lambda trial: studies.keep(name, trial)) if studies else lambda _: None
        # On resuming, other draws than those that the trials known by now came from.
        seed = int(key("sampler", [name, spec.seed, len(earlier or {})])[:8], 16)
        self._random = random.Random(seed)  # noqa: S311
        self._study = optuna.create_study(
            directions=directions, sampler=self._sampler(seed), pruner=_pruner(spec) if cell.tunable else None
        )
        self._recall(earlier or {}, studies.load(name, directions) if studies else [])
        planned = cell.tunable and spec.search.sampler == "grid"
        self._points = self._grid(earlier or {}) if planned else None
        trials = spec.search.trials if cell.tunable else 1
        self.budget = trials if self._points is None else len(earlier or {}) + len(self._points)

    def ask(self, taken: Callable[[Trial], bool]) -> tuple[optuna.Trial, Trial] | None:
        """Optuna's proposal, moved where it is `taken`, and the trial that it stands for; None if nothing is free.

        A sampler that likes a point goes on proposing it. To ask again takes it milliseconds, and the points around are
        what it would come to; they are looked at at random, from a little further away each time.
        """
        if self._points is not None:
            while self._points:
                if not taken(trial := self._trial(params := self._points.popleft())):
                    return self._fixed(params, trial)
            return None
        proposal = self._ask()
        if not taken(trial := self._trial(proposal.params)):
            return self._named(proposal, trial)
        # Not told as a result: the study would pile up on the point that it already likes best.
        self._study.tell(proposal, state=TrialState.FAIL)
        for move in range(1, MOVES):
            params = {name: self._near(value, move * STEP) for name, value in proposal.params.items()}
            if not taken(trial := self._trial(params)):
                return self._fixed(params, trial)
        return None

    def end(self, proposal: optuna.Trial, outcome: Outcome | None) -> None:
        """The end of a trial; no outcome = it failed."""
        values = self._values(outcome) if outcome is not None else None
        state = TrialState.COMPLETE if values else TrialState.FAIL
        self._keep(self._study.tell(proposal, values, state))

    def stop(self, proposal: optuna.Trial) -> None:
        """A trial has been stopped early."""
        self._keep(self._study.tell(proposal, state=TrialState.PRUNED))

    def lags(self, proposal: optuna.Trial, epoch: int, value: float) -> bool:
        """Take note of a running trial's validation accuracy; whether it lags so far behind that it should stop."""
        proposal.report(value, epoch)
        return proposal.should_prune()

    def importances(self) -> dict[str, float]:
        """How much each tuned value matters for a high accuracy (PED-ANOVA), of 1; empty if that says nothing."""
        place = self._objective.index("validation_accuracy")
        ended = self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len(self._space) < 2 or len(ended) < ENOUGH or len({trial.values[place] for trial in ended}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental, and looks for low values: hence the sign
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
            return optuna.importance.get_param_importances(
                self._study, evaluator=evaluator, target=lambda trial: -trial.values[place]
            )

    def _ask(self) -> optuna.Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._study.ask(self._space)

    def _trial(self, values: Mapping[str, float]) -> Trial:
        alpha = tuple(round(values[_level(control)], 2) for control in self._cell.controls)
        weights = stick_breaking([values[_stick(score)] for score in self._cell.target[:-1]])
        return Trial(self._cell, weights if self._cell.target else (), alpha)

    def _fixed(self, params: dict[str, float], trial: Trial) -> tuple[optuna.Trial, Trial]:
        """A proposal of just these values; nothing else may be waiting in the study."""
        self._study.enqueue_trial(params)
        return self._named(self._ask(), trial)

    def _named(self, proposal: optuna.Trial, trial: Trial) -> tuple[optuna.Trial, Trial]:
        proposal.set_user_attr(TRIAL, trial_key(self._spec, trial))
        return proposal, trial

    def _near(self, value: float, radius: float) -> float:
        """A random multiple of STEP in [0, 1], at most `radius` away."""
        low, high = max(0.0, value - radius), min(1.0, value + radius)
        return round(self._random.uniform(low, high), 2)

    def _values(self, outcome: Outcome) -> list[float] | None:
        values = [outcome.get(name, math.nan) for name in self._objective]
        return values if all(map(math.isfinite, values)) else None

    def _recall(self, earlier: Mapping[Trial, Known], stored: Iterable[FrozenTrial]) -> None:
        """Learn from what has ended; what only MLflow knows is stored, what only the storage knows is passed over."""
        by_key = {trial.user_attrs.get(TRIAL): trial for trial in stored if trial.state.is_finished()}
        for trial, known in earlier.items():
            found = by_key.get(known.key)
            if found is None or found.state is TrialState.FAIL:
                values = self._values(known.outcome) if known.outcome is not None else None
                state = TrialState.COMPLETE if values else TrialState.PRUNED
                found = optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params=self._params(trial),
                    distributions=self._space,
                    user_attrs={TRIAL: known.key},
                )
                self._keep(found)
            self._study.add_trial(found)

    def _params(self, trial: Trial) -> dict[str, float]:
        """The inverse of what `ask` makes of Optuna's values."""
        levels = dict(zip(map(_level, self._cell.controls), trial.alpha, strict=True))
        return levels | dict(zip(map(_stick, self._cell.target[:-1]), stick_fractions(trial.weights), strict=True))

    def _grid(self, earlier: Mapping[Trial, Known]) -> deque[dict[str, float]]:
        """The grid's points that have not run. Where one score has all the weight, several points are one trial."""
        points = [
            dict(zip(self._space, point, strict=True)) for point in grid(self._spec.search.trials, len(self._space))
        ]
        distinct = {self._trial(params): params for params in reversed(points)}
        return deque(params for trial, params in reversed(distinct.items()) if trial not in earlier)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        startup = max(1, min(10, self._spec.search.trials // 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            match self._spec.search.sampler:
                case "tpe":
                    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
                case "gp":
                    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
                case "cmaes":
                    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
                case _:
                    return optuna.samplers.RandomSampler(seed=seed)


def grid(trials: int, values: int) -> list[tuple[float, ...]]:
    """At most `trials` points in `[0, 1]^values`, evenly spread over levels that are multiples of STEP."""
    most = round(1 / STEP) + 1
    levels = [1] * values
    while (smallest := min(levels)) < most:
        at = levels.index(smallest)
        more = [*levels[:at], smallest + 1, *levels[at + 1 :]]
        if math.prod(more) > trials:
            break
        levels = more
    axes = [[round(i / (n - 1), 2) for i in range(n)] if n > 1 else [0.5] for n in levels]
    return list(product(*axes))


def stick_breaking(fractions: list[float]) -> tuple[float, ...]:
    """Map `J - 1` numbers, uniform in [0, 1], to `J` weights, uniform on the simplex; two weights are (u, 1 - u)."""
    weights, rest = [], 1.0
    for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
        weights.append(abs(round(rest * (1 - (1 - fraction) ** (1 / left)), 4)))  # -0.0 would be another trial
        rest -= weights[-1]
    return (*weights, abs(round(rest, 4)))


def stick_fractions(weights: tuple[float, ...]) -> list[float]:
    """The inverse of `stick_breaking`, to the nearest multiple of STEP."""
    fractions, rest = [], 1.0
    for left, weight in zip(range(len(weights) - 1, 0, -1), weights, strict=False):
        share = min(1.0, weight / rest) if rest > 0 else 0.0
        fractions.append(round(1 - (1 - share) ** left, 2))
        rest -= weight
    return fractions


def _level(control: str) -> str:
    return f"alpha[{control}]"


def _stick(score: str) -> str:
    return f"stick[{score}]"


def _pruner(spec: Spec) -> optuna.pruners.BasePruner:
    stopping = spec.stopping
    match stopping.scheduler:
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=stopping.grace_epochs, reduction_factor=stopping.reduction_factor
            )
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=stopping.grace_epochs)
        case _:
            return optuna.pruners.NopPruner()
