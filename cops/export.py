"""Pruned networks for others: torch.nn.utils.prune, ONNX, 2:4 semi-structured tensors."""

import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as reparametrise
from torch.sparse import to_sparse_semi_structured

from cops.mask import Mask
from cops.network import layers, prunable


def to_torch_prune(model: nn.Module, mask: Mask) -> nn.Module:
    """Put a mask on the network as `torch.nn.utils.prune` does, in place, and return it.

    Every layer then has `weight_orig`, the parameter to train, and `weight_mask`; `weight` is their product, so that
    removed weights stay zero while the network is trained. `torch.nn.utils.prune.remove(layer, "weight")` makes it
    permanent. A shared weight is masked in each of its layers.

    Raises:
        ValueError: the mask is for another network, which is then left as it was.
    """
    mask.check(prunable(model))
    users = layers(model)
    for name, kept in mask.kept.items():
        for layer in users[name]:
            reparametrise.custom_from_mask(layer, "weight", kept)
    return model


def to_onnx(model: nn.Module, mask: Mask | None, example: Tensor, path: str | Path) -> None:
    """Write the pruned network, in eval mode, as one ONNX file; needs the extra `export`.

    Removed weights are stored as zeros; without a mask the network is taken as it is, such as a smaller one (see
    `cops.shrink`). `example` is one batch of inputs, `(n, ...)`; the file takes batches of any
    size. The model is left as it was.

    Raises:
        ValueError: the mask is for another network, or the model cannot take the example.
        ImportError: onnx or onnxscript is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX files need {' and '.join(missing)}: pip install 'cops-sweep[export]'")
    network = deepcopy(model).eval()
    if mask is not None:
        mask.apply(network)
    try:
        with torch.no_grad():
            network(example)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"the model cannot take the example, inputs {tuple(example.shape)}: {error}") from error
    batch = {0: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter sets off its own
        torch.onnx.export(network, (example,), path, dynamic_shapes=(batch,), external_data=False, verbose=False)


def to_semi_structured(model: nn.Module, mask: Mask) -> nn.Module:
    """Replace the weights of pruned linear layers by 2:4 semi-structured sparse ones, in place, and return the network.

    Their products run on sparse tensor cores. Convolutions have no such product: their removed weights are set to zero.
    For inference; a sparse weight is not trained.

    Raises:
        ValueError: the mask is for another network, or not 2:4 in a linear layer that it prunes; or the network is not
            on a CUDA device. It is then left as it was.
    """
    mask.check(prunable(model))
    users = layers(model)
    pruned = {
        name: [layer for layer in users[name] if isinstance(layer, nn.Linear)]
        for name, kept in mask.kept.items()
        if not kept.all()
    }
    for name in (name for name, found in pruned.items() if found):
        kept, weight = mask.kept[name], users[name][0].weight
        if kept.shape[1] % 4 or int(kept.unflatten(1, (-1, 4)).sum(2).max()) > 2:
            raise ValueError(f"the mask of '{name}' keeps more than 2 of 4 consecutive inputs: prune with layout='2:4'")
        if not weight.is_cuda:
            raise ValueError(
                f"'{name}' is on {weight.device}: sparse tensor cores are on CUDA devices only, move the model there"
            )
    sparse = {
        name: to_sparse_semi_structured(found[0].weight.detach() * mask.kept[name].to(found[0].weight.device))
        for name, found in pruned.items()
        if found
    }
    mask.apply(model)
    for name, weight in sparse.items():
        for layer in pruned[name]:
            layer.weight = nn.Parameter(weight, requires_grad=False)
    return model
