"""SynFlow: weights that carry the synaptic flow, found without data."""

import torch
from torch import nn

from cops.network import Replica
from cops.scores.base import Batches, Scores, gradients, require, scorer, usable


@scorer
def synflow(model: nn.Module, batches: Batches) -> Scores:
    """`s = |theta * dR/dtheta|` in float64, by parameter name and shaped like it; non-negative.

    `R = sum f(1; |parameters and buffers|)` for one all-ones input shaped like the first sample of `batches`, in
    eval mode. Float64, because float32 overflows on networks as common as a CIFAR ResNet-110.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020, equation 2 and algorithm 1.
    """
    require("synflow", batches, "the shape of an input")
    model.eval()
    network = Replica(model, absolute=True, dtype=torch.float64)
    ones = torch.ones_like(batches[0][0][:1], dtype=torch.float64)
    with usable("synflow", 0, ones):
        flow = network(ones).sum()
    gradient = gradients(flow, network.weights)
    return {name: (weight.detach() * gradient[name]).abs_() for name, weight in network.weights.items()}
