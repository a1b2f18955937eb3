"""Gradient norm: weights that move fastest when training starts."""

from torch import nn

from cops.network import Replica
from cops.scores.base import Batches, Scores, loss_gradient, scorer


@scorer
def gradnorm(model: nn.Module, batches: Batches) -> Scores:
    """`s = (dL/dtheta)^2`, by parameter name and shaped like it; non-negative.

    `L` is the mean cross-entropy over all samples of all batches, in the model's own mode; the square is taken after
    the sum over batches. The sum of the kept scores is the squared norm of the gradient that is left to train with.

    Source: the baseline of de Jorge et al., "Progressive Skeletonization: Trimming more fat from a network at
    initialization", ICLR 2021, and their public code.
    """
    return {name: g.square_() for name, g in loss_gradient("gradnorm", Replica(model), batches).items()}
