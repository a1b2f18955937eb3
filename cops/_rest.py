"""The undecided rest of a problem: every other entry is known to be kept, or known not to be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cops._box import Box
from cops._round import first_of_equals, to_binary
from cops._select import threshold
from cops._simplex import EPS, UnreachableError, Vertex, simplex
from cops._sums import HAIR, kept, total
from cops._threads import spread

CHUNK = 2**18  # entries per step of a pass: the buffers stay in the processor's cache
ROUNDS = 20  # attempts to satisfy every control with a binary mask


Sifted = tuple[Tensor, Tensor, list[tuple[float, float]]]


class OverflowedError(Exception):
    """A pass met a value that is not finite: in the scores, or by overflow of float64."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Undecided entries and what is left for them to do.

    Attributes:
        scores: K + 1 tensors (r,), target first.
        keep: how many of them may be kept.
        levels: what they must still contribute to each of K controls.
        hair: rounding error of each level.
        index: their places (r,) in the whole; None if nothing is decided yet.
        kept: places of the entries decided to be kept.
        sums: K + 1 sums of the scores decided to be kept.

    """

    scores: list[Tensor]
    keep: int
    levels: list[float]
    hair: list[float]
    index: Tensor | None
    kept: tuple[Tensor, ...]
    sums: list[float]

    @classmethod
    def whole(cls, scores: list[Tensor], keep: int, levels: list[float]) -> "Rest":
        """Return the problem with nothing decided."""
        return cls(scores, keep, levels, [0.0] * len(levels), None, (), [0.0] * len(scores))

    def __len__(self) -> int:
        return len(self.scores[0])

    def places(self, local: Tensor) -> Tensor:
        """Places in the whole of the undecided entries `local`."""
        return local if self.index is None else self.index[local]

    def decide(self, inside: list[Tensor], undecided: Tensor, sums: list[float], sizes: list[float]) -> "Rest":
        """Keep the entries `inside`, of given `sums` and absolute sums `sizes`; leave `undecided` open."""
        hair = [
            h + 8 * EPS * (abs(level) + size) for h, level, size in zip(self.hair, self.levels, sizes[1:], strict=True)
        ]
        return Rest(
            [score[undecided].double() for score in self.scores],
            self.keep - sum(map(len, inside)),
            [level - value for level, value in zip(self.levels, sums[1:], strict=True)],
            hair,
            self.places(undecided),
            (*self.kept, *map(self.places, inside)),
            [a + b for a, b in zip(self.sums, sums, strict=True)],
        )

    def force(self, control: int, edge: float) -> "Rest":
        """Decide what `control` (a row of scores) at its best decides alone: all entries off its `edge`."""
        inside = (self.scores[control] > edge).nonzero().squeeze(1)
        ties = (self.scores[control] == edge).nonzero().squeeze(1)
        chosen = [score[inside].double() for score in self.scores]
        rest = self.decide([inside], ties, [total(c) for c in chosen], [total(c.abs()) for c in chosen])
        rest.levels[control - 1], rest.hair[control - 1] = rest.keep * edge, 0.0
        return rest

    def settle(self, box: Box, wide: bool = False) -> "Rest":
        """Decide, in one pass, every entry on the same side of the threshold for all dual points in `box`.

        A first filter in the scores' own precision drops most entries; the box is larger than float32
        rounding, and an optimum counts only well inside of it, so what the filter drops is dropped rightly.
        The others are judged in float64. All-zero columns change nothing and stay out, whatever the
        threshold. `wide` filters in float64, for scores whose combination leaves the range of float32.

        Raises:
            OverflowedError: if a value is not finite.

        """
        head = self.scores[0]
        wide = wide or not box.fits_float32()
        precision = torch.float64 if wide else head.dtype

        def sift(starts: Sequence[int]) -> list[Sifted | None]:
            buffers = torch.empty(2, min(CHUNK, len(self)), dtype=precision, device=head.device)
            passed = torch.empty(buffers.shape[1], dtype=torch.bool, device=head.device)
            return [self._sift(start, box, buffers, passed) for start in starts]

        sifted = spread(sift, range(0, len(self), CHUNK))
        found = [part for part in sifted if part is not None]
        if len(found) < len(sifted):
            if precision == torch.float64:
                raise OverflowedError
            return self.settle(box, wide=True)
        inside, undecided, sums = zip(*found, strict=True)
        by_score = [list(zip(*pairs, strict=True)) for pairs in zip(*sums, strict=True)]
        values, sizes = ([math.fsum(pair[k]) for pair in by_score] for k in (0, 1))
        return self.decide(list(inside), torch.cat(undecided), values, sizes)

    def _sift(self, start: int, box: Box, buffers: Tensor, passed: Tensor) -> Sifted | None:
        """Places decided to be kept, places undecided, and sum and absolute sum of each score that is kept.

        None if a value of this chunk is not finite.
        """
        chunk = [score[start : start + CHUNK].to(buffers.dtype) for score in self.scores]
        pi, radius = buffers[:, : len(chunk[0])]
        source = chunk[0]
        for weight, half, slope, score in zip(box.weights, box.half, box.slope, chunk[1:], strict=True):
            torch.add(source, score, alpha=weight, out=pi)
            torch.sub(score, slope, out=radius).abs_()
            pi.add_(radius, alpha=half)
            source = pi
        # One finite sum shows that no score of this chunk is NaN or infinite.
        if not math.isfinite(float(source.sum())):
            return None
        torch.ge(source, box.tau - box.width, out=passed[: len(source)])
        near = passed[: len(source)].nonzero().squeeze(1)
        columns = torch.stack([score[near] for score in chunk]).double()
        lower, upper = margins(columns, box)
        sure = (lower > 0.0).nonzero().squeeze(1)
        undecided = ((lower <= 0.0) & (upper >= 0.0) & (columns != 0.0).any(0)).nonzero().squeeze(1)
        chosen = columns[:, sure]
        sums = [(total(row), total(row.abs())) for row in chosen]
        return near[sure] + start, near[undecided] + start, sums

    def vertex(self, levels: list[float] | None = None) -> Vertex:
        """Optimal vertex of the relaxation, for other `levels` if given."""
        scores = torch.stack([score.double() for score in self.scores])
        rows = torch.cat([scores[1:], scores.new_full((1, len(self)), -1.0)])
        rhs = scores.new_tensor([*(self.levels if levels is None else levels), -self.keep])
        vertex = simplex(scores[0], rows, rhs, torch.ones_like(scores[0]), scores.new_tensor([*self.hair, 0.0]))
        if 0 < self.keep <= len(self):
            vertex.y[-1] = threshold(scores[0] + (scores[1:] * vertex.y[:-1, None]).sum(0), self.keep)
        return vertex

    def binary(self, vertex: Vertex) -> Tensor:
        """Mask (r,) next to the optimal vertex, with every control at its level if that is possible.

        Where all binary neighbours of the optimal vertex leave a control short, those of vertices for higher
        levels are tried.
        """
        chosen, short = self._round(vertex)
        raised = self.levels
        for _ in range(ROUNDS):
            if not any(short):
                break
            raised = [level + 1.5 * less for level, less in zip(raised, short, strict=True)]
            try:
                other, less = self._round(self.vertex(raised))
            except UnreachableError:
                break
            if max(less) < max(short):
                chosen, short = other, less
        return chosen

    def _round(self, vertex: Vertex) -> tuple[Tensor, list[float]]:
        """Binary neighbour (r,) of a vertex, and how far it leaves each control below its level."""
        scores = torch.stack([score.double() for score in self.scores])
        weighted = scores[1:] * vertex.y[:-1, None]
        margin = scores[0] + weighted.sum(0) - vertex.y[-1]
        noise = (scores[0].abs() + weighted.abs().sum(0) + vertex.y[-1]) * (64 * EPS)
        x = first_of_equals(vertex.x, scores, (margin.abs() <= noise).nonzero().squeeze(1))
        chosen = to_binary(x, scores, margin, self.keep, self.levels)
        short = []
        for score, level, hair in zip(scores[1:], self.levels, self.hair, strict=True):
            less = level - kept(score, chosen)
            short.append(less if less > hair + HAIR * (abs(level) + kept(score.abs(), chosen)) else 0.0)
        return chosen, short


def margins(columns: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Least and largest `pi - tau` (n,) over `box` of each of `columns` (K + 1, n), in float64."""
    centre = columns[0] - box.tau
    radius = torch.full_like(centre, box.width)
    for weight, half, slope, score in zip(box.weights, box.half, box.slope, columns[1:], strict=True):
        # Two roundings, never a fused multiply-add, which torch uses for some entries only.
        centre += score * weight
        radius += (score - slope).abs_() * half
    return centre - radius, centre + radius


def combined(scores: list[Tensor], y: list[float]) -> Tensor:
    """Return the combined score `pi = s_0 + sum_k lambda_k s_k` (r,) in float64."""
    pi = scores[0].to(torch.float64, copy=True)
    for weight, score in zip(y, scores[1:], strict=False):
        pi += score.double() * weight
    return pi
