"""Random problems, and answers from elsewhere: HiGHS for the relaxation, exhaustion for binary masks."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from cops.levels import relative_kappa

KINDS = ("plain", "integer", "wide", "sparse")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small problems gain nothing from threads, and wait for them where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_scores(kind: str, count: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """`count` scores (d,): "integer" has many ties, "wide" spans 12 orders, "sparse" has zeros."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, d))
    if kind == "integer":
        scores = np.round(2 * scores)
    elif kind == "wide":
        scores *= 10.0 ** rng.uniform(-6, 6, size=d)
    elif kind == "sparse":
        scores *= rng.random((count, d)) < 0.4
    return [torch.tensor(score, dtype=dtype) for score in scores]


def levels_between(scores: list[Tensor], keep: int, seed: int) -> list[float]:
    """Levels for the controls `scores[1:]`, lower the more there are, so that most problems are feasible."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(0.0, 1.0 / max(1, len(scores) - 1), size=len(scores) - 1)
    return relative_kappa(alpha.tolist(), scores[0], scores[1:], keep)


def relaxation(scores: list[Tensor], keep: int, kappa: list[float], **options: Any) -> float | None:
    """Optimum of the relaxation according to HiGHS; None if it is infeasible."""
    matrix = np.stack([score.double().numpy() for score in scores])
    rows = np.concatenate([-matrix[1:], np.ones((1, matrix.shape[1]))])
    answer = linprog(-matrix[0], A_ub=rows, b_ub=[*(-k for k in kappa), keep], bounds=(0, 1), **options)
    if answer.status == 2:
        return None
    assert answer.status == 0, answer.message
    return float(-answer.fun)


def exhausted(scores: list[Tensor], keep: int, kappa: list[float]) -> float | None:
    """Optimum of the binary problem by trying all masks; None if no mask is feasible."""
    matrix = torch.stack([score.double() for score in scores])
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=matrix.shape[1])), dtype=torch.float64)
    feasible = masks.sum(1) <= keep
    for score, level in zip(matrix[1:], kappa, strict=True):
        feasible &= masks @ score >= level - 1e-13 * float(score.abs().sum())
    return float((masks @ matrix[0])[feasible].max()) if bool(feasible.any()) else None
