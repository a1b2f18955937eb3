"""How much of the gradient a mask leaves before training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cops.network import Replica, untouched
from cops.scores.base import Batches, loss_gradient


def gradient_norm(model: nn.Module, kept: Mapping[str, Tensor], batches: Batches) -> float:
    """Mean absolute gradient of the kept weights of the masked network; of the dense one's, where `kept` is empty.

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
        with torch.no_grad():
            for name, mask in kept.items():
                network.weights[name].masked_fill_(~mask.to(network.weights[name].device), 0)
        slopes = loss_gradient("gradient norm", network, batches)
    if kept:
        slopes = {name: slope[kept[name].to(slope.device)] for name, slope in slopes.items() if name in kept}
    total = sum(float(slope.abs().sum(dtype=torch.float64)) for slope in slopes.values())
    return total / max(1, sum(slope.numel() for slope in slopes.values()))


def gradient_norm_ratio(model: nn.Module, kept: Mapping[str, Tensor], batches: Batches) -> float:
    """The gradient norm that a mask leaves, over that of the dense network; as `gradient_norm`."""
    dense, masked = gradient_norm(model, {}, batches), gradient_norm(model, kept, batches)
    return masked / dense if dense else float(masked > 0)
