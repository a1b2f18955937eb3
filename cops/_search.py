"""Linear-time search for the optimum: bracket it on a sample, settle all that the bracket decides, repeat."""

import torch

from cops._box import Box, confidence
from cops._rest import Rest
from cops._simplex import UnreachableError, Vertex

DIRECT = 2**13  # entries that are solved at once
LARGEST_SAMPLE = 2**16
ATTEMPTS = 6
LENIENCE = (
    1.0,
    0.97,
    0.9,
    0.7,
    0.4,
    0.0,
)  # shares of the way from the target's mask to levels a sample cannot reach


def search(rest: Rest, last_resort: bool = True) -> tuple[Rest, Vertex]:
    """Reduce `rest` to a few undecided entries and return them with their optimal vertex.

    The reduced dual is a lower bound of the dual and equals it inside the box, so an optimum found inside is
    the optimum of the whole. One found outside is a better centre for the next box. Without any luck the
    `last_resort` is the vertex of all of `rest`, which takes memory and time.

    Raises:
        UnreachableError: if no vertex satisfies the levels, or none was found short of the last resort.
        OverflowedError: if a value is not finite.

    """
    if len(rest) <= DIRECT:
        return rest, rest.vertex()
    box = guess(rest)
    for _ in range(ATTEMPTS):
        smaller = rest.settle(box)
        if 2 * len(smaller) > len(rest):
            box = box.shrunk()
            continue
        try:
            final, vertex = search(smaller)
        except UnreachableError:
            if not last_resort:
                raise
            box = box.around([*(w + 4 * h for w, h in zip(box.weights, box.half, strict=True)), box.tau])
            continue
        if vertex.y.tolist() in box:
            return final, vertex
        box = box.around(vertex.y.tolist())
    if not last_resort:
        raise UnreachableError
    vertex = rest.vertex()
    smaller = rest.settle(Box.at(vertex.y.tolist()))
    return (smaller, smaller.vertex()) if len(smaller) < len(rest) else (rest, vertex)


def guess(rest: Rest) -> Box:
    """Box that probably holds the optimum, from a sample drawn with a fixed seed."""
    size = max(DIRECT // 2, min(LARGEST_SAMPLE, len(rest) // 16))
    places = torch.randint(len(rest), (size,), generator=torch.Generator().manual_seed(len(rest)))
    places = places.to(rest.scores[0].device)
    scores = [score[places].double() for score in rest.scores]
    share = size / len(rest)
    keep = round(share * rest.keep)
    alone = torch.zeros(size, dtype=torch.bool, device=places.device)
    alone[torch.topk(scores[0], max(0, min(keep, size))).indices] = True
    lowest = [float(score[alone].sum()) for score in scores[1:]]
    for lenience in LENIENCE:
        levels = [low + lenience * (share * level - low) for low, level in zip(lowest, rest.levels, strict=True)]
        try:
            _, vertex = search(Rest.whole(scores, keep, levels), last_resort=lenience == 0.0)
        except UnreachableError:
            continue
        return confidence(torch.stack(scores), vertex.y.tolist())
    raise UnreachableError
