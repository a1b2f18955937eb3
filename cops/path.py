"""Many masks of the same scores: a grid of relative levels and sizes (arXiv 2107.12673)."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from cops._check import check, check_finite
from cops._optimum import alone
from cops._sums import kept
from cops.lp import Solution, solve


def path(
    target: Tensor, controls: Sequence[Tensor], keeps: Sequence[int], alphas: Sequence[float]
) -> Iterator[tuple[int, float, Solution]]:
    """Solve for every size in `keeps` and every relative level in `alphas`, sharing the passes.

    Args:
        target: score (d,), float32 or float64.
        controls: K scores (d,); each `alpha` holds for all of them, see `cops.levels.relative_kappa`.
        keeps: sizes, each 0..d.
        alphas: relative levels, each in [0, 1].

    Yields:
        `(keep, alpha, solution)` in the order of `keeps`, then of `alphas`: one mask (d,) at a time, since
        all of them may be more than memory holds. Each is what `solve` returns for that level.

    Raises:
        ValueError: for input that is malformed or not finite; the message names it.
        InfeasibleError: if K >= 2 controls cannot reach their levels together.

    """
    for keep in keeps:
        check(target, controls, keep, [0.0] * len(controls))
    check_finite(target, controls)
    for k, alpha in enumerate(alphas):
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alphas[{k}] is {alpha}: give a number from 0 to 1")
    scores = [target.detach(), *(control.detach() for control in controls)]
    for keep in keeps:
        free = alone(scores[0], keep).mask
        lowest = [kept(score, free) for score in scores[1:]]
        highest = [kept(score, alone(score, keep).mask) for score in scores[1:]]
        levels = [[(1.0 - a) * low + a * high for low, high in zip(lowest, highest, strict=True)] for a in alphas]
        for alpha, level in zip(alphas, levels, strict=True):
            yield keep, alpha, solve(target, controls, keep, level)
