"""SNIP: weights whose removal changes the loss most."""

from torch import nn

from cops.network import Replica
from cops.scores.base import Batches, Scores, loss_gradient, scorer


@scorer
def snip(model: nn.Module, batches: Batches) -> Scores:
    """`s = |theta * dL/dtheta|`, by parameter name and shaped like it; non-negative.

    `L` is the mean cross-entropy over all samples of all batches, in the model's own mode (batch norm uses batch
    statistics while training); the absolute value is taken after the sum over batches.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, equation 5.
    """
    network = Replica(model)
    gradient = loss_gradient("snip", network, batches)
    return {name: (weight.detach() * gradient[name]).abs_() for name, weight in network.weights.items()}
