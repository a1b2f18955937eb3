"""How much of the gradient a mask leaves before training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cops.network import Replica, untouched
from cops.scores.base import Batches, loss_gradient


def gradient_norm_ratio(model: nn.Module, kept: Mapping[str, Tensor], batches: Batches) -> float:
    """Mean absolute gradient of the kept weights of the masked network, over that of all weights of the dense one.

    The gradient is that of the cross-entropy over all samples of `batches`. The model is left as it was.

    Args:
        model: the dense network.
        kept: bool, by parameter name.
        batches: (inputs, labels) pairs.

    Raises:
        ScoreError: the model cannot use a batch, or there is none.
    """
    with untouched(model):
        network = Replica(model)
        dense = _mean(loss_gradient("gradient norm", network, batches))
        with torch.no_grad():
            for name, mask in kept.items():
                network.weights[name].masked_fill_(~mask.to(network.weights[name].device), 0)
        sparse = loss_gradient("gradient norm", network, batches)
    masked = _mean({name: slope[kept[name].to(slope.device)] for name, slope in sparse.items() if name in kept})
    return masked / dense if dense else float(masked > 0)


def _mean(gradients: Mapping[str, Tensor]) -> float:
    """Mean absolute value of all entries together."""
    total = sum(float(slope.abs().sum(dtype=torch.float64)) for slope in gradients.values())
    return total / max(1, sum(slope.numel() for slope in gradients.values()))
