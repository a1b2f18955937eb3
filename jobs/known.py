"""Trials that ended before this process asked for them: in another sweep, or before a crash. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jobs.identity import study_key, trial_key
from jobs.plan import Cell, Trial
from jobs.spec import Spec

FailureKind = Literal["final", "passing", "infeasible", "cell", "lost", "preempted"]
Outcome = Mapping[str, float]  # metrics of a finished trial; holds `validation_accuracy`


@dataclass(frozen=True)
class Known:
    """A trial that has ended, as MLflow knows it.

    Args:
        key: content key of the trial.
        study: content key of its cell's study.
        alpha: relative level by control.
        weights: weight by target score.
        outcome: metrics; None = it was stopped early.
    """

    key: str
    study: str
    alpha: Mapping[str, float]
    weights: Mapping[str, float]
    outcome: Outcome | None


KnownTrials = Mapping[str, Known]  # by the trials' content keys


def by_study(known: Iterable[Known]) -> dict[str, list[Known]]:
    """Those of each study."""
    found: dict[str, list[Known]] = {}
    for one in known:
        found.setdefault(one.study, []).append(one)
    return found


def searched(spec: Spec, cell: Cell, studies: Mapping[str, list[Known]]) -> dict[Trial, Known]:
    """The search trials of a cell that have ended."""
    found = {}
    for one in studies.get(study_key(spec, cell), []):
        if one.alpha.keys() == set(cell.controls) and one.weights.keys() == set(cell.target):
            weights, alpha = (one.weights[name] for name in cell.target), (one.alpha[name] for name in cell.controls)
            trial = Trial(cell, tuple(weights), tuple(alpha))
            if trial_key(spec, trial) == one.key:  # else a confirmation or an ablation
                found[trial] = one
    return found
