"""Pruning scores: one per file, all oriented so that LARGER = KEEP."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from torch import nn

from cops.scores.base import Batches, ScoreError, Scores
from cops.scores.entropy_filter import entropy_filter
from cops.scores.fisher import fisher
from cops.scores.force import force
from cops.scores.gradnorm import gradnorm
from cops.scores.grasp import grasp
from cops.scores.l1_filter import l1_filter
from cops.scores.magnitude import magnitude
from cops.scores.ntk_sap import ntk_sap
from cops.scores.random import random
from cops.scores.snip import snip
from cops.scores.synflow import synflow

__all__ = ["SCORES", "Batches", "ScoreError", "Scores", "score"]

SCORES: dict[str, Callable[..., Scores]] = {
    "random": random,
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "gradnorm": gradnorm,
    "force": force,
    "fisher": fisher,
    "ntk_sap": ntk_sap,
    "l1_filter": l1_filter,
    "entropy_filter": entropy_filter,
}


def score(name: str, model: nn.Module, batches: Batches, **options: Any) -> Scores:
    """Scores of a network's prunable weights: by parameter name, each shaped like its parameter.

    Args:
        name: a key of `SCORES`.
        model: any module with convolutions or linear layers. It is left bitwise as it was: parameters, buffers,
            gradients, mode, and the global random state, also when an exception is raised.
        batches: (inputs, labels) pairs; inputs `(n, ...)`, labels `(n,)` class indices.
        options: of the scorer, e.g. `temperature` of `grasp`.

    Raises:
        ValueError: unknown name or option, or no prunable weights.
        ScoreError: the model cannot use a batch, or a score is not finite or zero everywhere.
    """
    if name not in SCORES:
        close = get_close_matches(str(name), SCORES, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"unknown score '{name}': {hint}known scores are {', '.join(SCORES)}")
    known = list(inspect.signature(SCORES[name]).parameters)[2:]
    for option in options:
        if option not in known:
            raise ValueError(
                f"score '{name}' has no option '{option}': "
                + (f"its options are {', '.join(known)}" if known else "it has none")
            )
    return SCORES[name](model, batches, **options)
