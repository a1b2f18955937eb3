"""What of a network can be pruned, and how to evaluate it without touching it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Layer: TypeAlias = _ConvNd | nn.Linear


def layers(model: nn.Module) -> dict[str, list[Layer]]:
    """The layers that use each prunable weight, by parameter name: several where a weight is shared.

    Raises:
        ValueError: the model has no prunable weight.
    """
    users: dict[int, list[Layer]] = {}
    for module in model.modules():
        if isinstance(module, Layer):
            users.setdefault(id(module.weight), []).append(module)
    return {name: users[id(weight)] for name, weight in prunable(model).items()}


def rows(values: Tensor, layer: Layer) -> Tensor:
    """One row per output filter, `(filters, weights of a filter)`, of values shaped like the layer's weight.

    A transposed convolution stores `(in, out / groups, ...)`; its filters are gathered from all inputs of a group.
    """
    if isinstance(layer, _ConvTransposeNd):
        values = values.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return values.flatten(1)


def unrows(values: Tensor, layer: Layer) -> Tensor:
    """The inverse of `rows`."""
    if isinstance(layer, _ConvTransposeNd):
        shape = layer.weight.shape
        filters = values.reshape(layer.groups, shape[1], shape[0] // layer.groups, *shape[2:])
        return filters.transpose(1, 2).reshape(shape)
    return values.reshape(layer.weight.shape)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all convolutions and linear layers, by parameter name, in the model's own order.

    Biases and normalisation layers are never pruned. A weight that several layers share is listed once.

    Raises:
        ValueError: the model has no such weight.
    """
    weights = {id(module.weight) for module in model.modules() if isinstance(module, _ConvNd | nn.Linear)}
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in weights}
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no prunable weights: "
            "only convolutions (nn.Conv*, nn.ConvTranspose*) and nn.Linear are pruned"
        )
    return found


class Replica:
    """A network evaluated on copies of its parameters and buffers, so that the original stays as it is.

    `weights` are the copies of the prunable weights; gradients are taken with respect to them.
    """

    def __init__(self, model: nn.Module, *, absolute: bool = False, dtype: torch.dtype | None = None) -> None:
        """Copy `model`'s tensors; with `absolute` their absolute values, with `dtype` the floating ones cast."""

        def copy(tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            if not tensor.is_floating_point():
                return tensor.clone()
            tensor = tensor.to(dtype or tensor.dtype, copy=True)
            return tensor.abs_() if absolute else tensor

        self.model = model
        # Where each tensor is used. Left to itself, functional_call does not put back what a module registered under
        # two names had.
        names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.places = {
            f"{path}.{key}".lstrip("."): names[id(tensor)]
            for path, module in model.named_modules()
            for key, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        self.tensors = {name: copy(tensor) for name, tensor in model.named_parameters()}
        self.tensors |= {name: copy(tensor) for name, tensor in model.named_buffers()}
        self.weights = {name: self.tensors[name].requires_grad_() for name in prunable(model)}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of the network, `(n, ...)`; `inputs` are brought to its device and precision."""
        like = next(iter(self.weights.values()))
        inputs = inputs.to(like.device)
        if inputs.is_floating_point():
            inputs = inputs.to(like.dtype)
        torch.manual_seed(0)  # dropout draws the same units whenever the same batch is seen again
        tensors = {place: self.tensors[name] for place, name in self.places.items()}
        outputs: Tensor = functional_call(self.model, tensors, (inputs,), tie_weights=False)
        return outputs


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, leave modes and the global random state as they were; gradients on, AMP off."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(iter(prunable(model).values())).device
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=cuda),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training
