import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cops._search
import cops.lp
from cops._box import Box, confidence
from cops.levels import relative_kappa
from cops.lp import InfeasibleError, Solution, solve, top
from tests.cops.oracles import KINDS, exhausted, levels_between, one_thread, random_scores, relaxation  # noqa: F401


def check_promises(solution: Solution, scores: list[Tensor], keep: int, kappa: list[float]) -> None:
    """Every promise that can be checked from outside, for any problem."""
    target, *controls = (score.double() for score in scores)
    mask, multipliers = solution.mask, solution.multipliers
    assert mask.dtype == torch.bool
    assert int(mask.sum()) <= keep
    assert all(weight >= 0.0 for weight in multipliers)
    assert solution.gap >= 0.0
    scale = float(target.abs().sum()) + sum(
        w * float(s.abs().sum()) for w, s in zip(multipliers, controls, strict=True)
    )
    assert solution.objective == pytest.approx(float(target[mask].sum()), abs=1e-12 * scale)
    assert solution.bound == pytest.approx(solution.objective + solution.gap)
    for score, level, value, slack in zip(controls, kappa, solution.controls, solution.slack, strict=True):
        assert value == pytest.approx(float(score[mask].sum()), abs=1e-12 * float(score.abs().sum()))
        assert slack in (0.0, level - value)
        assert level - value - slack <= 1e-13 * float(score.abs().sum())
        assert slack <= float(score.abs().max())
    pi = target + sum(w * s for w, s in zip(multipliers, controls, strict=True))
    dual = float(pi.clamp(min=0).sort(descending=True).values[:keep].sum())
    dual -= sum(w * level for w, level in zip(multipliers, kappa, strict=True))
    assert solution.bound == pytest.approx(max(dual, solution.objective), abs=1e-11 * scale)
    if keep:
        ranked = pi.sort(descending=True).values
        assert solution.threshold == pytest.approx(max(0.0, float(ranked[keep - 1])), abs=1e-12 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_bound_is_the_relaxations_optimum_by_highs(kind: str, count: int) -> None:
    feasible = short = 0
    for seed in range(100):
        d = int(torch.randint(1, 400, (1,), generator=torch.Generator().manual_seed(seed)))
        scores = random_scores(kind, count + 1, d, seed)
        keep = max(1, d // (seed % 5 + 1))
        kappa = levels_between(scores, keep, seed)
        optimum = relaxation(scores, keep, kappa)
        if optimum is None:
            with pytest.raises(InfeasibleError):
                solve(scores[0], scores[1:], keep, kappa)
            continue
        feasible += 1
        solution = solve(scores[0], scores[1:], keep, kappa)
        check_promises(solution, scores, keep, kappa)
        worth = float(scores[0].abs().max())
        assert solution.objective >= optimum - (count + 1) * worth
        if max(solution.slack, default=0.0) > 1e-12 * max(float(s.abs().sum()) for s in scores):
            # Two controls or more may allow no binary mask at all, or only one that no rounding finds.
            assert all(less <= float(s.abs().max()) for less, s in zip(solution.slack, scores[1:], strict=True))
            short += 1
            continue
        assert solution.bound == pytest.approx(optimum, rel=1e-9, abs=1e-9 * worth)
    assert feasible >= 60
    assert short <= (0 if count <= 1 else 13 if kind == "wide" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_small_problems_against_all_masks(kind: str) -> None:
    for seed in range(60):
        count, d = seed % 4, seed % 11 + 1
        scores = random_scores(kind, count + 1, d, seed)
        keep = seed * 7 % (d + 1)
        alpha = [(0.0, 0.3, 0.7, 1.0)[(seed // 4 + k) % 4] for k in range(count)]
        kappa = relative_kappa(alpha, scores[0], scores[1:], keep)
        best = exhausted(scores, keep, kappa)
        try:
            solution = solve(scores[0], scores[1:], keep, kappa)
        except InfeasibleError:
            assert best is None
            continue
        check_promises(solution, scores, keep, kappa)
        worth = float(scores[0].abs().max())
        if best is None:
            assert max(solution.slack) > 0.0
            continue
        assert max(solution.slack, default=0.0) <= 1e-12 * max(float(s.abs().sum()) for s in scores)
        assert solution.bound >= best - 1e-12 * worth
        assert best - (count + 1) * worth <= solution.objective <= best + 1e-12 * worth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "keep"), [(1, 1), (7, 3), (1000, 50), (1000, 1000), (5, 0)])
def test_without_controls_it_is_topk(d: int, keep: int, dtype: torch.dtype) -> None:
    scores = random_scores("plain", 1, d, 5, dtype)[0].abs()
    solution = solve(scores, [], keep, [])
    assert set(solution.mask.nonzero().flatten().tolist()) == set(scores.topk(keep).indices.tolist())
    assert solution.gap == 0.0
    assert torch.equal(top(scores, keep), solution.mask)


def test_negative_entries_are_dropped_and_exact_zeros_kept() -> None:
    scores = torch.tensor([-1.0, 0.0, 2.0, 0.0, -3.0, 0.0])
    assert top(scores, 3).tolist() == [False, True, True, True, False, False]
    assert top(scores, 6).tolist() == [False, True, True, True, False, True]


def test_ties_are_kept_by_lowest_index() -> None:
    ones = torch.ones(10)
    solution = solve(ones, [ones], 4, [3.5])
    assert solution.mask.nonzero().flatten().tolist() == [0, 1, 2, 3]
    target = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    control = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    solution = solve(target, [control], 4, [2.0])
    assert solution.mask.nonzero().flatten().tolist() == [0, 1, 5, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_0_is_the_target_alone_and_alpha_1_the_control_alone(kind: str) -> None:
    for seed in range(20):
        target, control = random_scores(kind, 2, 101, seed)
        keep = 5 * seed
        level = relative_kappa([0.0], target, [control], keep)
        solution = solve(target, [control], keep, level)
        assert torch.equal(solution.mask, top(target, keep))
        assert solution.multipliers == (0.0,)
        level = relative_kappa([1.0], target, [control], keep)
        solution = solve(target, [control], keep, level)
        assert solution.slack == (0.0,)
        assert solution.controls[0] == pytest.approx(float(control[top(control, keep)].sum()), rel=1e-14, abs=1e-300)
        if kind == "plain":
            assert bool((solution.mask >= (top(control, keep) & (control > 0))).all())


def test_among_masks_that_are_best_for_the_control_the_targets_best_is_taken() -> None:
    control = torch.tensor([5.0, 1.0, 1.0, 1.0, 0.0])
    target = torch.tensor([0.0, 1.0, 3.0, 2.0, 9.0])
    solution = solve(target, [control], 3, [7.0])
    assert solution.mask.tolist() == [True, False, True, True, False]
    assert solution.gap == pytest.approx(0.0, abs=1e-12)


def test_thirty_orders_of_magnitude() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scale = 10.0 ** (torch.rand(200, generator=generator) * 30 - 15)
        scores = [(torch.randn(200, generator=generator) * scale).float() for _ in range(2)]
        kappa = relative_kappa([0.5], scores[0], scores[1:], 50)
        check_promises(solve(scores[0], scores[1:], 50, kappa), scores, 50, kappa)


def test_duplicated_and_opposite_controls() -> None:
    target, control = random_scores("plain", 2, 300, 3)
    level = relative_kappa([0.5], target, [control], 60)[0]
    once = solve(target, [control], 60, [level])
    twice = solve(target, [control, control], 60, [level, level])
    assert twice.objective == once.objective
    pinned = solve(target, [control, -control], 60, [level, -level])
    assert pinned.bound == pytest.approx(once.bound)
    assert pinned.controls[0] == pytest.approx(level, abs=float(control.abs().max()))


def test_an_unreachable_level_names_control_level_and_reach() -> None:
    target, control = random_scores("plain", 2, 50, 0)
    reach = float(control.sort(descending=True).values[:10].sum())
    with pytest.raises(InfeasibleError, match=r"kappa\[1\].*controls\[1\]") as caught:
        solve(target, [target, control], 10, [-100.0, reach * 1.001])
    assert caught.value.control == 1
    assert caught.value.level == reach * 1.001
    assert caught.value.reachable == pytest.approx(reach)
    with pytest.raises(InfeasibleError):
        solve(target, [control], 0, [1e-9])


def test_levels_that_exclude_each_other_are_named() -> None:
    target, control = random_scores("plain", 2, 50, 0)
    with pytest.raises(InfeasibleError, match="while the controls before it") as caught:
        solve(target, [control, -control], 10, [1.0, -0.5])
    assert caught.value.control == 1
    assert caught.value.reachable == pytest.approx(-1.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    factor=st.sampled_from([2.0**-40, 0.25, 8.0, 2.0**30]),
    count=st.integers(1, 3),
)
def test_scaling_and_permutation_change_nothing(seed: int, factor: float, count: int) -> None:
    scores = random_scores("plain", count + 1, 120, seed)
    kappa = levels_between(scores, 30, seed)
    try:
        solution = solve(scores[0], scores[1:], 30, kappa)
    except InfeasibleError:
        return
    scaled = solve(scores[0] * factor, [scores[1] * factor, *scores[2:]], 30, [kappa[0] * factor, *kappa[1:]])
    assert torch.equal(scaled.mask, solution.mask)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
    permuted = solve(scores[0][order], [s[order] for s in scores[1:]], 30, kappa)
    assert torch.equal(permuted.mask, solution.mask[order])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS))
def test_a_higher_level_costs_target_and_raises_the_multiplier(seed: int, kind: str) -> None:
    target, control = random_scores(kind, 2, 150, seed)
    previous = None
    for alpha in (0.0, 0.2, 0.5, 0.8, 0.97):
        kappa = relative_kappa([alpha], target, [control], 40)
        solution = solve(target, [control], 40, kappa)
        assert solution.slack[0] <= 1e-12 * float(control.abs().sum())
        if previous is not None:
            assert solution.bound <= previous.bound * (1 + 1e-12) + 1e-12
            assert solution.multipliers[0] >= previous.multipliers[0] * (1 - 1e-9)
        previous = solution


BAD: dict[str, tuple[Callable[[Tensor], tuple[Any, ...]], str]] = {
    "dtype": (lambda x: (x.int(), [x], 3, [0.0]), r"target has dtype torch.int32.*convert"),
    "dimension": (lambda x: (x.view(5, 2), [x], 3, [0.0]), r"target has shape \(5, 2\).*flatten"),
    "length": (lambda x: (x, [x[1:]], 3, [0.0]), r"controls\[0\] has shape \(9,\).*flatten"),
    "mixed dtypes": (lambda x: (x, [x.double()], 3, [0.0]), r"controls\[0\] is torch.float64.*convert"),
    "empty": (lambda x: (x[:0], [], 0, []), "target is empty"),
    "keep too large": (lambda x: (x, [x], 11, [0.0]), "keep is 11.*0 to the 10"),
    "keep negative": (lambda x: (x, [x], -1, [0.0]), "keep is -1"),
    "keep a fraction": (lambda x: (x, [x], 0.5, [0.0]), "keep is 0.5"),
    "levels missing": (lambda x: (x, [x], 3, []), "kappa has 0 levels for 1 controls"),
    "level NaN": (lambda x: (x, [x], 3, [float("nan")]), r"kappa\[0\] is nan: give a finite"),
    "level infinite": (lambda x: (x, [x, x], 3, [0.0, float("inf")]), r"kappa\[1\] is inf"),
    "target NaN": (lambda x: (x.log(), [x], 3, [0.0]), "target has .* NaN or infinite.*nan_to_num"),
    "control infinite": (lambda x: (x, [x, 1 / (x - x)], 3, [0.0, 0.0]), r"controls\[1\] has 10 NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=re.compile(message)):
        solve(*make(torch.arange(10.0) - 5))


def test_the_result_is_the_same_on_one_thread_and_many() -> None:
    scores = random_scores("plain", 3, 600_000, 1, torch.float32)
    kappa = relative_kappa([0.3, 0.3], scores[0], scores[1:], 20_000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = solve(scores[0], scores[1:], 20_000, kappa)
        torch.set_num_threads(2)
        two = solve(scores[0], scores[1:], 20_000, kappa)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.mask, two.mask)
    assert (one.multipliers, one.threshold, one.objective, one.bound, one.controls) == (
        two.multipliers, two.threshold, two.objective, two.bound, two.controls,
    )  # fmt: skip


def test_input_is_left_alone_and_gradients_are_not_needed() -> None:
    target = torch.randn(50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    copy = target.detach().clone()
    solution = cops.lp.solve(target, [target.abs()], 10, [0.1])
    assert torch.equal(target.detach(), copy)
    assert not solution.mask.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_problems_too_large_for_one_vertex(kind: str, count: int) -> None:
    """Sampling and settling, against HiGHS; at the sizes of the tests above all is solved at once."""
    d = 20_000
    scores = random_scores(kind, count + 1, d, 7, torch.float32)
    for keep in (d // 20, d // 2):
        kappa = relative_kappa([0.4] * count, scores[0], scores[1:], keep)
        solution = solve(scores[0], scores[1:], keep, kappa)
        check_promises(solution, scores, keep, kappa)
        optimum = relaxation(scores, keep, kappa)
        assert solution.bound == pytest.approx(optimum, rel=1e-9)


def test_large_corners_ties_and_errors() -> None:
    target, control = random_scores("integer", 2, 20_000, 0, torch.float32)
    for keep in (500, 15_000):
        assert torch.equal(top(target, keep), top(target.double(), keep))
        order = target.sort(descending=True, stable=True)
        first = order.indices[:keep][order.values[:keep] >= 0]
        assert torch.equal(top(target, keep).nonzero().flatten(), first.sort().values)
        for alpha in (0.0, 1.0):
            level = relative_kappa([alpha], target, [control], keep)
            solution = solve(target, [control], keep, level)
            assert solution.slack == (0.0,)
            if alpha == 0.0:
                assert torch.equal(solution.mask, top(target, keep))
    with pytest.raises(InfeasibleError):
        solve(target, [control], 500, [1e9])
    with pytest.raises(InfeasibleError, match=r"kappa\[1\]"):
        solve(target, [control, -control], 500, [100.0, 100.0])
    with pytest.raises(ValueError, match=r"controls\[0\] has 1 NaN"):
        solve(target, [torch.where(torch.arange(20_000) == 9_000, torch.nan, control)], 500, [0.0])


def test_combinations_beyond_float32_are_filtered_in_float64() -> None:
    target, control = random_scores("plain", 2, 20_000, 0, torch.float32)
    for factors in ((1e-33, 1e-20), (1e25, 1e-12)):
        scores = [target * factors[0], control * factors[1]]
        kappa = relative_kappa([0.5], scores[0], scores[1:], 1000)
        check_promises(solve(scores[0], scores[1:], 1000, kappa), scores, 1000, kappa)


@pytest.mark.parametrize("shift", [{"tau": 1.5}, {"tau": 0.7}, {"weights": 1.5}, {"weights": 0.5}])
def test_a_box_that_misses_the_optimum_is_not_believed(
    shift: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, control = random_scores("plain", 2, 20_000, 0)
    kappa = relative_kappa([0.5], target, [control], 1000)
    right = solve(target, [control], 1000, kappa)
    missed: list[Box] = []

    def misled(scores: Tensor, y: list[float], reference: Tensor) -> Box:
        box = confidence(scores, y, reference)
        if missed:
            return box
        missed.append(box)
        weights = [weight * shift.get("weights", 1.0) for weight in box.weights]
        return replace(box, weights=weights, tau=box.tau * shift.get("tau", 1.0))

    monkeypatch.setattr(cops._search, "confidence", misled)
    again = solve(target, [control], 1000, kappa)
    assert missed
    assert torch.equal(again.mask, right.mask)
    assert again.bound == pytest.approx(right.bound, rel=1e-12)


@pytest.mark.parametrize(
    ("y", "inside"),
    [
        ([1.0, 2.0], True),
        ([1.07, 2.035], True),  # along the slope
        ([1.0999, 2.04995], True),
        ([1.1, 2.05], False),  # a multiplier at the edge
        ([0.9, 1.95], False),
        ([1.0, 2.1998], True),
        ([1.0, 2.2], False),  # the threshold at the edge
        ([1.0, 1.8], False),
        ([1.07, 1.835], False),  # off the slope
    ],
)
def test_a_box_is_trusted_but_for_its_edge(y: list[float], inside: bool) -> None:
    box = Box(weights=[1.0], tau=2.0, half=[0.1], slope=[0.5], width=0.2)
    assert (y in box) is inside
