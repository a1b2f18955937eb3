"""Fisher: weights whose removal costs most, by the curvature that the samples' own gradients show."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cops.network import Replica
from cops.scores.base import Batches, Scores, gradients, require, scorer, usable


@scorer
def fisher(model: nn.Module, batches: Batches) -> Scores:
    """`s = theta^2 * mean_n (dL_n/dtheta)^2`, by parameter name and shaped like it; non-negative.

    `L_n` is the cross-entropy of sample `n` alone; the mean runs over all samples of all batches. Twice the score is
    the rise of the loss when the weight is removed, if the empirical Fisher information stands for the Hessian.

    Eval mode, since batch statistics would mix the samples. The samples are taken one at a time: never more than one
    sample's gradient is held, at the price of one backward pass per sample.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, equation 9.
    """
    require("fisher", batches, "data")
    model.eval()
    network = Replica(model)
    total = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in network.weights.items()}
    for number, (inputs, labels) in enumerate(batches):
        for sample, label in zip(inputs.split(1), labels.split(1), strict=True):
            with usable("fisher", number, inputs, labels):
                logits = network(sample)
                loss = cross_entropy(logits, label.to(logits.device))
            for name, gradient in gradients(loss, network.weights).items():
                total[name] += gradient.square_()
    count = sum(len(labels) for _, labels in batches)
    return {name: weight.detach().square() * total[name] / count for name, weight in network.weights.items()}
