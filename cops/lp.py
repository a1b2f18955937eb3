"""The exact COPS optimum with its certificate (arXiv 2107.12673).

maximise   <s_0, m>    subject to    <1, m> <= keep,    <s_k, m> >= kappa_k  (k = 1..K),    m in {0, 1}^d
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cops._check import check, check_finite
from cops._optimum import Optimum, alone, optimum
from cops._rest import OverflowedError
from cops._simplex import UnreachableError
from cops._sums import HAIR, total
from cops._threads import one_thread_each


@dataclass(frozen=True, slots=True)
class Solution:
    """A binary mask and the proof of how good it is.

    Attributes:
        mask: kept entries, bool (d,).
        multipliers: `lambda*`, one per control.
        threshold: `tau* = max(0, keep-th largest pi)` with `pi_i = s_0i + sum_k lambda_k s_ki`; entries with
            `pi_i > tau*` are kept.
        objective: `<s_0, mask>`.
        bound: dual bound `g(lambda*)`: no mask within the levels, binary or not, has a larger objective.
        gap: `bound - objective`, at most about K + 1 entries' worth.
        controls: `<s_k, mask>`, one per control.
        slack: how far each control is below its level; 0.0 where it is satisfied to rounding.

    """

    mask: Tensor
    multipliers: tuple[float, ...]
    threshold: float
    objective: float
    bound: float
    gap: float
    controls: tuple[float, ...]
    slack: tuple[float, ...]


class InfeasibleError(ValueError):
    """No mask of the size asked for brings the controls to their levels.

    Attributes:
        control: index of the first control that cannot reach its level while those before it keep theirs.
        level: the level asked for.
        reachable: the largest level it can reach.

    """

    def __init__(self, control: int, level: float, reachable: float, keep: int) -> None:
        before = " while the controls before it keep their levels" if control else ""
        super().__init__(
            f"kappa[{control}] = {level!r} is out of reach: keeping {keep} weights brings "
            f"controls[{control}] to {reachable!r} at most{before}; lower it or keep more weights"
        )
        self.control = control
        self.level = level
        self.reachable = reachable


def solve(target: Tensor, controls: Sequence[Tensor], keep: int, kappa: Sequence[float]) -> Solution:
    """Keep at most `keep` weights so that the target is largest while every control reaches its level.

    Args:
        target: score (d,), float32 or float64, larger = more worth keeping. Any sign, any scale.
        controls: K >= 0 scores (d,) of the same dtype and device.
        keep: largest number of weights kept, 0..d.
        kappa: K levels, in the units of the controls; `cops.levels.relative_kappa` gives scale-free ones.

    Returns:
        The mask with its certificate. Ties are kept by lowest index; entries whose combined score is
        negative are kept only if a control needs them. The result does not depend on the number of threads.

    Raises:
        ValueError: for input that is malformed or not finite; the message names it.
        InfeasibleError: if the levels cannot be reached, alone or together.

    """
    check(target, controls, keep, kappa)
    levels = [float(level) for level in kappa]
    scores = [target.detach(), *(control.detach() for control in controls)]
    try:
        with one_thread_each():
            best = _reachable(scores, keep, levels)
    except OverflowedError:
        check_finite(target, controls)
        raise ValueError("the scores' sums overflow float64: divide each score by its l1 norm") from None
    return certificate(best, levels)


def certificate(best: Optimum, levels: list[float]) -> Solution:
    """Return an optimum as what is promised about it."""
    slack = []
    for value, level in zip(best.controls, levels, strict=True):
        short = level - value
        slack.append(short if short > HAIR * (abs(value) + abs(level)) else 0.0)
    return Solution(
        mask=best.mask,
        multipliers=tuple(best.y[:-1]),
        threshold=best.y[-1],
        objective=best.objective,
        bound=best.objective + best.gap,
        gap=best.gap,
        controls=tuple(best.controls),
        slack=tuple(slack),
    )


def top(scores: Tensor, keep: int) -> Tensor:
    """Mask of the `keep` largest non-negative entries, ties by lowest index: the optimum without controls.

    Args:
        scores: (d,), float32 or float64.
        keep: largest number of entries kept, 0..d. Fewer are kept if fewer are non-negative.

    Returns:
        Mask, bool (d,).

    Raises:
        ValueError: for input that is malformed or not finite; the message names it.

    """
    check(scores, [], keep, [])
    try:
        with one_thread_each():
            return alone(scores.detach(), keep).mask
    except OverflowedError:
        check_finite(scores, [])
        raise ValueError("the scores' sum overflows float64: divide them by their l1 norm") from None


def _reachable(scores: list[Tensor], keep: int, levels: list[float]) -> Optimum:
    """Optimum; or an error that names the control out of reach."""
    try:
        return optimum(scores, keep, levels)
    except UnreachableError:
        _blame(scores[1:], keep, levels)
    # Every level is within reach but for rounding: ask for that much less.
    levels = [level - HAIR * total(score.abs()) for level, score in zip(levels, scores[1:], strict=True)]
    try:
        return optimum(scores, keep, levels)
    except UnreachableError:
        raise InfeasibleError(len(levels) - 1, levels[-1], levels[-1], keep) from None


def _blame(controls: list[Tensor], keep: int, levels: list[float]) -> None:
    """Name the first control out of reach while those before it keep their levels."""
    for k, (control, level) in enumerate(zip(controls, levels, strict=True)):
        reachable = solve(control, controls[:k], keep, levels[:k]).bound
        if level > reachable + HAIR * (abs(level) + abs(reachable)):
            raise InfeasibleError(k, level, reachable, keep)
