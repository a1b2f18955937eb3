"""A pruned network made physically smaller: removed filters leave, and the network computes what it computed.

A filter without weights is not nothing: its bias, or the norm behind it, gives the same value at every position and for
every input. What such channels contribute to the next layer is added to its bias; where the layer pads with zeros,
borders see less of it, so one of the channels stays and carries the sum of all. Channels that meet in a sum, as in a
residual network, leave only if they are constant in all parts of it. Which layers share channels, torch-pruning finds
out (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).
"""

from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cops.mask import Mask
from cops.network import layers, rows

Constants: TypeAlias = dict[
    nn.Module, tuple[Tensor, Tensor]
]  # per channel of a layer's input: its value; is it constant?
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def shrink(model: nn.Module, mask: Mask, example: Tensor) -> nn.Module:
    """A smaller network, in eval mode, whose outputs are the pruned network's; needs the extra `shrink`.

    Filters that the mask removes whole leave, as far as that changes nothing: layout `filter` removes them so. Channels
    of grouped and transposed convolutions stay. For inference; other weights that the mask removes are zeros. The model
    is left as it was.

    Args:
        model: trained, in most cases.
        mask: of the model.
        example: one batch of inputs, `(n, ...)`; what the network makes of it is compared.

    Raises:
        ValueError: the mask is for another network, or the outputs would change.
        ImportError: torch-pruning is missing.
    """
    if find_spec("torch_pruning") is None:
        raise ImportError("smaller networks need torch-pruning: pip install 'cops-sweep[shrink]'")
    network = mask.apply(deepcopy(model)).eval()
    users = layers(network)
    gone = {layer: ~rows(kept, layer).any(1) for name, kept in mask.kept.items() for layer in users[name]}
    expected, constants = _constants(network, example)
    with torch.enable_grad():
        graph = import_module("torch_pruning").DependencyGraph().build_dependency(network, example_inputs=example[:1])
        for group in graph.get_all_groups(root_module_types=list(PLAIN)):
            leaving = _leaving(graph, group, gone, constants)
            if leaving:
                group.prune(leaving)
    with torch.no_grad():
        found = network(example)
    limit = 1e-3 * float(expected.abs().max())
    if found.shape != expected.shape or float((found - expected).abs().max()) > limit:
        raise ValueError(f"{type(model).__name__} cannot be made smaller: its outputs for the example would change")
    return network


def _constants(network: nn.Module, example: Tensor) -> tuple[Tensor, Constants]:
    """Outputs for the example, and which input channels of each layer have one value everywhere."""
    found: Constants = {}
    hooks = []
    for layer in (layer for users in layers(network).values() for layer in users):

        def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            channels = given[0].movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
            low, high = channels.amin(1), channels.amax(1)
            same = high - low <= 1e-6 * torch.maximum(high.abs(), low.abs())
            found[layer] = channels[:, 0].clone(), same & (layer not in found)  # not if it is called again

        hooks.append(layer.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            outputs: Tensor = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, found


def _leaving(graph: Any, group: Any, gone: dict[Any, Tensor], constants: Constants) -> list[int]:
    """Channels of a group that leave, numbered as in its first layer; what they contribute is moved elsewhere."""
    free = torch.ones(len(group[0].idxs), dtype=torch.bool)
    consumers = []
    for item in group:
        layer, places, roots = item.dep.target.module, torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        if not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            continue
        if not isinstance(layer, PLAIN) or getattr(layer, "groups", 1) > 1:
            return []
        if graph.is_out_channel_pruning_fn(item.dep.handler):
            removed = gone[layer].cpu() if layer in gone else torch.zeros(len(layer.weight), dtype=torch.bool)
            free[roots[~removed[places]]] = False
        else:
            values, same = (tensor.cpu() for tensor in constants[layer])
            free[roots[~same[places]]] = False
            consumers.append((layer, places, roots, values[places]))
    if not consumers:  # the outputs
        return []
    carriers = []
    for layer, _, roots, values in consumers:
        strength = values.abs() * free[roots]
        carriers.append(int(strength.argmax()) if _padded(layer) and strength.any() else None)
    for (_, _, roots, _), carrier in zip(consumers, carriers, strict=True):
        if carrier is not None:
            free[roots[carrier]] = False
    if free.all():
        free[0] = False
    with torch.no_grad():
        for (layer, places, roots, values), carrier in zip(consumers, carriers, strict=True):
            _move(layer, places, values * free[roots], None if carrier is None else (places[carrier], values[carrier]))
            stays = torch.ones(
                len(constants[layer][0]), dtype=torch.bool
            )  # where channels are concatenated, others move up
            stays[places[free[roots]]] = False
            constants[layer] = constants[layer][0].cpu()[stays], constants[layer][1].cpu()[stays]
    return [int(place) for place in free.nonzero().flatten()]


def _move(layer: Any, places: Tensor, values: Tensor, carrier: tuple[Tensor, Tensor] | None) -> None:
    """Add what inputs of these values contribute to what the carrier does, else to the bias."""
    weight = layer.weight
    values = values.to(weight)
    part = torch.einsum("oi...,i->o...", weight[:, places], values)
    if carrier is not None:
        weight[:, carrier[0]] += part / carrier[1].to(weight)
    elif layer.bias is not None:
        layer.bias += part.flatten(1).sum(1) if part.ndim > 1 else part


def _padded(layer: Any) -> bool:
    """Whether constant inputs do not give constant outputs, or there is no bias to hold them."""
    padding = getattr(layer, "padding", 0)
    none = padding == "valid" or (not isinstance(padding, str) and not torch.tensor(padding).any())
    return layer.bias is None or not none
