import pytest
import torch

from cops.levels import normalise, relative_kappa, weighted_target
from tests.cops.oracles import random_scores


def test_levels_run_from_the_targets_mask_to_the_controls_best() -> None:
    target, control = random_scores("plain", 2, 200, 0)
    lowest = float(control[target.topk(40).indices].sum())
    highest = float(control.topk(40).values.sum())
    for alpha in (0.0, 0.25, 1.0):
        (level,) = relative_kappa([alpha], target, [control], 40)
        assert level == pytest.approx((1 - alpha) * lowest + alpha * highest)


@pytest.mark.parametrize(
    ("alpha", "message"), [([], "0 values for 1"), ([1.1], r"alpha\[0\] is 1.1"), ([float("nan")], "nan")]
)
def test_bad_alphas_are_refused(alpha: list[float], message: str) -> None:
    ones = torch.ones(3)
    with pytest.raises(ValueError, match=message):
        relative_kappa(alpha, ones, [ones], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_scores_have_l1_norm_1(dtype: torch.dtype) -> None:
    scores = random_scores("wide", 1, 30_000, 0, dtype)[0].view(100, 300)
    normal = normalise(scores)
    assert normal.shape == scores.shape
    assert normal.dtype == dtype
    assert float(normal.double().abs().sum()) == pytest.approx(1.0, rel=1e-6 if dtype == torch.float32 else 1e-12)
    assert torch.equal(normal.sign(), scores.sign())


def test_normalisation_does_not_depend_on_the_number_of_threads() -> None:
    scores = random_scores("wide", 1, 200_001, 2)[0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = normalise(scores)
        torch.set_num_threads(2)
        assert torch.equal(one, normalise(scores))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(4), "all zero"),
        (torch.tensor([1.0, torch.nan]), "NaN"),
        (torch.tensor([torch.inf]), "infinite"),
    ],
)
def test_scores_without_a_norm_are_refused(scores: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(scores)
    with pytest.raises(ValueError, match=rf"scores\['snip'\].*{message}"):
        weighted_target({"snip": scores}, {"snip": 1.0})


def test_a_weighted_target_is_the_sum_of_normalised_scores() -> None:
    a, b = random_scores("plain", 2, 30, 0)
    combined = weighted_target({"a": a, "b": b * 1000}, {"a": 0.25, "b": 0.75})
    torch.testing.assert_close(combined, 0.25 * a / a.abs().sum() + 0.75 * b / b.abs().sum())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "weights are for"),
        ({"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": 1.5, "b": -0.5}, r"weights\['b'\] is -0.5"),
        ({"a": float("nan"), "b": 1.0}, r"weights\['a'\] is nan"),
    ],
)
def test_weights_off_the_simplex_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_target({"a": torch.ones(2), "b": torch.ones(2)}, weights)


def test_scores_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores\['b'\].*same dtype and shape"):
        weighted_target({"a": torch.ones(2), "b": torch.ones(3)}, {"a": 0.5, "b": 0.5})
