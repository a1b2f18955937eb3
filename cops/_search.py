"""Linear-time search for the optimum: bracket it on a sample, settle all that the bracket decides, repeat."""

import contextlib

import torch
from torch import Tensor

from cops._box import Box, confidence
from cops._rest import Rest, combined, margins
from cops._select import largest
from cops._simplex import UnreachableError, Vertex
from cops._sums import kept, total

DIRECT = 2**13  # entries that are solved at once
LARGEST_SAMPLE = 2**16
ATTEMPTS = 6
LOOSE = 0.25  # share of undecided entries above which a box is not worth a pass
LENIENCE = (1.0, 0.97, 0.9, 0.7, 0.4, 0.0)  # shares of the way to levels that a sample cannot reach together

Reach = list[tuple[float, float]]  # of each control: its sum with the target's best mask, and with its own


def search(rest: Rest, last_resort: bool = True, reach: Reach | None = None) -> tuple[Rest, Vertex]:
    """Reduce `rest` to a few undecided entries and return them with their optimal vertex.

    The reduced dual is a lower bound of the dual and equals it inside the box, so an optimum found inside is
    the optimum of the whole. Otherwise the pass has told the sums at the centre of the box; from there on the
    sample only has to predict what changes between that centre and the optimum, which is far less. Without
    luck the `last_resort` is the vertex of all of `rest`, which takes memory and time. `reach` is that of
    `rest`, where it is known already.

    Raises:
        UnreachableError: if no vertex satisfies the levels, or none was found short of the last resort.
        OverflowedError: if a value is not finite.

    """
    if len(rest) <= DIRECT:
        return rest, rest.vertex()
    sample = Sample(rest, reach)
    for attempt in range(ATTEMPTS):
        box = sample.guess()
        smaller = rest.settle(box)
        # Ties cannot be told apart by any box: then all that is undecided is solved at once.
        tied = 2 * len(smaller) > len(rest)
        if sample.lost and not tied:
            sample.refer(box, smaller)
            continue
        try:
            final, vertex = (smaller, smaller.vertex()) if tied else search(smaller)
        except UnreachableError:
            if attempt and not last_resort:
                raise
            if sample.reach is None:
                sample.relate()
                continue
        else:
            if vertex.y.tolist() in box:
                return final, vertex
        sample.refer(box, smaller)
    if not last_resort:
        raise UnreachableError
    vertex = rest.vertex()
    smaller = rest.settle(Box.at(vertex.y.tolist()))
    return (smaller, smaller.vertex()) if len(smaller) < len(rest) else (rest, vertex)


class Sample:
    """A sample of a problem, drawn with a fixed seed, that guesses where the optimum of the whole is.

    Its levels are those of the whole, scaled down. Once the sums of the whole are known at some dual point,
    the reference, they are what the sample has there plus the scaled-down difference that is left. Where a few
    large entries, of which no sample has its share, decide the sums, levels are relative: as far from the
    target alone to the control alone as in the whole.
    """

    def __init__(self, rest: Rest, reach: Reach | None) -> None:
        self.rest = rest
        self.reach = reach if rest.levels else []
        size = max(DIRECT // 2, min(LARGEST_SAMPLE, len(rest) // 32))
        jitter = torch.rand(size, generator=torch.Generator().manual_seed(len(rest)), dtype=torch.float64)
        # One entry from each of `size` stretches: layers, whose scales differ, are met in proportion.
        places = ((torch.arange(size) + jitter) * (len(rest) / size)).long().clamp(max=len(rest) - 1)
        places = places.to(rest.scores[0].device)
        self.scores = torch.stack([score.index_select(0, places) for score in rest.scores]).double()
        self.share = size / len(rest)
        self.keep = self._whole(self.share * rest.keep)
        self.mask = torch.zeros(size, dtype=torch.bool, device=places.device)
        self.known: list[float] | None = None
        self.lost = False  # whether the last guess is a point, worth a pass only for the sums there

    def refer(self, box: Box, smaller: Rest) -> None:
        """Take the centre of `box` as the reference: `smaller` is what the box leaves of the whole."""
        centre = [*box.weights, box.tau]
        self.mask = combined(list(self.scores), centre) > box.tau
        chosen = combined(smaller.scores, centre) > box.tau
        rest = self.rest
        self.known = [
            *(
                after - before + total(score[chosen])
                for after, before, score in zip(smaller.sums[1:], rest.sums[1:], smaller.scores[1:], strict=True)
            ),
            float(rest.keep - smaller.keep + int(chosen.sum())),
        ]

    def relate(self) -> None:
        """Take levels relatively, and the target alone as the reference."""
        if self.reach is None:
            masks = [best_alone(score, self.rest.keep) for score in self.rest.scores]
            self.reach = [
                (kept(score, masks[0]), kept(score, own))
                for score, own in zip(self.rest.scores[1:], masks[1:], strict=True)
            ]
        self.known = None
        self.mask = largest(self.scores[0], self.keep)

    def guess(self) -> Box:
        """Box that probably holds the optimum; around a point only, if it would leave too much undecided."""
        levels, keep = self._levels()
        with contextlib.suppress(UnreachableError):
            return self._box(levels, keep)
        self.relate()
        for lenience in LENIENCE:
            with contextlib.suppress(UnreachableError):
                return self._box(self._levels(lenience)[0], self.keep)
        raise UnreachableError

    def _levels(self, lenience: float = 1.0) -> tuple[list[float], int]:
        """Levels for the sample, and how many entries it keeps."""
        controls = self.scores[1:]
        if self.known is not None:
            *want, size = (
                self.share * (a - b) for a, b in zip((*self.rest.levels, self.rest.keep), self.known, strict=True)
            )
            levels = [kept(score, self.mask) + step for score, step in zip(controls, want, strict=True)]
            return levels, self._whole(int(self.mask.sum()) + size)
        if self.reach is None:
            return [self.share * level for level in self.rest.levels], self.keep
        levels = []
        for score, level, (low, high) in zip(controls, self.rest.levels, self.reach, strict=True):
            alpha = (level - low) / (high - low) if high > low else 0.0
            start, end = kept(score, self.mask), kept(score, largest(score, self.keep))
            levels.append(start + lenience * min(alpha, 1.0) * (end - start))
        return levels, self.keep

    def _box(self, levels: list[float], keep: int) -> Box:
        _, vertex = search(Rest.whole(list(self.scores), keep, levels))
        y = vertex.y.tolist()
        box = confidence(self.scores, y, self.mask)
        lower, upper = margins(self.scores, box)
        self.lost = int(((lower <= 0.0) & (upper >= 0.0)).sum()) > LOOSE * self.scores.shape[1]
        return Box.at(y) if self.lost else box

    def _whole(self, keep: float) -> int:
        return max(0, min(round(keep), self.scores.shape[1]))


def best_alone(score: Tensor, keep: int) -> Tensor:
    """Mask of the best `keep` entries of one score without controls."""
    final, vertex = search(Rest.whole([score], keep, []))
    return final.mask(final.binary(vertex))
