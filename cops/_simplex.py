"""Exact vertex of the small linear programme behind COPS, by the dual simplex method with bound flipping.

    maximise   <cost, x>    subject to    rows @ x >= rhs,    0 <= x <= upper

Its dual, `D(y) = sum(upper * relu(cost + y @ rows)) - <y, rhs>` over `y >= 0`, is convex and piecewise
linear. Every iteration is an exact line search along an edge of `D`: it passes as many breakpoints as still
lower `D` (Fourer 1994; Maros 2003): a handful of iterations where a textbook simplex needs one for each.
Boxes make every basis dual feasible: there is no first phase, and a ray of `D` proves that no `x` exists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 2.0**-52
DEGENERATE_STEPS = 50  # steps of length zero before Bland's rule, which cannot cycle, takes over
MAX_STEPS = 20_000


class UnreachableError(Exception):
    """No `x` satisfies all rows: the dual is unbounded."""


@dataclass(frozen=True, slots=True)
class Vertex:
    """An optimal vertex: dual `y` (J,), primal `x` (n,) and the at most J columns that may be fractional."""

    y: Tensor
    x: Tensor
    basic: Tensor


def simplex(cost: Tensor, rows: Tensor, rhs: Tensor, upper: Tensor, hair: Tensor) -> Vertex:
    """Solve the programme of this module for float64 `cost` (n,), `rows` (J, n), `rhs` (J,), `upper` (n,).

    `hair` (J,) is the rounding error that `rhs` already carries: a violation that it explains is none.

    Raises:
        UnreachableError: if no `x` satisfies all rows.

    """
    count, n = rows.shape
    columns = torch.cat([rows, -torch.eye(count, dtype=rows.dtype, device=rows.device)], dim=1)  # slacks last
    costs = torch.cat([cost, cost.new_zeros(count)])
    caps = torch.cat([upper, upper.new_full((count,), torch.inf)])
    basis = list(range(n, n + count))
    x = torch.where(costs > 0, caps, 0.0)
    stalled = 0
    for _ in range(MAX_STEPS):
        x[basis] = 0.0
        weighted = columns * x
        inverse = _inverse(columns[:, basis])
        y = -(inverse.T @ costs[basis])
        values = inverse @ (rhs - weighted.sum(1))
        # What rounding alone can do to a basic value: the noise of the row sums, carried through the inverse.
        noise = inverse.abs() @ (hair + 8 * EPS * (rhs.abs() + weighted.abs().sum(1)))
        excess = torch.maximum(-values, values - caps[basis]) - noise
        violated = [j for j in range(count) if excess[j] > 0]
        if not violated:
            x[basis] = values.clamp(min=0.0).minimum(caps[basis])
            basic = torch.tensor([i for i in basis if i < n], dtype=torch.long, device=rows.device)
            return Vertex(y.clamp(min=0.0) + 0.0, x[:n], basic)
        bland = stalled > DEGENERATE_STEPS
        leaving = min(violated, key=basis.__getitem__) if bland else int(excess.argmax())
        falls = bool(values[leaving] < 0)
        direction = -inverse[leaving] if falls else inverse[leaving]
        slopes = _slopes(columns, direction)
        slopes[basis] = 0.0
        crossing = torch.where(x > 0, slopes < 0, slopes > 0).nonzero().squeeze(1)
        steps = -(costs[crossing] + (columns[:, crossing] * y[:, None]).sum(0)) / slopes[crossing]
        gains = slopes[crossing].abs() * caps[crossing]
        if gains.sum() < excess[leaving]:
            raise UnreachableError
        steps, order = torch.sort(steps.clamp(min=0.0), stable=True)
        # Without Bland's rule, pass every breakpoint that leaves `D` falling.
        stop = 0 if bland else int(torch.searchsorted(gains[order].cumsum(0), excess[leaving]))
        stop = min(stop, len(crossing) - 1)
        entering, flips = int(crossing[order[stop]]), crossing[order[:stop]]
        x[flips] = torch.where(x[flips] > 0, 0.0, caps[flips])
        x[basis[leaving]] = 0.0 if falls else caps[basis[leaving]]
        basis[leaving] = entering
        stalled = stalled + 1 if steps[stop] == 0 else 0
    raise RuntimeError(f"dual simplex: no optimum after {MAX_STEPS} steps on {n} columns and {count} rows")


def _slopes(columns: Tensor, direction: Tensor) -> Tensor:
    """Change (n,) of each column's reduced cost along `direction` (J,).

    A slope that is only cancellation noise belongs to a column that depends on the basis: it must not enter.
    """
    terms = columns * direction[:, None]
    slopes = terms.sum(0)
    return torch.where(slopes.abs() > terms.abs().sum(0) * (64 * EPS), slopes, 0.0)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse (J, J), each entry correctly rounded: elimination without fractions (Bareiss 1968) in whole numbers.

    Scores may differ by 30 orders of magnitude, where elimination in floating point calls a regular basis
    singular; with J = K + 1 the exact way costs little.
    """
    count = len(matrix)
    ratios = [[value.as_integer_ratio() for value in row] for row in matrix.tolist()]
    unit = max(below for row in ratios for _, below in row)  # all are powers of two
    system = [
        [*(above * (unit // below) for above, below in row), *(unit * (i == j) for j in range(count))]
        for i, row in enumerate(ratios)
    ]
    last = 1
    for j in range(count):
        pivot = next(i for i in range(j, count) if system[i][j])
        system[j], system[pivot] = system[pivot], system[j]
        head = system[j]
        for i in range(count):
            if i != j:
                row, factor = system[i], system[i][j]
                system[i] = [(head[j] * a - factor * b) // last for a, b in zip(row, head, strict=True)]
        last = head[j]
    # The diagonal now holds the determinant; whole numbers divide to the nearest float.
    return matrix.new_tensor([[value / row[i] for value in row[count:]] for i, row in enumerate(system)])
