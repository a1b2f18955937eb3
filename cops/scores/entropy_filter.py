"""Filter entropy: a filter whose output is the same for every image tells nothing about it."""

from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cops.network import Layer, Replica, layers, rows, unrows
from cops.scores.base import Batches, Scores, require, scorer, usable


@scorer
def entropy_filter(model: nn.Module, batches: Batches, *, bins: int = 100, shared_range: bool = True) -> Scores:
    """`s = entropy of the weight's output filter`, in nats, by parameter name and shaped like it; non-negative.

    The activation of a filter for an image is the ReLU of its channel, averaged over all positions. Its values over all
    images of all batches make a histogram of `bins` equal bins with shares `p`; the entropy is `-sum p log p`, at most
    `log(min(bins, images))` and 0 for a filter that never changes. All weights of a filter have the same score.

    The channel is taken after the batch norm (or instance norm) that is called with the layer's own output, else as
    the layer gives it; the ReLU is applied to it here, so that it makes no difference whether, and how, the network
    calls one. A linear layer's outputs count as filters. A layer used several times has one activation per use.

    Args:
        model: see `cops.score`; it is evaluated in eval mode.
        batches: (inputs, labels) pairs; the labels are not used.
        bins: number of bins, at least 2.
        shared_range: the bins span the activations of all the layer's filters (filters are compared on one scale); else
            those of each filter alone (only the shape of its histogram counts).

    Raises:
        ValueError: fewer than 2 bins.

    Source: Luo and Wu, "An Entropy-based Pruning Method for CNN Compression", arXiv 1706.05791, section 3.
    """
    if bins < 2:
        raise ValueError(f"`bins >= 2` must hold, but got bins={bins}")
    require("entropy_filter", batches, "images")
    model.eval()
    network = Replica(model)
    pooled: dict[str, list[Tensor]] = {name: [] for name in network.weights}
    for number, (inputs, labels) in enumerate(batches):
        with usable("entropy_filter", number, inputs, labels), torch.no_grad():
            for name, found in activations(network, inputs).items():
                pooled[name] += found
    scores = {}
    for name, (layer, *_) in layers(model).items():
        filters = rows(torch.zeros_like(network.weights[name], requires_grad=False), layer)
        if pooled[name]:  # else the network never calls the layer
            filters += entropy(torch.cat(pooled[name]), bins, shared_range)[:, None]
        scores[name] = unrows(filters, layer)
    return scores


def activations(network: Replica, inputs: Tensor) -> dict[str, list[Tensor]]:
    """Pooled activations `(n, filters)` of every prunable weight, one for each use of it."""
    found: dict[str, list[Tensor]] = {name: [] for name in network.weights}
    outputs: list[tuple[str, int, ref[Tensor]]] = []  # which output was whose, while it lives
    handles = []

    def pool(values: Tensor, channel: int) -> Tensor:
        return values.relu().movedim(channel, -1).flatten(1, -2).mean(1) if values.ndim > 2 else values.relu()

    def watch(name: str, channel: int, layer: Layer) -> None:
        def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs.append((name, len(found[name]), ref(output)))
            found[name].append(pool(output, channel))

        handles.append(layer.register_forward_hook(after))

    def normalised(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        for name, use, raw in outputs:
            if raw() is given[0]:
                found[name][use] = pool(output, 1)

    try:
        for name, users in layers(network.model).items():
            for layer in users:
                watch(name, -1 if isinstance(layer, nn.Linear) else 1, layer)
        norms = (module for module in network.model.modules() if isinstance(module, _NormBase))
        handles += [norm.register_forward_hook(normalised) for norm in norms]
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def entropy(values: Tensor, bins: int, shared_range: bool) -> Tensor:
    """Entropy `(filters,)`, in nats, of the histogram of each column of `values` `(n, filters)`."""
    values = values.double()
    low, high = (values.min(), values.max()) if shared_range else (values.amin(0), values.amax(0))
    width = (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    place = ((values - low) / width * bins).long().clamp(0, bins - 1)
    counts = values.new_zeros(bins, values.shape[1]).scatter_add_(0, place, torch.ones_like(values))
    shares = counts / len(values)
    return -torch.xlogy(shares, shares).sum(0)
