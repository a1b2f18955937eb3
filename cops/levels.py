"""Scale-free settings: relative levels, normalised scores, weighted targets (arXiv 2107.12673)."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cops._sums import kept, total
from cops.lp import top


def relative_kappa(alpha: Sequence[float], target: Tensor, controls: Sequence[Tensor], keep: int) -> list[float]:
    """Levels between what the target alone gives each control and the control's best.

    `kappa_k = (1 - alpha_k) <s_k, M_0> + alpha_k <s_k, M_k>`, with `M_0` the mask of the target alone and
    `M_k` that of control k alone, both of `keep` weights. With one control every alpha is feasible.

    Args:
        alpha: K numbers in [0, 1]; 0 asks nothing of the control, 1 forces its best.
        target: score (d,), float32 or float64.
        controls: K scores (d,).
        keep: largest number of weights kept, 0..d.

    Returns:
        K levels in the units of the controls.

    Raises:
        ValueError: for input that is malformed or not finite; the message names it.

    """
    if len(alpha) != len(controls):
        raise ValueError(f"alpha has {len(alpha)} values for {len(controls)} controls: give one per control")
    for k, share in enumerate(alpha):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"alpha[{k}] is {share}: give a number from 0 to 1")
    alone = top(target, keep)
    levels = []
    for share, control in zip(alpha, controls, strict=True):
        lowest, highest = kept(control, alone), kept(control, top(control, keep))
        levels.append((1.0 - share) * lowest + share * highest)
    return levels


def normalise(scores: Tensor) -> Tensor:
    """Scores divided by their l1 norm, so that scores of different kinds can be added and compared.

    Args:
        scores: (d,) or any other shape, float32 or float64.

    Returns:
        A tensor of the same shape and dtype with `abs().sum() == 1`. The norm is summed in float64; the
        result does not depend on the number of threads.

    Raises:
        ValueError: if all scores are zero, or any is NaN or infinite.

    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores have NaN or infinite entries: compute them in float64, or replace them")
    norm = total(scores.abs().flatten())
    if norm == 0.0:
        raise ValueError("scores are all zero: they say nothing about which weights to keep")
    if math.isinf(norm):
        raise ValueError("the sum of the scores' magnitudes overflows float64: scale them down first")
    return (scores.double() / norm).to(scores.dtype)


def weighted_target(scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum `sum_j w_j s_j / |s_j|_1` of several scores, as one target.

    Args:
        scores: scores (d,) by name.
        weights: weights by the same names, none negative, of sum 1 (within 1e-6).

    Returns:
        Target (d,), of the scores' dtype.

    Raises:
        ValueError: if names differ, weights leave the simplex, shapes or dtypes differ, or a score is all
            zero or not finite; the message names it.

    """
    if scores.keys() != weights.keys() or not scores:
        raise ValueError(f"weights are for {sorted(weights)}, scores are {sorted(scores)}: give one weight per score")
    for name, weight in weights.items():
        if not weight >= 0.0:
            raise ValueError(f"weights[{name!r}] is {weight}: give a number that is not negative")
    if abs(sum(weights.values()) - 1.0) > 1e-6:
        raise ValueError(f"weights sum to {sum(weights.values())}: divide them by their sum, it must be 1")
    first = next(iter(scores.values()))
    combined = torch.zeros_like(first)
    for name, score in scores.items():
        if score.shape != first.shape or score.dtype != first.dtype:
            raise ValueError(
                f"scores[{name!r}] is {score.dtype} {tuple(score.shape)}, the first is {first.dtype} "
                f"{tuple(first.shape)}: give all the same dtype and shape"
            )
        if weights[name] == 0.0:
            continue
        try:
            combined += weights[name] * normalise(score)
        except ValueError as error:
            raise ValueError(f"scores[{name!r}]: {error}") from error
    return combined
