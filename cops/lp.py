"""The exact COPS optimum with its certificate (arXiv 2107.12673).

maximise   <s_0, m>    subject to    <1, m> <= keep,    <s_k, m> >= kappa_k  (k = 1..K),    m in {0, 1}^d
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cops._check import check
from cops._rest import Rest
from cops._select import largest, threshold
from cops._simplex import UnreachableError
from cops._sums import HAIR, kept, total


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
        mask, multipliers = _optimum(scores, keep, levels)
    except UnreachableError:
        _blame(scores[1:], keep, levels)
        # Every level is within reach but for rounding: ask for that much less.
        hairs = [HAIR * total(score.abs()) for score in scores[1:]]
        try:
            mask, multipliers = _optimum(scores, keep, [a - b for a, b in zip(levels, hairs, strict=True)])
        except UnreachableError:
            reachable = [level - hair for level, hair in zip(levels, hairs, strict=True)]
            raise InfeasibleError(len(levels) - 1, levels[-1], reachable[-1], keep) from None
    return _certify(scores, mask, multipliers, keep, levels)


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
    return largest(scores.detach(), keep)


def _optimum(scores: list[Tensor], keep: int, levels: list[float]) -> tuple[Tensor, list[float]]:
    """Optimal mask (d,) and multipliers."""
    mask = largest(scores[0], keep)
    if all(kept(score, mask) >= level for score, level in zip(scores[1:], levels, strict=True)):
        return mask, [0.0] * len(levels)
    rest = Rest.whole(scores, keep, levels)
    forced = []
    for k in range(1, len(scores)):
        best = largest(rest.scores[k], rest.keep)
        reachable = kept(rest.scores[k], best)
        short, hair = rest.levels[k - 1] - reachable, rest.hair[k - 1]
        if short >= -hair:
            if short > hair + HAIR * kept(rest.scores[k].abs(), best):
                raise UnreachableError
            edge = float(rest.scores[k][best].min()) if int(best.sum()) == rest.keep else 0.0
            forced.append((k, edge))
            rest = rest.force(k, edge)
    mask, y = rest.solve()
    for k, edge in reversed(forced):
        y = _raise(scores, y, k, edge)
    return mask, y[:-1]


def _raise(scores: list[Tensor], y: list[float], control: int, edge: float) -> list[float]:
    """Raise the multiplier of a control at its best until it justifies every entry it decides."""
    off = scores[control].double() - edge
    pi = scores[0].double() - y[-1]
    for weight, score in zip(y[:-1], scores[1:], strict=True):
        pi += weight * score.double()
    rise = float(torch.where(off == 0.0, 0.0, -pi / off).max().clamp(min=0.0))
    raised = list(y)
    raised[control - 1] += rise
    raised[-1] += rise * edge
    return raised


def _certify(scores: list[Tensor], mask: Tensor, multipliers: list[float], keep: int, levels: list[float]) -> Solution:
    """Measure mask and dual point on all scores.

    The gap is summed from its parts, none of them negative: what each entry on the wrong side of the
    threshold costs, and what each slack constraint costs. A difference of large sums would be noise.
    """
    pi = scores[0].to(torch.float64, copy=True)
    for weight, score in zip(multipliers, scores[1:], strict=True):
        pi += weight * score.double()
    tau = threshold(pi, keep) if keep else max(0.0, float(pi.max()))
    wrong = torch.where(mask, tau - pi, pi - tau).clamp(min=0.0)
    objective, *values = (kept(score, mask) for score in scores)
    gap = total(wrong) + tau * (keep - int(mask.sum()))
    slack = []
    for weight, value, level, score in zip(multipliers, values, levels, scores[1:], strict=True):
        excess = value - level
        if abs(excess) <= HAIR * kept(score.abs(), mask):
            excess = 0.0
        gap += weight * excess
        slack.append(max(0.0, -excess))
    gap = max(gap, 0.0)
    return Solution(mask, tuple(multipliers), tau, objective, objective + gap, gap, tuple(values), tuple(slack))


def _blame(controls: list[Tensor], keep: int, levels: list[float]) -> None:
    """Name the first control out of reach while those before it keep their levels."""
    for k, (control, level) in enumerate(zip(controls, levels, strict=True)):
        reachable = solve(control, controls[:k], keep, levels[:k]).bound
        if level > reachable + HAIR * (abs(level) + abs(reachable)):
            raise InfeasibleError(k, level, reachable, keep)
