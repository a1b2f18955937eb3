"""Mask: which weights of a network are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cops import maskfile
from cops.health import Health, health
from cops.network import prunable


@dataclass(frozen=True, eq=False)
class Mask:
    """Kept weights by parameter name, and how they were chosen.

    Args:
        kept: bool tensors, each shaped like its parameter; True = kept.
        settings: what made the mask (scores, sparsity, alpha, ...), as plain JSON values; saved with it.

    Raises:
        ValueError: no parameters, or a tensor that is not bool.
    """

    kept: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kept:
            raise ValueError("a mask needs at least one parameter, but got none")
        for name, kept in self.kept.items():
            if kept.dtype != torch.bool:
                raise ValueError(f"mask of '{name}' must be a bool tensor, but is {kept.dtype}; compare it first")

    def __repr__(self) -> str:
        return f"Mask({self.size:,} weights in {len(self.kept)} layers, sparsity {self.sparsity:.4f})"

    @property
    def size(self) -> int:
        """Number of prunable weights, `d`."""
        return sum(kept.numel() for kept in self.kept.values())

    @property
    def count(self) -> int:
        """Number of weights kept."""
        return sum(int(kept.sum()) for kept in self.kept.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights REMOVED, in [0, 1]."""
        return 1 - self.count / self.size

    def layer_density(self) -> dict[str, float]:
        """Fraction KEPT of each parameter, in [0, 1]; 0 marks an emptied layer (layer collapse)."""
        return {name: int(kept.sum()) / kept.numel() for name, kept in self.kept.items()}

    def health(self, model: nn.Module, inputs: Tensor) -> Health:
        """Densities, emptied layers and dead weights on a network that takes `inputs`; see `cops.health`.

        Raises:
            ValueError: the mask is for another network, or the model cannot take the inputs.
        """
        self.check(prunable(model))
        return health(model, self.kept, inputs)

    def similarity(self, other: "Mask") -> float:
        """Jaccard similarity `|A and B| / |A or B|` in [0, 1]; two empty masks are alike.

        Raises:
            ValueError: the masks are not of the same parameters.
        """
        shapes, others = ({n: tuple(k.shape) for n, k in mask.kept.items()} for mask in (self, other))
        if shapes != others:
            odd = sorted(n for n in shapes | others if shapes.get(n) != others.get(n))[0]
            raise ValueError(f"masks of different networks: '{odd}' is {shapes.get(odd)} here, {others.get(odd)} there")
        pairs = [(kept, other.kept[name].to(kept.device)) for name, kept in self.kept.items()]
        either = sum(int((a | b).sum()) for a, b in pairs)
        return sum(int((a & b).sum()) for a, b in pairs) / either if either else 1.0

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse the prunable weights of another network.

        Raises:
            ValueError: the mask has a parameter that is not among `weights`, or has another shape there. Weights that
                the mask does not name are dense.
        """
        wanted = {name: tuple(kept.shape) for name, kept in self.kept.items()}
        found = {name: tuple(weight.shape) for name, weight in weights.items()}
        if missing := wanted.items() - found.items():
            name, shape = min(missing)
            raise ValueError(
                f"the mask is for another network: it has '{name}' of shape {shape}, the model has "
                + (f"{found[name]}" if name in found else f"{', '.join(found)}")
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Set the removed weights of `model` to exactly zero, in place, and return it.

        Training moves them again: apply after every optimiser step to keep them at zero.

        Raises:
            ValueError: as `check`; the model is then left as it was.
        """
        weights = prunable(model)
        self.check(weights)
        with torch.no_grad():
            for name, kept in self.kept.items():
                weights[name].masked_fill_(~kept.to(weights[name].device), 0)
        return model

    def save(self, path: str | Path) -> None:
        """Write a mask file (see `cops.maskfile`); `path` is replaced whole or not at all."""
        maskfile.write(Path(path), self.kept, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a mask file. Nothing in it is executed.

        Raises:
            FileNotFoundError: no such file.
            MaskFileError: the file is damaged, foreign or of a later version.
        """
        return cls(*maskfile.read(Path(path)))
