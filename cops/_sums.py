"""Float64 sums that do not depend on the number of threads."""

import torch
from torch import Tensor

ROW = 4096  # torch never splits a row between threads when it sums a matrix along its rows
HAIR = 2.0**-48  # relative rounding error that a sum of many scores is allowed


def total(values: Tensor) -> float:
    """Sum of `values` (n,) in float64, bit for bit the same for any number of threads."""
    while len(values) > ROW:
        whole = len(values) // ROW * ROW
        values = torch.cat([values[:whole].view(-1, ROW).sum(1, dtype=torch.float64), values[whole:].double()])
    return float(values.sum(dtype=torch.float64))


def kept(scores: Tensor, mask: Tensor) -> float:
    """Sum of the scores (d,) that `mask` (d,) keeps."""
    return total(scores[mask])
