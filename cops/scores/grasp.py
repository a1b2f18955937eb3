"""GraSP: weights that preserve the gradient flow."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cops.network import Replica
from cops.scores.base import Batches, Scores, gradients, loss_gradient, losses, scorer


@scorer
def grasp(model: nn.Module, batches: Batches, *, temperature: float = 200.0) -> Scores:
    """`s = theta * (H g)`, signed, by parameter name and shaped like it: larger = keep.

    `g` and `H` are gradient and Hessian, with respect to the prunable weights, of the mean cross-entropy on
    logits / `temperature` over all samples of all batches. The original prunes the largest `-theta * (H g)`.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
    equation 8.
    """
    network = Replica(model)
    gradient = loss_gradient("grasp", network, batches, temperature)
    product = {name: torch.zeros_like(g) for name, g in gradient.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the faster kernels of attention have no second derivative
        for loss in losses("grasp", network, batches, temperature):
            flow = gradients(loss, network.weights, create_graph=True)
            inner = torch.stack([(flow[name] * gradient[name]).sum() for name in flow]).sum()
            for name, column in gradients(inner, network.weights).items():
                product[name] += column
    return {name: weight.detach() * product[name] for name, weight in network.weights.items()}
