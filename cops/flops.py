"""What a network costs: multiply-adds of its prunable layers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cops.network import layers, untouched


def multiply_adds(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    """Multiply-adds of each prunable weight for one sample, by parameter name; zero where a layer is not called.

    The model is left as it was. Biases, normalisations and activations count nothing, as is usual.

    Args:
        model: whose convolutions and linear layers are counted.
        inputs: (n, ...), `n >= 1`; only their shape counts.
    """
    found = dict.fromkeys(layers(model), 0)
    hooks = []
    for name, users in layers(model).items():
        for layer in users:

            def count(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                """Each weight is used once per position: of the output, or where it is transposed, of the input."""
                transposed = getattr(layer, "transposed", False)
                signal = given[0] if transposed else output
                linear = isinstance(layer, nn.Linear)
                positions = signal[0].numel() // signal.shape[-1 if linear else 1]
                found[name] += layer.weight.numel() * positions  # type: ignore[operator]

            hooks.append(layer.register_forward_hook(count))
    try:
        with untouched(model), torch.no_grad():
            model.eval()(inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def flops_share(model: nn.Module, kept: Mapping[str, Tensor], inputs: Tensor) -> float:
    """Multiply-adds that a mask (bool, by parameter name) leaves, as a fraction of the dense network's, in [0, 1].

    Parameters without a mask count as dense. The model is left as it was.
    """
    cost = multiply_adds(model, inputs)
    left = {name: int(kept[name].sum()) / kept[name].numel() if name in kept else 1.0 for name in cost}
    return sum(cost[name] * left[name] for name in cost) / sum(cost.values())
