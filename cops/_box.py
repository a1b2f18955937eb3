"""Where the optimal dual point probably lies: a box around the optimum of a random sample."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cops._sums import total

WINDOW = 64  # least number of entries that a density is estimated from
DEVIATIONS = 2.8  # half size of a box, in standard deviations of the sample's optimum
UNSEEN = 3.0  # entries that a sample may well miss although the whole has them: the rule of three
RELATIVE = 2.0**-14  # least half size, relative to the point: far above float32 rounding, far below the noise
EDGE = 2.0**-15  # relative distance from its edge at which a box is trusted: it absorbs float32 rounding


@dataclass(frozen=True, slots=True)
class Box:
    """Dual points near a centre, the threshold following the multipliers.

    Those with `abs(lambda - weights) <= half` and `abs(tau' - tau - <slope, lambda - weights>) <= width`. The
    slope leaves far fewer weights undecided than an upright box: a sample's errors nearly cancel for most
    weights.
    """

    weights: list[float]
    tau: float
    half: list[float]
    slope: list[float]
    width: float

    @classmethod
    def at(cls, y: list[float]) -> "Box":
        """Return the smallest box around `y`."""
        zeros = [0.0] * (len(y) - 1)
        return cls(y[:-1], y[-1], zeros, zeros, 0.0).at_least()

    def __contains__(self, y: list[float]) -> bool:
        """Whether the dual point `[lambda_1 .. lambda_K, tau]` lies well inside."""
        steps, rest = self._distance(y)
        edges = [half - EDGE * (half + weight) for half, weight in zip(self.half, self.weights, strict=True)]
        inside = all(step <= edge for step, edge in zip(steps, edges, strict=True))
        return inside and rest <= self.width - EDGE * (self.width + self._size())

    def at_least(self) -> "Box":
        """Return the box, no smaller than rounding allows."""
        half = [max(h, RELATIVE * weight) for h, weight in zip(self.half, self.weights, strict=True)]
        box = Box(self.weights, self.tau, half, self.slope, self.width)
        return replace(box, width=max(self.width, RELATIVE * box._size()))

    def fits_float32(self) -> bool:
        """Whether float32 represents the box without overflow or loss to underflow."""
        values = [*self.weights, self.tau, *self.half, *self.slope, self.width]
        return all(value == 0.0 or 1e-30 < abs(value) < 1e30 for value in values)

    def _size(self) -> float:
        """Largest threshold that the box can mean."""
        return self.tau + sum((w + h) * abs(s) for w, h, s in zip(self.weights, self.half, self.slope, strict=True))

    def _distance(self, y: list[float]) -> tuple[list[float], float]:
        steps = [value - weight for value, weight in zip(y, self.weights, strict=False)]
        along = sum(s * step for s, step in zip(self.slope, steps, strict=True))
        return [abs(step) for step in steps], abs(y[-1] - self.tau - along)


def confidence(scores: Tensor, y: list[float], reference: Tensor) -> Box:
    """Return a box around the optimum `y` of a sample `scores` (K + 1, n), likely to hold that of the whole.

    The optimum solves `mean(rows * [pi > tau]) = const`, so its covariance is that of an M-estimator,
    `H^-1 V H^-1`, with `V` the covariance of the sums and `H` their derivative: the density at the
    threshold. For the mask `reference` (n,) the sums of the whole are known; the rest adds to `V`.
    """
    n = scores.shape[1]
    rows = torch.cat([scores[1:], scores.new_full((1, n), -1.0)])
    pi = scores[0].clone()
    for weight, row in zip(y, rows, strict=True):
        pi += weight * row
    sums = rows * ((pi > 0.0).double() - reference.double())
    sums -= torch.tensor([[total(row) / n] for row in sums], dtype=sums.dtype, device=sums.device)
    variance = _products(sums)
    distance = pi.abs()
    count = len(rows) - 1
    covariance = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    size = min(n, WINDOW)
    while (bandwidth := float(distance.kthvalue(size).values)) > 0.0:
        near = rows[:, distance <= bandwidth]
        scale = near.abs().amax(1).clamp(min=1e-300).cpu()
        gram = _products(near / scale.to(near.device)[:, None])
        inverse = torch.linalg.pinv(gram / (2.0 * bandwidth), rtol=1e-9) / (scale[:, None] * scale)
        unseen = gram * (scale[:, None] * scale) * (UNSEEN / near.shape[1])
        covariance = inverse @ (variance + unseen) @ inverse
        # The window must be as wide as the error it predicts, and no wider: densities have peaks.
        spread = (near * (covariance.to(near.device) @ near)).sum(0).clamp(min=0.0).sqrt().median()
        if float(spread) <= bandwidth or 2 * size > n:
            break
        size *= 2
    across, along = covariance[:count, :count], covariance[:count, count]
    slope = torch.linalg.pinv(across, rtol=1e-9) @ along if count else along
    half = [DEVIATIONS * math.sqrt(max(0.0, float(across[k, k]))) for k in range(count)]
    width = DEVIATIONS * math.sqrt(max(0.0, float(covariance[count, count] - slope @ along)))
    # Ties make a density infinite and a box empty: it could not even grow.
    unit, *units = [total(score.abs()) for score in scores]
    half = [max(h, RELATIVE * unit / other) if other else h for h, other in zip(half, units, strict=True)]
    return Box(y[:-1], y[-1], half, slope.tolist(), max(width, RELATIVE * unit / n)).at_least()


def _products(rows: Tensor) -> Tensor:
    """Gram matrix (J, J) of `rows` (J, n), the same on any number of threads, unlike a matrix product."""
    sums = [[total(a * b) for b in rows[: i + 1]] for i, a in enumerate(rows)]
    every = range(len(rows))
    return torch.tensor([[sums[max(i, j)][min(i, j)] for j in every] for i in every], dtype=torch.float64)
