"""Filter norm: filters of small weights hardly change what follows."""

from torch import nn

from cops.network import layers, prunable, rows, unrows
from cops.scores.base import Batches, Scores, scorer


@scorer
def l1_filter(model: nn.Module, batches: Batches) -> Scores:
    """`s = sum of |theta| over the weight's output filter`, by parameter name and shaped like it; non-negative.

    A filter is what makes one output channel (of a linear layer: one output). All its weights have the same score.
    `batches` are not used.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1.
    """
    weights, scores = prunable(model), {}
    for name, (layer, *_) in layers(model).items():
        norms = rows(weights[name].detach().abs(), layer)
        scores[name] = unrows(norms.sum(1, keepdim=True).expand_as(norms), layer).clone()
    return scores
