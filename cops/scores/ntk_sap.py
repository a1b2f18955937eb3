"""NTK-SAP: weights that carry the spectrum of the neural tangent kernel, whatever the initialisation and the data."""

from copy import deepcopy
from math import sqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from cops.network import layers, prunable, rows
from cops.scores.base import Batches, Scores, gradients, require, scorer, usable


@scorer
def ntk_sap(model: nn.Module, batches: Batches, *, draws: int = 1, epsilon: float = 0.01, seed: int = 0) -> Scores:
    """`s = |dR/dm|` at the present mask `m`, in float64, by parameter name and shaped like it; non-negative.

    `R = sum over draws of ||f(x; m * theta) - f(x; m * (theta + epsilon * delta))||^2` estimates, up to the factor
    `epsilon^2`, the trace (nuclear norm) of the neural tangent kernel. Every draw has its own Gaussian inputs `x`, its
    own initial weights `theta` (normal, variance 2 / fan-in) and its own normal `delta`. Of the batches only the
    shapes of the inputs count, of the weights only which are zero: those are removed, `m = 0`, with score 0.

    As in the authors' public code, the derivative runs through both terms, and batch norm, in both, has the statistics
    of the draw's own batch; all but the prunable weights is as in the model, in eval mode.

    Args:
        model: see `cops.score`.
        batches: (inputs, labels) pairs; each draw takes a Gaussian batch in the place of each.
        draws: passes over the batches.
        epsilon: size of the perturbation of the weights.
        seed: of everything that is drawn.

    Raises:
        ValueError: `draws` or `epsilon` is not positive.

    Source: Wang et al., "NTK-SAP: Improving neural network pruning by aligning training dynamics", ICLR 2023,
    section 4 and algorithm 1; the publication prunes in rounds.
    """
    if draws < 1 or not epsilon > 0:
        raise ValueError(f"`draws >= 1` and `epsilon > 0` must hold, but got draws={draws}, epsilon={epsilon}")
    require("ntk_sap", batches, "the shape of an input")
    network = deepcopy(model).double().eval()
    masks = {name: (weight != 0).double().requires_grad_() for name, weight in prunable(network).items()}
    deviation = {name: sqrt(2 / rows(masks[name], users[0]).shape[1]) for name, users in layers(network).items()}
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of the last batch alone
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(masks[next(iter(masks))].device)

    def outputs(weights: Scores, inputs: Tensor) -> Tensor:
        masked = {name: masks[name] * weight for name, weight in weights.items()}
        found: Tensor = functional_call(network, masked, (inputs,))
        return found

    total = {name: torch.zeros_like(mask, requires_grad=False) for name, mask in masks.items()}
    for number, (inputs, _) in list(enumerate(batches)) * draws:
        x = normal(inputs)
        theta = {name: deviation[name] * normal(mask) for name, mask in masks.items()}
        moved = {name: weight + epsilon * normal(weight) for name, weight in theta.items()}
        with usable("ntk_sap", number, x):
            for norm in norms:
                norm.train()
            with torch.no_grad():
                outputs(theta, x)
            network.eval()
            distance = (outputs(theta, x) - outputs(moved, x)).square().sum()
        for name, slope in gradients(distance, masks).items():
            total[name] += slope
    return {name: (total[name] * mask.detach()).abs_() for name, mask in masks.items()}
