"""From a vertex of the relaxation, with its few fractional entries, to a binary mask."""

import torch
from torch import Tensor

from cops._sums import total

POOL = 12  # entries decided by exhaustion when the fractional ones alone allow no feasible mask


def first_of_equals(x: Tensor, scores: Tensor, ties: Tensor) -> Tensor:
    """Move the mass of `x` (n,) among equal columns of `scores` (K + 1, n) to the first of `ties`."""
    if len(ties) < 2:
        return x
    _, group = torch.unique(scores[:, ties], dim=1, return_inverse=True)
    mass = x.new_zeros(int(group.max()) + 1).index_add_(0, group, x[ties])
    order = torch.sort(group, stable=True).indices
    sizes = torch.bincount(group)
    rank = torch.arange(len(ties), device=x.device) - (sizes.cumsum(0) - sizes)[group[order]]
    x = x.clone()
    x[ties[order]] = (mass[group[order]] - rank).clamp(0.0, 1.0)
    return x


def to_binary(x: Tensor, scores: Tensor, margin: Tensor, keep: int, levels: list[float]) -> Tensor:
    """Best binary neighbour (n,) of the vertex `x` (n,): at most `keep` entries, every control at its level.

    Args:
        x: values in [0, 1], few of them fractional.
        scores: (K + 1, n), target first.
        margin: (n,), distance of each entry from the threshold; the nearest ones are changed first.
        keep: number of entries that may be kept.
        levels: K levels for the controls.

    """
    fractional = ((x > 0) & (x < 1)).nonzero().squeeze(1)
    mask, worst = _exhaust(x == 1, fractional, scores, keep, levels)
    if worst > 0:
        distance = margin.abs()
        distance[fractional] = -1.0
        pool = torch.sort(distance, stable=True).indices[: max(POOL, len(fractional))].sort().values
        mask, _ = _exhaust(x == 1, pool, scores, keep, levels)
    return mask


def _exhaust(mask: Tensor, free: Tensor, scores: Tensor, keep: int, levels: list[float]) -> tuple[Tensor, float]:
    """Decide the entries `free` by trying every choice; also how far below its level a control stays."""
    mask = mask.clone()
    mask[free] = False
    choices = torch.arange(2 ** len(free), device=mask.device)
    room = keep - int(mask.sum())
    size = torch.zeros_like(choices)
    sums = scores.new_zeros(len(scores), len(choices))
    for bit, entry in enumerate(free):
        chosen = choices >> bit & 1
        size += chosen
        sums += chosen * scores[:, entry, None]
    violation = scores.new_zeros(len(choices))
    for score, values, level in zip(scores[1:], sums[1:], levels, strict=True):
        base = score[mask]
        hair = 2.0**-48 * (total(base.abs()) + abs(level))
        short = level - total(base) - values
        unit = float(score[free].abs().max()) if len(free) else 0.0
        violation = violation.maximum(torch.where(short > hair, short / max(unit, hair), 0.0))
    violation[size > room] = torch.inf
    least = violation.min()
    best = torch.where(violation == least, sums[0], -torch.inf).argmax()
    mask[free] = (best >> torch.arange(len(free), device=mask.device) & 1).bool()
    return mask, float(least)
