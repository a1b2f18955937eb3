"""Health of a mask: densities, emptied layers, and dead weights, those on no path from input to output.

A kept weight is alive if some input reaches it and it reaches some output, through kept weights, activations,
normalisations, pooling and shortcuts. That is found by evaluating the network itself once, forwards and backwards, in
the boolean semiring: every prunable weight is 1 if kept and 0 if not, every signal and every gradient is cut to 0 or 1
at each layer, so that nothing can overflow, vanish or cancel; activations and normalisations pass signals as they are,
pooling to the maximum becomes pooling to the mean, biases are left out. Paths start at the input: a neuron that has
nothing but its bias is a constant, and the weights behind it are dead.

Followed: any wiring of convolutions, linear layers, activations, normalisations, pooling, sums, concatenations and
reshapes. Where two signals are multiplied (a gate), both must be reached: a dead gate counts as closed. Attention is
refused.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cops.network import Replica, untouched


@dataclass(frozen=True)
class Health:
    """What a mask leaves of a network.

    Attributes:
        sparsity: fraction of the prunable weights removed.
        density: fraction kept of each parameter, by name.
        emptied: parameters without any weight left (layer collapse).
        dead: number of kept weights on no path from input to output, by parameter name.
        dead_share: dead weights among all kept ones, in [0, 1].
    """

    sparsity: float
    density: Mapping[str, float]
    emptied: tuple[str, ...]
    dead: Mapping[str, int]
    dead_share: float


def health(model: nn.Module, kept: Mapping[str, Tensor], inputs: Tensor) -> Health:
    """Health of a mask (bool, by parameter name) on a network that takes `inputs`, `(n, ...)`; only their shape counts.

    The model is left as it was. Parameters without a mask count as dense.

    Raises:
        ValueError: the model cannot take the inputs, or has an operation that no path can be followed through.
    """
    with untouched(model):
        living = alive(model, kept, inputs)
    count = {name: int(mask.sum()) for name, mask in kept.items()}
    dead = {name: count[name] - int(living[name].sum()) for name in kept}
    return Health(
        sparsity=1 - sum(count.values()) / sum(mask.numel() for mask in kept.values()),
        density={name: count[name] / mask.numel() for name, mask in kept.items()},
        emptied=tuple(name for name in kept if not count[name]),
        dead=dead,
        dead_share=sum(dead.values()) / max(1, sum(count.values())),
    )


def alive(model: nn.Module, kept: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Kept weights that lie on a path from input to output, bool, by parameter name; leaves the model in eval mode."""
    model.eval()
    network = Replica(model, absolute=True, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in network.weights.items():
            weight.copy_(kept[name] if name in kept else torch.ones_like(weight))
    signal = torch.ones_like(inputs[:1]) if inputs.is_floating_point() else inputs[:1]
    try:
        with _Paths():
            reached = network(signal).sum()
        gradient = torch.autograd.grad(reached, list(network.weights.values()), materialize_grads=True)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(f"the model cannot take inputs {tuple(inputs.shape)}: {error}") from error
    found = zip(network.weights.items(), gradient, strict=True)
    return {name: (weight > 0) & (slope > 0.5) for (name, weight), slope in found if name in kept}


def _cut(values: Tensor, forward: float, backward: float) -> Tensor:
    """Signals above `forward`, and gradients above `backward`, become 1, all others 0.

    Sums of zeros and ones are compared with 1/2: some convolution algorithms return a zero as 1e-7.
    """
    found: Tensor = _Cut.apply(values, forward, backward)  # type: ignore[no-untyped-call]
    return found


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, forward: float, backward: float) -> Tensor:
        ctx.backward_limit = backward
        return (values > forward).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return (gradients[0] > ctx.backward_limit).to(gradients[0].dtype), None, None


PASS = {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "elu", "elu_", "selu", "celu", "gelu"),
    *("silu", "mish", "sigmoid", "sigmoid_", "logsigmoid", "hardsigmoid", "tanh", "tanh_", "hardtanh", "hardtanh_"),
    *("hardswish", "softplus", "softsign", "tanhshrink", "softmax", "log_softmax", "clamp", "clamp_", "dropout"),
    *("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm", "normalize"),
}
WEIGHTED = {
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
}
ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"}
POOLS: dict[str, Callable[..., Tensor]] = {
    "max_pool1d": functional.avg_pool1d,
    "max_pool2d": functional.avg_pool2d,
    "max_pool3d": functional.avg_pool3d,
    "adaptive_max_pool1d": functional.adaptive_avg_pool1d,
    "adaptive_max_pool2d": functional.adaptive_avg_pool2d,
    "adaptive_max_pool3d": functional.adaptive_avg_pool3d,
}


class _Paths(TorchFunctionMode):
    """Evaluate functions in the boolean semiring."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name in PASS:
            return args[0] if args else kwargs["input"]
        if name in WEIGHTED:
            return _weighted(function, *args, **kwargs)
        if name in POOLS:
            return _mean_pool(POOLS[name], *args, **kwargs)
        if name in ATTENTION:
            raise ValueError(f"paths cannot be followed through attention ({name})")
        return function(*args, **kwargs)


def _weighted(
    function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, _bias: Any = None, /, *args: Any, **kwargs: Any
) -> Tensor:
    """A layer without its bias."""
    kwargs.pop("bias", None)
    signal = _cut(inputs, 0.0, 0.5)
    return _cut(function(signal, weight, None, *args, **kwargs), 0.5, 0.0)


def _mean_pool(pool: Callable[..., Tensor], inputs: Tensor, size: Any, /, **options: Any) -> Tensor:
    """The mean over the windows of a pooling to the maximum: positive where any of its inputs is."""
    dilation = options.pop("dilation", 1)
    if options.pop("return_indices", False) or {1} != set(dilation if isinstance(dilation, tuple) else (dilation,)):
        raise ValueError("paths cannot be followed through max pooling with dilation or return_indices")
    return pool(inputs, size, **options)
