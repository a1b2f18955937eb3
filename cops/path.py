"""Many masks of the same scores: a grid of relative levels and sizes (arXiv 2107.12673)."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from cops._box import EDGE, Box
from cops._check import check, check_finite
from cops._optimum import Optimum, aimed, alone
from cops._rest import OverflowedError, Rest
from cops._search import DIRECT, Reach, Sample
from cops._simplex import UnreachableError
from cops._sums import kept
from cops._threads import one_thread_each
from cops.lp import InfeasibleError, Solution, certificate, solve

SMALL = 16 * DIRECT  # undecided entries that are not worth another pass
WORTH = 4  # alphas between the first and the last that make sharing worthwhile
HALF = 0.5 + 4.0 * EDGE  # half size of a hull, in distances between its ends: both are trusted


def path(
    target: Tensor, controls: Sequence[Tensor], keeps: Sequence[int], alphas: Sequence[float]
) -> Iterator[tuple[int, float, Solution]]:
    """Solve for every size in `keeps` and every relative level in `alphas`, sharing the passes.

    The multipliers grow with alpha. Weights on the same side of the threshold at two levels and all between are
    decided once for all the levels between: each half of the grid is solved on what is left there.

    Args:
        target: score (d,), float32 or float64.
        controls: K scores (d,); each `alpha` holds for all of them, see `cops.levels.relative_kappa`.
        keeps: sizes, each 0..d.
        alphas: relative levels, each in [0, 1].

    Yields:
        `(keep, alpha, solution)` in the order of `keeps`, then of growing alpha: a few masks (d,) at a time, since
        all of them may be more than memory holds. Each is what `solve` returns for that level.

    Raises:
        ValueError: for input that is malformed or not finite; the message names it.
        InfeasibleError: if K >= 2 controls cannot reach their levels together.

    """
    for keep in keeps:
        check(target, controls, keep, [0.0] * len(controls))
    for k, alpha in enumerate(alphas):
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alphas[{k}] is {alpha}: give a number from 0 to 1")
    scores = [target.detach(), *(control.detach() for control in controls)]
    for keep in keeps:
        try:
            with one_thread_each():
                row = _Row.of(scores, keep)
        except OverflowedError:
            check_finite(target, controls)
            raise ValueError("the scores' sums overflow float64: divide each score by its l1 norm") from None
        for alpha, solution in row.solutions(sorted(alphas)):
            yield keep, alpha, solution


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a box leaves undecided that holds all dual points from `low` to `high`.

    They lie on a curve; `bend` is how far its middle is off the straight line, in each coordinate.
    """

    rest: Rest
    box: Box
    low: list[float]
    high: list[float]
    bend: list[float]
    wider: "_Shared | None"

    def solve(self, scores: list[Tensor], levels: list[float]) -> Optimum | None:
        """Optimum for `levels`; None if not even the widest box holds it for certain."""
        found = aimed(scores, self.rest, self.box, levels)
        return self.wider.solve(scores, levels) if found is None and self.wider else found

    def part(self, low: list[float], high: list[float], bend: list[float]) -> "_Shared":
        """The same for a part of the curve."""
        if len(self.rest) <= SMALL:
            return _Shared(self.rest, self.box, low, high, bend, self.wider)
        box = _hull(low, high, bend)
        return _Shared(self.rest.settle(box).flat(), box, low, high, bend, self)


@dataclass(frozen=True, slots=True)
class _Row:
    """All levels of one size; `reach` is what alpha 0 and alpha 1 stand for, of each control."""

    scores: list[Tensor]
    keep: int
    reach: Reach

    @classmethod
    def of(cls, scores: list[Tensor], keep: int) -> "_Row":
        free = alone(scores[0], keep).mask
        return cls(scores, keep, [(kept(score, free), kept(score, alone(score, keep).mask)) for score in scores[1:]])

    def levels(self, alpha: float) -> list[float]:
        return [(1.0 - alpha) * low + alpha * high for low, high in self.reach]

    def alone(self, alpha: float) -> Solution:
        return solve(self.scores[0], self.scores[1:], self.keep, self.levels(alpha))

    def solutions(self, alphas: Sequence[float]) -> Iterator[tuple[float, Solution]]:
        """Solve for ascending alphas."""
        inner = [alpha for alpha in alphas if 0.0 < alpha < 1.0]  # at 0 and 1 multipliers say nothing of the others
        shared = None
        if len(self.scores) > 1 and len(self.scores[0]) > SMALL and self.keep and len(inner) > WORTH:
            with contextlib.suppress(InfeasibleError):
                first, last = self.alone(inner[0]), self.alone(inner[-1])
                shared = self.shared(_point(first), _point(last), (inner[0] + inner[-1]) / 2.0)
        if shared is None:
            yield from ((alpha, self.alone(alpha)) for alpha in alphas)
            return
        yield from ((alpha, self.alone(alpha)) for alpha in alphas if alpha == 0.0)
        yield inner[0], first
        yield from self.between(shared, inner[1:-1])
        yield inner[-1], last
        yield from ((alpha, self.alone(alpha)) for alpha in alphas if alpha == 1.0)

    def shared(self, low: list[float], high: list[float], middle: float) -> _Shared | None:
        """What is undecided from `low` to `high`, by a sample's guess for the alpha in the `middle`."""
        whole = Rest.whole(self.scores, self.keep, [0.0] * len(self.reach))
        with one_thread_each():
            try:
                guess = Sample(whole.aim(self.levels(middle)), self.reach).guess()
            except UnreachableError:
                return None
            bend = [2.0 * off for off in _bend(low, high, [*guess.weights, guess.tau])]
            bend[-1] += guess.width
            hull = _hull(low, high, bend)
            return _Shared(whole.settle(hull), hull, low, high, bend, None)

    def between(self, shared: _Shared | None, alphas: Sequence[float]) -> Iterator[tuple[float, Solution]]:
        """Solve for ascending alphas: the middle one first, then those on each side of it."""
        if not alphas:
            return
        middle = len(alphas) // 2
        before, alpha, after = alphas[:middle], alphas[middle], alphas[middle + 1 :]
        levels = self.levels(alpha)
        left = right = None
        with one_thread_each():
            found = shared and shared.solve(self.scores, levels)
        solution = certificate(found, levels) if found else self.alone(alpha)
        if shared and len(alphas) > 1:
            y = _point(solution)
            bend = [off / 2.0 for off in _bend(shared.low, shared.high, y)]
            with one_thread_each():
                left = shared.part(shared.low, y, bend) if before else None
        yield from self.between(left, before)
        yield alpha, solution
        if shared and after:
            with one_thread_each():
                right = shared.part(y, shared.high, bend)
        yield from self.between(right, after)


def _point(solution: Solution) -> list[float]:
    return [*solution.multipliers, solution.threshold]


def _slope(low: list[float], high: list[float]) -> list[float]:
    """Change of the threshold with each multiplier along the line from `low` to `high`."""
    *steps, rise = (b - a for a, b in zip(low, high, strict=True))
    square = sum(step * step for step in steps)
    return [rise * step / square if square else 0.0 for step in steps]


def _bend(low: list[float], high: list[float], y: list[float]) -> list[float]:
    """How far `y` is off the line from `low` to `high`, in each coordinate."""
    steps = [b - a for a, b in zip(low[:-1], high[:-1], strict=True)]
    off = [b - a for a, b in zip(low[:-1], y[:-1], strict=True)]
    square = sum(step * step for step in steps)
    share = sum(a * b for a, b in zip(steps, off, strict=True)) / square if square else 0.0
    along = sum(a * b for a, b in zip(_slope(low, high), off, strict=True))
    return [*(abs(a - share * b) for a, b in zip(off, steps, strict=True)), abs(y[-1] - low[-1] - along)]


def _hull(low: list[float], high: list[float], bend: list[float]) -> Box:
    """Box around the curve from `low` to `high` that is off the straight line by up to `bend`."""
    *centre, tau = ((a + b) / 2.0 for a, b in zip(low, high, strict=True))
    half = [HALF * abs(b - a) + off for a, b, off in zip(low[:-1], high[:-1], bend[:-1], strict=True)]
    return Box(centre, tau, half, _slope(low, high), bend[-1]).at_least()
