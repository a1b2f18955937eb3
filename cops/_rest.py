"""The undecided rest of a problem: every other entry is known to be kept, or known not to be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cops._box import Box
from cops._round import first_of_equals, to_binary
from cops._select import places, threshold
from cops._simplex import EPS, UnreachableError, Vertex, simplex
from cops._sums import HAIR, kept, total
from cops._threads import spread

CHUNK = 2**18  # entries per step of a pass: the buffers stay in the processor's cache
ROUNDS = 20  # attempts to satisfy every control with a binary mask


class OverflowedError(Exception):
    """A pass met a value that is not finite: in the scores, or by overflow of float64."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What some entries add up to: how many they are, K + 1 sums of their scores, and of the absolute values."""

    count: int
    values: list[float]
    sizes: list[float]

    @classmethod
    def of(cls, columns: Sequence[Tensor]) -> "Sums":
        """Sums of `columns`, K + 1 tensors (n,)."""
        return cls(len(columns[0]), [total(row) for row in columns], [total(row.abs()) for row in columns])

    @classmethod
    def joined(cls, parts: Sequence["Sums"]) -> "Sums":
        """Sums of all `parts` together."""
        values = [math.fsum(row) for row in zip(*(part.values for part in parts), strict=True)]
        sizes = [math.fsum(row) for row in zip(*(part.sizes for part in parts), strict=True)]
        return cls(sum(part.count for part in parts), values, sizes)


@dataclass(frozen=True, slots=True)
class Rest:
    """Undecided entries and what is left for them to do.

    Attributes:
        scores: K + 1 tensors (r,), target first.
        keep: how many of them may be kept.
        levels: what they must still contribute to each of K controls.
        hair: rounding error of each level.
        index: their places (r,) in the whole; None if nothing is decided yet.
        decided: what was decided so far, the first first: places (n,) in the whole, None for all of them, and whether
            each is kept (n,). Entries still open then stand as not kept.
        sums: K + 1 sums of the scores decided to be kept.

    """

    scores: list[Tensor]
    keep: int
    levels: list[float]
    hair: list[float]
    index: Tensor | None
    decided: tuple[tuple[Tensor | None, Tensor], ...]
    sums: list[float]

    @classmethod
    def whole(cls, scores: list[Tensor], keep: int, levels: list[float]) -> "Rest":
        """Return the problem with nothing decided."""
        return cls(scores, keep, levels, [0.0] * len(levels), None, (), [0.0] * len(scores))

    def __len__(self) -> int:
        return len(self.scores[0])

    def mask(self, chosen: Tensor) -> Tensor:
        """Mask (d,) of the whole for a decision `chosen` (r,) about the undecided entries."""
        (_, first), *later = (*self.decided, (self.index, chosen))
        mask = first.clone()
        for index, inside in later:
            mask[index] = inside
        return mask

    def aim(self, levels: list[float]) -> "Rest":
        """Return the problem with `levels` of the whole added to those it has."""
        aimed = [have + level for have, level in zip(self.levels, levels, strict=True)]
        hair = [h + 8 * EPS * abs(level) for h, level in zip(self.hair, levels, strict=True)]
        return replace(self, levels=aimed, hair=hair)

    def flat(self) -> "Rest":
        """Write all that is decided into its first mask, which the problems that led here then share.

        It stays right for each of them: what they decide anew, they write to all their undecided entries.
        """
        (_, mask), *later = self.decided
        for index, inside in later:
            mask[index] = inside
        return replace(self, decided=((None, mask),))

    def decide(self, inside: Tensor, sums: Sums, still: Tensor, columns: list[Tensor]) -> "Rest":
        """Keep the entries `inside` (r,), of given sums; leave those at `still` (n,), of given scores, undecided."""
        hair = [
            h + 8 * EPS * (abs(level) + size)
            for h, level, size in zip(self.hair, self.levels, sums.sizes[1:], strict=True)
        ]
        return Rest(
            columns,
            self.keep - sums.count,
            [level - value for level, value in zip(self.levels, sums.values[1:], strict=True)],
            hair,
            still if self.index is None else self.index[still],
            (*self.decided, (self.index, inside)),
            [a + b for a, b in zip(self.sums, sums.values, strict=True)],
        )

    def force(self, control: int, edge: float) -> "Rest":
        """Decide what `control` (a row of scores) at its best decides alone: all entries off its `edge`."""
        inside = self.scores[control] > edge
        ties = (self.scores[control] == edge).nonzero().squeeze(1)
        sums = Sums.of([score[inside].double() for score in self.scores])
        rest = self.decide(inside, sums, ties, [score[ties].double() for score in self.scores])
        rest.levels[control - 1], rest.hair[control - 1] = rest.keep * edge, 0.0
        return rest

    def settle(self, box: Box, wide: bool = False) -> "Rest":
        """Decide, in one pass, every entry on the same side of the threshold for all dual points in `box`.

        Margins are taken in the scores' own precision: the box is larger than float32 rounding, and an optimum
        counts only well inside of it, so no decision rests on rounding. All-zero columns change nothing and
        stay out, whatever the threshold. `wide` takes them in float64, for scores whose combination leaves the
        range of float32.

        Raises:
            OverflowedError: if a value is not finite.

        """
        head = self.scores[0]
        wide = wide or not box.fits_float32()
        precision = torch.float64 if wide else head.dtype
        inside = torch.empty(len(self), dtype=torch.bool, device=head.device)

        def sift(starts: Sequence[int]) -> list[tuple[Sums, Tensor, Tensor] | None]:
            buffers = torch.empty(3, min(CHUNK, len(self)), dtype=precision, device=head.device)
            return [self._sift(start, box, buffers, inside[start : start + CHUNK]) for start in starts]

        sifted = spread(sift, range(0, len(self), CHUNK))
        found = [part for part in sifted if part is not None]
        if len(found) < len(sifted):
            if precision == torch.float64:
                raise OverflowedError
            return self.settle(box, wide=True)
        sums, still, columns = zip(*found, strict=True)
        return self.decide(inside, Sums.joined(sums), torch.cat(still), list(torch.cat(columns, 1)))

    def _sift(self, start: int, box: Box, buffers: Tensor, inside: Tensor) -> tuple[Sums, Tensor, Tensor] | None:
        """Mark the entries of a chunk that are kept; their sums, places still undecided, and the scores there.

        None if a value of this chunk is not finite.
        """
        chunk = [score[start : start + CHUNK].to(buffers.dtype) for score in self.scores]
        lower, upper, radius = buffers[:, : len(inside)]
        source = chunk[0]
        for weight, score in zip(box.weights, chunk[1:], strict=True):
            source = torch.add(source, score, alpha=weight, out=lower)
        upper.copy_(source)
        if source is not lower:
            lower.copy_(source)
        for half, slope, score in zip(box.half, box.slope, chunk[1:], strict=True):
            torch.sub(score, slope, out=radius).abs_()
            upper.add_(radius, alpha=half)
            lower.sub_(radius, alpha=half)
        # One finite sum shows that no score of this chunk is NaN or infinite.
        if not math.isfinite(float(upper.sum())):
            return None
        # Comparisons that write numbers, 0 or 1, take a quarter of the time of those that write truth values.
        sure = torch.gt(lower, box.tau + box.width, out=lower)
        inside.copy_(sure)
        loose = torch.ge(upper, box.tau - box.width, out=upper).sub_(sure)
        open_ = places(loose.bool())
        values, sizes = [], []
        for score in chunk:
            chosen = torch.mul(score, sure, out=radius)
            values.append(total(chosen))
            sizes.append(float(chosen.abs_().sum()))
        columns = torch.stack([score.index_select(0, open_) for score in chunk]).double()
        if bool((columns == 0.0).all(0).any()):
            seen = (columns != 0.0).any(0).nonzero().squeeze(1)
            open_, columns = open_[seen], columns[:, seen]
        return Sums(int(sure.sum()), values, sizes), open_ + start, columns

    def vertex(self, levels: list[float] | None = None) -> Vertex:
        """Optimal vertex of the relaxation, for other `levels` if given."""
        scores = torch.stack([score.double() for score in self.scores])
        rows = torch.cat([scores[1:], scores.new_full((1, len(self)), -1.0)])
        rhs = [*(self.levels if levels is None else levels), -float(self.keep)]
        vertex = simplex(scores[0], rows, rhs, [*self.hair, 0.0])
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
