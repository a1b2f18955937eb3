"""All prunable weights as one vector, parameter after parameter, row-major."""

from collections.abc import Mapping

import torch
from torch import Tensor


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Tensors by parameter name as one vector `(d,)`, in the order of the mapping: vectors that meet must share it."""
    return torch.cat([values.flatten() for values in tensors.values()])


def unflatten(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The inverse of `flatten`, for any vector `(d,)`."""
    parts = vector.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
