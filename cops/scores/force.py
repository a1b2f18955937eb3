"""FORCE: what a weight would be worth in the network that is left after pruning."""

import torch
from torch import nn

from cops.mask import Mask
from cops.network import Replica
from cops.scores.base import Batches, Scores, loss_gradient, scorer


@scorer
def force(model: nn.Module, batches: Batches, *, mask: Mask | None = None) -> Scores:
    """`s = |theta * dL/dtheta at (mask * theta)|`, by parameter name and shaped like it; non-negative.

    The gradient is that of the pruned network, `theta` the dense weight: a removed weight has a score as well, and may
    come back when the mask is chosen anew. `mask` is the mask so far; without one, nothing is removed yet and the
    score is SNIP's. `L` as in `snip`.

    Raises:
        ValueError: the mask is for another network.

    Source: de Jorge et al., "Progressive Skeletonization: Trimming more fat from a network at initialization",
    ICLR 2021, equation 5 (foresight connection sensitivity) and algorithm 1.
    """
    network = Replica(model)
    if mask is not None:
        mask.check(network.weights)
        with torch.no_grad():
            for name, kept in mask.kept.items():
                network.weights[name].masked_fill_(~kept.to(network.weights[name].device), 0)
    gradient = loss_gradient("force", network, batches)
    dense = dict(model.named_parameters())
    return {name: (dense[name].detach() * g).abs_() for name, g in gradient.items()}
