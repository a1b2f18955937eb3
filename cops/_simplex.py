"""Exact vertex of the small linear programme behind COPS, by the dual simplex method with bound flipping.

    maximise   <cost, x>    subject to    rows @ x >= rhs,    0 <= x <= 1

Its dual, `D(y) = sum(relu(cost + y @ rows)) - <y, rhs>` over `y >= 0`, is convex and piecewise
linear. Every iteration is an exact line search along an edge of `D`: it passes as many breakpoints as still
lower `D` (Fourer 1994; Maros 2003): a handful of iterations where a textbook simplex needs one for each.
Boxes make every basis dual feasible: there is no first phase, and a ray of `D` proves that no `x` exists.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

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


def simplex(cost: Tensor, rows: Tensor, rhs: Sequence[float], hair: Sequence[float]) -> Vertex:
    """Solve the programme of this module for float64 `cost` (n,) and `rows` (J, n), and `rhs` (J,).

    `hair` (J,) is the rounding error that `rhs` already carries: a violation that it explains is none.
    Whatever has only J entries is computed on plain numbers: tensor operations on them cost more than those on
    thousands of columns.

    Raises:
        UnreachableError: if no `x` satisfies all rows.

    """
    count, n = rows.shape
    columns = torch.cat([rows, -torch.eye(count, dtype=rows.dtype, device=rows.device)], dim=1)  # slacks last
    costs = torch.cat([cost, cost.new_zeros(count)])
    caps = torch.cat([torch.ones_like(cost), cost.new_full((count,), torch.inf)])
    x = (costs > 0).double()
    basis = [_Basic(n + j, 0.0, tuple(-float(i == j) for i in range(count)), math.inf) for j in range(count)]
    stalled = 0
    for _ in range(MAX_STEPS):
        for column in basis:
            x[column.index] = 0.0
        weighted = columns * x
        sums, sizes = weighted.sum(1).tolist(), weighted.abs_().sum(1).tolist()
        inverse = _inverse([column.entries for column in basis])
        y = [-sum(column.cost * row[j] for column, row in zip(basis, inverse, strict=True)) for j in range(count)]
        lacks = [wanted - have for wanted, have in zip(rhs, sums, strict=True)]
        values = [sum(map(mul, row, lacks)) for row in inverse]
        # What rounding alone can do to a basic value: the noise of the row sums, carried through the inverse.
        noise = [h + 8 * EPS * (abs(r) + size) for h, r, size in zip(hair, rhs, sizes, strict=True)]
        excess = [
            max(-value, value - column.cap) - sum(map(mul, map(abs, row), noise))
            for value, column, row in zip(values, basis, inverse, strict=True)
        ]
        violated = [j for j in range(count) if excess[j] > 0]
        if not violated:
            for column, value in zip(basis, values, strict=True):
                x[column.index] = min(max(value, 0.0), column.cap)
            basic = torch.tensor([c.index for c in basis if c.index < n], dtype=torch.long, device=rows.device)
            return Vertex(rows.new_tensor([max(value, 0.0) for value in y]), x[:n], basic)
        bland = stalled > DEGENERATE_STEPS
        leaving = min(violated, key=lambda j: basis[j].index) if bland else max(violated, key=excess.__getitem__)
        falls = values[leaving] < 0
        slopes = _slopes(columns, rows.new_tensor([-v if falls else v for v in inverse[leaving]]))
        for column in basis:
            slopes[column.index] = 0.0
        speeds = torch.where(x > 0, -slopes, slopes)  # at which columns near the sign where they change sides
        crossing = (speeds > 0).nonzero().squeeze(1)
        near, speeds = columns.index_select(1, crossing), speeds.index_select(0, crossing)
        reduced = costs.index_select(0, crossing) + (near * rows.new_tensor(y)[:, None]).sum(0)
        gains = speeds * caps.index_select(0, crossing)
        if float(gains.sum()) < excess[leaving]:
            raise UnreachableError
        reduced = torch.where(x.index_select(0, crossing) > 0, reduced, -reduced)
        steps, order = torch.sort((reduced / speeds).clamp_(min=0.0), stable=True)
        # Without Bland's rule, pass every breakpoint that leaves `D` falling.
        stop = 0 if bland else int(torch.searchsorted(gains[order].cumsum(0), excess[leaving]))
        stop = min(stop, len(crossing) - 1)
        place = int(order[stop])
        entering, flips = int(crossing[place]), crossing[order[:stop]]
        x[flips] = 1.0 - x[flips]
        x[basis[leaving].index] = 0.0 if falls else basis[leaving].cap
        entries = tuple(near[:, place].tolist())
        basis[leaving] = _Basic(entering, float(costs[entering]), entries, float(caps[entering]))
        stalled = stalled + 1 if steps[stop] == 0 else 0
    raise RuntimeError(f"dual simplex: no optimum after {MAX_STEPS} steps on {n} columns and {count} rows")


@dataclass(frozen=True, slots=True)
class _Basic:
    """A column of the basis: where it stands, its cost, its J entries, the largest value of its `x`."""

    index: int
    cost: float
    entries: tuple[float, ...]
    cap: float


def _slopes(columns: Tensor, direction: Tensor) -> Tensor:
    """Change (n,) of each column's reduced cost along `direction` (J,).

    A slope that is only cancellation noise belongs to a column that depends on the basis: it must not enter.
    """
    terms = columns * direction[:, None]
    slopes = terms.sum(0)
    return torch.where(slopes.abs() > terms.abs().sum(0) * (64 * EPS), slopes, 0.0)


def _inverse(basis: Sequence[Sequence[float]]) -> list[list[float]]:
    """Inverse (J, J) of the matrix with these columns: in whole numbers (Bareiss 1968), each entry rounded once.

    Scores may differ by 30 orders of magnitude, where elimination in floating point calls a regular basis
    singular; with J = K + 1 the exact way costs little.
    """
    count = len(basis)
    ratios = [[value.as_integer_ratio() for value in row] for row in zip(*basis, strict=True)]
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
    return [[value / row[i] for value in row[count:]] for i, row in enumerate(system)]
