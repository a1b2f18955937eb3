"""The COPS problem where some weights are decided beforehand, or only in whole groups."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cops.flat import flatten, unflatten
from cops.layout import Layout
from cops.levels import relative_kappa
from cops.lp import Solution, solve

LARGEST_CHOICE = 12  # groups that are decided by trying every choice


def solve_within(
    layout: Layout, target: Tensor, controls: Sequence[Tensor], *, keep: int, alpha: Sequence[float], alive: Tensor
) -> Solution:
    """`cops.solve` at the relative levels `alpha`, over the masks of a layout that keep nothing outside `alive`.

    The levels are relative to what such masks can reach. All vectors are `(d,)`, and so is the solution's mask.
    """
    shapes = layout.shapes

    def level(vector: Tensor) -> Tensor:
        return flatten({name: layout.level(name, part) for name, part in unflatten(vector, shapes).items()})

    if layout.whole:
        target, controls = level(target), [level(control) for control in controls]
    parts, living = unflatten(target, shapes), unflatten(alive, shapes)
    limits = {name: layout.bounds(name, parts[name], living[name]) for name in shapes}
    must = flatten({name: least for name, (least, _) in limits.items()})
    may = flatten({name: most for name, (_, most) in limits.items()})
    solution, kappa = _between(must, may, target, controls, keep=keep, alpha=alpha)
    cut = layout.cut(unflatten(solution.mask, shapes))
    return _complete(solution, cut, target, controls, keep=keep, kappa=kappa)


def _between(
    must: Tensor, may: Tensor, target: Tensor, controls: Sequence[Tensor], *, keep: int, alpha: Sequence[float]
) -> tuple[Solution, list[float]]:
    """Optimal mask that keeps all of `must` and nothing outside `may`, and the levels of the controls."""
    free = may & ~must
    if bool(free.all()):
        kappa = relative_kappa(alpha, target, controls, keep) if controls else []
        return solve(target, controls, keep, kappa), kappa
    index = free.nonzero().flatten()
    offsets = [float(score[must].sum(dtype=torch.float64)) for score in (target, *controls)]
    if not len(index):
        zeros = (0.0,) * len(controls)
        return Solution(must, zeros, 0.0, offsets[0], offsets[0], 0.0, tuple(offsets[1:]), zeros), offsets[1:]
    goal, guards = target[index], [control[index] for control in controls]
    room = min(keep - int(must.sum()), len(index))
    kappa = relative_kappa(alpha, goal, guards, room) if controls else []
    inner = solve(goal, guards, room, kappa)
    mask = must.clone()
    mask[index[inner.mask]] = True
    whole = replace(
        inner,
        mask=mask,
        objective=inner.objective + offsets[0],
        bound=inner.bound + offsets[0],
        controls=tuple(value + offset for value, offset in zip(inner.controls, offsets[1:], strict=True)),
    )
    return whole, [level + offset for level, offset in zip(kappa, offsets[1:], strict=True)]


def _complete(
    solution: Solution,
    groups: Sequence[Tensor],
    target: Tensor,
    controls: Sequence[Tensor],
    *,
    keep: int,
    kappa: Sequence[float],
) -> Solution:
    """Keep each of the `groups` that `solution` cuts (positions of their weights) whole or not at all.

    Of all choices with at most `keep` weights the one that leaves the controls least below their levels `kappa`, and of
    those the best for the target. About K + 1 groups are cut at most, and fewer weights than theirs stay unused. The
    bound remains valid, since a mask of whole groups is a mask; gap and slack are those of the new mask.
    """
    if not groups:
        return solution
    tried = sorted(groups, key=lambda group: -int(solution.mask[group].sum()))[:LARGEST_CHOICE]
    mask = solution.mask.clone()
    mask[torch.cat(list(groups))] = False
    choices = (torch.arange(2 ** len(tried))[:, None] >> torch.arange(len(tried)) & 1).double()

    def sums(values: Tensor) -> Tensor:
        worth = [float(values[group].sum(dtype=torch.float64)) for group in tried]
        return float(values[mask].sum(dtype=torch.float64)) + choices @ torch.tensor(worth, dtype=torch.float64)

    goals, *reached = (sums(score) for score in (target, *controls))
    short = torch.zeros(len(kappa) + 1, len(choices), dtype=torch.float64)
    for row, values, level, control in zip(short[1:], reached, kappa, controls, strict=True):
        hair = 1e-12 * float(control.abs().sum(dtype=torch.float64))
        row.copy_(torch.where(level - values > hair, level - values, 0.0))
    worst = short.amax(0)
    worst[sums(torch.ones_like(target)) > keep] = torch.inf
    best = int(torch.where(worst == worst.min(), goals, -torch.inf).argmax())
    for group, chosen in zip(tried, choices[best].tolist(), strict=True):
        mask[group] = bool(chosen)
    return replace(
        solution,
        mask=mask,
        objective=float(goals[best]),
        bound=max(solution.bound, float(goals[best])),  # larger than it only where a control is below its level
        gap=max(0.0, solution.bound - float(goals[best])),
        controls=tuple(float(values[best]) for values in reached),
        slack=tuple(short[1:, best].tolist()),
    )
