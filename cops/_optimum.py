"""The optimum of a problem and its certificate, corners included."""

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cops._box import Box
from cops._rest import CHUNK, Rest, combined
from cops._search import search
from cops._select import largest
from cops._simplex import UnreachableError
from cops._sums import HAIR, kept, total


@dataclass(frozen=True, slots=True)
class Optimum:
    """A binary mask and a dual point `y = [lambda_1 .. lambda_K, tau]` that certifies it."""

    mask: Tensor
    y: list[float]
    objective: float
    controls: list[float]
    gap: float


def alone(score: Tensor, keep: int) -> Optimum:
    """Optimum of one score without controls."""
    if keep == 0:
        return Optimum(torch.zeros_like(score, dtype=torch.bool), [0.0], 0.0, [], 0.0)
    final, vertex = search(Rest.whole([score], keep, []))
    return _certified([score], [], final, final.binary(vertex), vertex.y.tolist())


def optimum(scores: list[Tensor], keep: int, levels: list[float]) -> Optimum:
    """Optimum for `scores`, K + 1 tensors (d,), target first.

    Two corners are decided exactly rather than by the multipliers, which rounding blurs there: levels that
    the mask of the target alone satisfies (`lambda = 0`), and levels at the very best of a control (`lambda`
    to infinity).

    Raises:
        UnreachableError: if no mask, not even a fractional one, satisfies the levels.

    """
    rest = Rest.whole(scores, keep, levels)
    found = None
    with contextlib.suppress(UnreachableError):
        found = search(rest, last_resort=False)
    if found and not _at_corner(found[0]):
        return _certified(scores, levels, found[0], found[0].binary(found[1]), found[1].y.tolist())
    free = alone(scores[0], keep)
    values = [kept(score, free.mask) for score in scores[1:]]
    if all(value >= level for value, level in zip(values, levels, strict=True)):
        return Optimum(free.mask, [0.0] * len(levels) + free.y, free.objective, values, 0.0)
    rest, edges = _forced(rest)
    if found is None or edges:
        found = search(rest)
    final, vertex = found
    best = _certified(scores, levels, final, final.binary(vertex), vertex.y.tolist())
    for k, edge in reversed(edges.items()):
        _raise(scores, best.y, k, edge)
    # Summed like `kappa` was: at its best a control must not seem short by the order of additions.
    return replace(best, controls=[kept(score, best.mask) for score in scores[1:]])


def aimed(scores: list[Tensor], rest: Rest, box: Box, levels: list[float]) -> Optimum | None:
    """Optimum for `levels` from the `rest` that `box` leaves of levels 0; None where that is not certain."""
    try:
        final, vertex = search(rest.aim(levels), last_resort=False)
    except UnreachableError:
        return None
    y = vertex.y.tolist()
    return None if y not in box or _at_corner(final) else _certified(scores, levels, final, final.binary(vertex), y)


def _at_corner(final: Rest) -> bool:
    """Whether the target alone, or a control at its best, might decide the undecided entries."""
    first, *controls = final.scores
    free = largest(first, final.keep)
    below = False
    for score, level, hair in zip(controls, final.levels, final.hair, strict=True):
        best = largest(score, final.keep)
        tolerance = 4 * (hair + HAIR * kept(score.abs(), best))
        if level >= kept(score, best) - tolerance:
            return True
        below = below or level > kept(score, free) + tolerance
    return not below


def _forced(rest: Rest) -> tuple[Rest, dict[int, float]]:
    """Decide what controls at their very best decide; also the edge of each such control."""
    edges = {}
    for k in range(1, len(rest.scores)):
        score = rest.scores[k]
        if not len(rest):
            break
        best = alone(score, rest.keep).mask
        value, hair = kept(score, best), rest.hair[k - 1]
        short = rest.levels[k - 1] - value
        if short > hair + HAIR * kept(score.abs(), best):
            raise UnreachableError
        if short >= -hair:
            edges[k] = float(score[best].min()) if rest.keep and int(best.sum()) == rest.keep else 0.0
            rest = rest.force(k, edges[k])
    return rest, edges


def _raise(scores: list[Tensor], y: list[float], control: int, edge: float) -> None:
    """Raise the multiplier of a control at its best until it justifies all that the control decides."""
    rise = 0.0
    for start in range(0, len(scores[0]), CHUNK):
        chunk = [score[start : start + CHUNK] for score in scores]
        off = chunk[control].double() - edge
        pi = combined(chunk, y) - y[-1]
        rise = max(rise, float(torch.where(off == 0.0, 0.0, -pi / off).max()))
    y[control - 1] += rise
    y[-1] += rise * edge


def _certified(scores: list[Tensor], levels: list[float], final: Rest, chosen: Tensor, y: list[float]) -> Optimum:
    """Measure a mask, given on the undecided entries of `final`, and a dual point.

    The gap is summed from its parts, none of them negative: what each entry on the wrong side of the
    threshold costs, and what each slack constraint costs. A difference of large sums would be noise.
    """
    mask = final.mask(chosen)
    room = final.keep - int(chosen.sum())
    pi = combined(final.scores, y) - y[-1]
    gap = total(torch.where(chosen, -pi, pi).clamp(min=0.0)) + y[-1] * room
    values = [a + kept(score, chosen) for a, score in zip(final.sums, final.scores, strict=True)]
    if room and y[-1] == 0.0:
        _fill(scores, mask, y, room)
        values = [kept(score, mask) for score in scores]
    for weight, value, level, score in zip(y[:-1], values[1:], levels, final.scores[1:], strict=True):
        hair = HAIR * (abs(value) + abs(level) + kept(score.abs(), chosen))
        gap += weight * (value - level) if abs(value - level) > hair else 0.0
    return Optimum(mask, y, values[0], values[1:], max(gap, 0.0))


def _fill(scores: list[Tensor], mask: Tensor, y: list[float], room: int) -> None:
    """Keep entries whose combined score is exactly zero while there is room, if they lower no sum, target included."""
    for start in range(0, len(mask), CHUNK):
        chunk = [score[start : start + CHUNK] for score in scores]
        free = (combined(chunk, y) == 0.0) & ~mask[start : start + CHUNK]
        for score in chunk:
            free &= score >= 0.0
        places = free.nonzero().squeeze(1)[:room]
        mask[places + start] = True
        room -= len(places)
        if not room:
            return
