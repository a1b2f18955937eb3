"""Magnitude: large weights matter."""

from torch import nn

from cops.network import prunable
from cops.scores.base import Batches, Scores, scorer


@scorer
def magnitude(model: nn.Module, batches: Batches) -> Scores:
    """`s = |theta|`, by parameter name and shaped like it; non-negative. `batches` are not used.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.
    """
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}
