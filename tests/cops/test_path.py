import importlib
from typing import Any

import pytest
import torch

from cops._box import Box
from cops._optimum import aimed
from cops._rest import Rest
from cops.levels import relative_kappa
from cops.lp import solve
from cops.path import path
from tests.cops.oracles import KINDS, one_thread, random_scores  # noqa: F401


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_path_gives_what_solve_gives(kind: str, count: int) -> None:
    scores = random_scores(kind, count + 1, 12_000, 0)
    alphas = [0.0, 0.45, 0.1, 0.2, 0.3] + ([0.7, 1.0] if count == 1 else [])
    results = list(path(scores[0], scores[1:], [600, 6000], alphas))
    assert [(keep, alpha) for keep, alpha, _ in results] == [(k, a) for k in (600, 6000) for a in sorted(alphas)]
    for keep, alpha, solution in results:
        kappa = relative_kappa([alpha] * count, scores[0], scores[1:], keep)
        alone = solve(scores[0], scores[1:], keep, kappa)
        assert solution.bound == pytest.approx(alone.bound, rel=1e-9, abs=1e-12)
        assert solution.multipliers == pytest.approx(alone.multipliers, rel=1e-6, abs=1e-12)
        if kind == "plain":
            assert torch.equal(solution.mask, alone.mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_passes_that_are_shared_change_nothing(kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("cops.path")  # the package's name `path` is the function
    monkeypatch.setattr(module, "SMALL", 5_000)
    shared = []

    def watched(*given: Any) -> Any:
        shared.append(aimed(*given))
        return shared[-1]

    monkeypatch.setattr(module, "aimed", watched)
    scores = random_scores(kind, count + 1, 60_000, 1)
    top = 1.0 if count == 1 else 0.3
    alphas = [top * i / 12 for i in range(13)]
    results = list(path(scores[0], scores[1:], [3000], alphas))
    assert [alpha for _, alpha, _ in results] == alphas
    for keep, alpha, solution in results:
        alone = solve(scores[0], scores[1:], keep, relative_kappa([alpha] * count, scores[0], scores[1:], keep))
        assert solution.bound == pytest.approx(alone.bound, rel=1e-9, abs=1e-12)
        assert solution.objective == pytest.approx(alone.objective, rel=1e-3)
        assert int(solution.mask.sum()) <= keep
        assert solution.slack == pytest.approx(alone.slack, abs=1e-9)
        if kind == "plain":
            assert torch.equal(solution.mask, alone.mask)
    if kind in {"plain", "wide"}:
        assert sum(found is not None for found in shared) >= 8  # of the eleven between the ends


def test_an_optimum_outside_of_the_shared_box_is_not_believed() -> None:
    scores = random_scores("plain", 2, 60_000, 2)
    levels = relative_kappa([0.4], scores[0], scores[1:], 3000)
    right = solve(scores[0], scores[1:], 3000, levels)
    refused = []
    for shift in [i / 100 for i in range(-10, 11)]:
        y = [value * (1 + shift) for value in (*right.multipliers, right.threshold)]
        box = Box(y[:1], y[1], [0.04 * y[0]], [0.0], 0.04 * y[1])
        rest = Rest.whole(scores, 3000, [0.0]).settle(box)
        found = aimed(scores, rest, box, levels)
        refused.append(found is None)
        assert found is None or torch.equal(found.mask, right.mask)
    assert refused == [abs(i) > 0.04 * (100 + i) for i in range(-10, 11)]


def test_a_path_without_controls_or_weights() -> None:
    (target,) = random_scores("plain", 1, 50, 0)
    sizes = [int(solution.mask.sum()) for _, _, solution in path(target, [], [0, 10], [0.5])]
    assert sizes == [0, 10]


def test_bad_settings_of_a_path_are_refused() -> None:
    ones = torch.ones(3)
    with pytest.raises(ValueError, match=r"alphas\[1\] is 2.0"):
        next(path(ones, [ones], [1], [0.5, 2.0]))
    with pytest.raises(ValueError, match="keep is 4"):
        next(path(ones, [ones], [1, 4], [0.5]))
