"""Linear-time search for the optimum: bracket it on a sample, settle all that the bracket decides, repeat."""

import torch

from cops._box import Box, confidence
from cops._rest import Rest, combined, margins
from cops._simplex import UnreachableError, Vertex
from cops._sums import total

DIRECT = 2**13  # entries that are solved at once
LARGEST_SAMPLE = 2**16
ATTEMPTS = 6
LOOSE = 0.25  # share of undecided entries above which a box is not worth a pass
LENIENCE = (1.0, 0.97, 0.9, 0.7, 0.4, 0.0)  # shares of the way to levels that a sample cannot reach


def search(rest: Rest, last_resort: bool = True) -> tuple[Rest, Vertex]:
    """Reduce `rest` to a few undecided entries and return them with their optimal vertex.

    The reduced dual is a lower bound of the dual and equals it inside the box, so an optimum found inside is
    the optimum of the whole. Otherwise the pass has told the sums at the centre of the box; from there on the
    sample only has to predict what changes between that centre and the optimum, which is far less. Without
    luck the `last_resort` is the vertex of all of `rest`, which takes memory and time.

    Raises:
        UnreachableError: if no vertex satisfies the levels, or none was found short of the last resort.
        OverflowedError: if a value is not finite.

    """
    if len(rest) <= DIRECT:
        return rest, rest.vertex()
    sample = Sample(rest)
    for attempt in range(ATTEMPTS):
        box = sample.guess()
        smaller = rest.settle(box)
        try:
            # Ties cannot be told apart by any box: then all that is undecided is solved at once.
            tied = 2 * len(smaller) > len(rest)
            final, vertex = (smaller, smaller.vertex()) if tied else search(smaller)
        except UnreachableError:
            if attempt and not last_resort:
                raise
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
    the reference, they are what the sample has there plus the scaled-down difference that is left.
    """

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        size = max(DIRECT // 2, min(LARGEST_SAMPLE, len(rest) // 16))
        jitter = torch.rand(size, generator=torch.Generator().manual_seed(len(rest)), dtype=torch.float64)
        # One entry from each of `size` stretches: layers, whose scales differ, are met in proportion.
        places = ((torch.arange(size) + jitter) * (len(rest) / size)).long().clamp(max=len(rest) - 1)
        places = places.to(rest.scores[0].device)
        self.scores = torch.stack([score.index_select(0, places) for score in rest.scores]).double()
        self.share = size / len(rest)
        self.wanted = [*rest.levels, float(rest.keep)]
        self.mask = torch.zeros(size, dtype=torch.bool, device=places.device)
        self.known: list[float] | None = None

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

    def guess(self) -> Box:
        """Box that probably holds the optimum; around a point only, if it would leave too much undecided."""
        base = self.mask
        if self.known is None:
            keep = max(0, min(round(self.share * self.rest.keep), len(base)))
            base = torch.zeros_like(self.mask)
            base[torch.topk(self.scores[0], keep).indices] = True
        rows = [*self.scores[1:], torch.ones_like(self.scores[0])]
        start = [total(row[base]) for row in rows]
        if self.known is None:
            steps = [self.share * want - have for want, have in zip(self.wanted, start, strict=True)]
        else:
            steps = [self.share * (want - have) for want, have in zip(self.wanted, self.known, strict=True)]
        for lenience in LENIENCE:
            *levels, room = (have + lenience * step for have, step in zip(start, steps, strict=True))
            sample = Rest.whole(list(self.scores), max(0, min(round(room), len(base))), levels)
            try:
                _, vertex = search(sample, last_resort=lenience == 0.0)
            except UnreachableError:
                continue
            box = confidence(self.scores, vertex.y.tolist(), self.mask)
            lower, upper = margins(self.scores, box)
            loose = int(((lower <= 0.0) & (upper >= 0.0)).sum()) > LOOSE * len(base)
            return Box.at(vertex.y.tolist()) if loose else box
        raise UnreachableError
