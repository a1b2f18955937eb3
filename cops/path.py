"""Many masks of the same scores: a grid of relative levels and sizes (arXiv 2107.12673)."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from cops._box import Box
from cops._check import check, check_finite
from cops._optimum import alone, optimum
from cops._rest import Rest
from cops._search import DIRECT, search
from cops._simplex import UnreachableError, Vertex
from cops._sums import kept
from cops.lp import Solution, solve, to_solution

Found = tuple[Rest, Vertex]


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
        # At the ends the multipliers are zero or huge: no box over the path should stretch that far.
        inner = sorted((a, level) for a, level in zip(alphas, levels, strict=True) if 0.0 < a < 1.0)
        found: dict[float, Found] = {}
        if keep and controls:
            found = _along(Rest.whole(scores, keep, [0.0] * len(controls)), inner)
        for alpha, level in zip(alphas, levels, strict=True):
            if alpha in found:
                yield keep, alpha, to_solution(optimum(scores, keep, level, found[alpha]), level)
            else:
                yield keep, alpha, solve(target, controls, keep, level)


def _along(rest: Rest, points: list[tuple[float, list[float]]]) -> dict[float, Found]:
    """Search for the optima along a path of levels, halving it: entries that a stretch settles are read once.

    Levels for which nothing is found, as they cannot be reached together, are left out.
    """
    halved = len(points) > 3 and len(rest) > DIRECT
    ends = [0, len(points) // 2, len(points) - 1] if halved else list(range(len(points)))
    found: dict[float, Found] = {}
    for i in ends:
        alpha, levels = points[i]
        try:
            found[alpha] = search(rest.at(levels), last_resort=False)
        except UnreachableError:
            continue
    if not halved or len(found) < 3:
        return found
    box = Box.over([vertex.y.tolist() for _, vertex in found.values()])
    smaller = rest.settle(box)
    middle = len(points) // 2
    for stretch in (points[1:middle], points[middle + 1 : -1]):
        inside = _along(smaller, stretch)
        for alpha, levels in stretch:
            if alpha in inside and inside[alpha][1].y.tolist() in box:
                found[alpha] = inside[alpha]
            else:
                found |= _along(rest, [(alpha, levels)])
    return found
