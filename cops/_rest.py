"""The undecided rest of a problem: every other entry is known to be kept, or known not to be."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cops._round import first_of_equals, to_binary
from cops._simplex import EPS, UnreachableError, Vertex, simplex
from cops._sums import HAIR, kept

ROUNDS = 20  # attempts to satisfy every control with a binary mask


@dataclass(frozen=True, slots=True)
class Rest:
    """Undecided entries `index` (r,), their float64 `scores` (K + 1, r), what is left of `keep` and `levels`.

    `mask` (d,) holds the entries already decided to be kept, `hair` the rounding error of each level.
    """

    mask: Tensor
    index: Tensor
    scores: Tensor
    keep: int
    levels: list[float]
    hair: list[float]

    @classmethod
    def whole(cls, scores: list[Tensor], keep: int, levels: list[float]) -> "Rest":
        """Return the problem with nothing decided."""
        device = scores[0].device
        mask = torch.zeros(len(scores[0]), dtype=torch.bool, device=device)
        index = torch.arange(len(mask), device=device)
        return cls(mask, index, torch.stack([score.double() for score in scores]), keep, levels, [0.0] * len(levels))

    def force(self, control: int, edge: float) -> "Rest":
        """Decide what `control` (a row of scores) at its best decides alone: all entries off its `edge`."""
        inside = self.scores[control] > edge
        ties = self.scores[control] == edge
        mask = self.mask.clone()
        mask[self.index[inside]] = True
        keep = self.keep - int(inside.sum())
        levels, hair = self.levels.copy(), self.hair.copy()
        for k, score in enumerate(self.scores[1:]):
            levels[k] -= kept(score, inside)
            hair[k] += 8 * EPS * (abs(self.levels[k]) + kept(score.abs(), inside))
        levels[control - 1], hair[control - 1] = keep * edge, 0.0
        return Rest(mask, self.index[ties], self.scores[:, ties], keep, levels, hair)

    def solve(self) -> tuple[Tensor, list[float]]:
        """Optimal mask (d,) of the whole, and the dual point `[lambda_1 .. lambda_K, tau]`.

        Where all binary neighbours of the optimal vertex leave a control short, those of vertices for higher
        levels are tried; the dual point remains that of the levels asked for.
        """
        vertex = self._vertex(self.levels)
        chosen, short = self._round(vertex)
        raised = self.levels
        for _ in range(ROUNDS):
            if not any(short):
                break
            raised = [level + 1.5 * less for level, less in zip(raised, short, strict=True)]
            try:
                other, less = self._round(self._vertex(raised))
            except UnreachableError:
                break
            if max(less) < max(short):
                chosen, short = other, less
        mask = self.mask.clone()
        mask[self.index[chosen]] = True
        return mask, vertex.y.tolist()

    def _vertex(self, levels: list[float]) -> Vertex:
        rows = torch.cat([self.scores[1:], self.scores.new_full((1, len(self.index)), -1.0)])
        rhs = self.scores.new_tensor([*levels, -self.keep])
        hair = self.scores.new_tensor([*self.hair, 0.0])
        return simplex(self.scores[0], rows, rhs, torch.ones_like(self.scores[0]), hair)

    def _round(self, vertex: Vertex) -> tuple[Tensor, list[float]]:
        """Binary neighbour (r,) of a vertex, and how far it leaves each control below its level."""
        weighted = self.scores[1:] * vertex.y[:-1, None]
        margin = self.scores[0] + weighted.sum(0) - vertex.y[-1]
        noise = (self.scores[0].abs() + weighted.abs().sum(0) + vertex.y[-1]) * (64 * EPS)
        x = first_of_equals(vertex.x, self.scores, (margin.abs() <= noise).nonzero().squeeze(1))
        chosen = to_binary(x, self.scores, margin, self.keep, self.levels)
        # Exact zeros are free: keep them as far as room is left and no control is lowered.
        free = ~chosen & (margin == 0.0) & (vertex.y[-1] == 0.0) & (self.scores[1:] >= 0.0).all(0)
        chosen |= free & (free.cumsum(0) <= self.keep - int(chosen.sum()))
        short = []
        for score, level, hair in zip(self.scores[1:], self.levels, self.hair, strict=True):
            less = level - kept(score, chosen)
            short.append(less if less > hair + HAIR * (abs(level) + kept(score.abs(), chosen)) else 0.0)
        return chosen, short
