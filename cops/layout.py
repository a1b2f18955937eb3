"""Which masks are wanted: of any weights, whole output filters or n of every m; with layers left dense, or a floor.

`unstructured`  every weight is decided alone.
`filter`        one decision per output filter (of a linear layer: per output). Its score is the sum over its weights,
                its cost their number: filters of one network differ in size.
`n:m`           at most n of every m consecutive weights of a filter's flattened inputs; 2:4 is what sparse tensor
                cores want. The last, shorter group of a filter whose inputs m does not divide keeps at most n too.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import ceil

import torch
from torch import Tensor, nn

from cops.network import Layer, layers, rows, unrows


class Layout:
    """A layout made ready for one network.

    Args:
        layout: "unstructured", "filter", or n:m such as "2:4".
        shapes: of the prunable parameters, by name.
        model: tells which weights form a filter; `unstructured` does without.
        exclude: patterns as in `fnmatch`, for names of parameters or layers that are kept dense.
        min_density: fraction of every other layer's weights (or filters) that is kept, rounded up.

    Raises:
        ValueError: another layout, no model where one is needed, a pattern that matches nothing, or a `min_density`
            outside [0, 1] or above what n:m allows.
    """

    def __init__(
        self,
        layout: str,
        shapes: Mapping[str, torch.Size],
        model: nn.Module | None = None,
        exclude: Sequence[str] = (),
        min_density: float = 0.0,
    ) -> None:
        pattern = re.fullmatch(r"(\d+):(\d+)", str(layout))
        if layout not in ("unstructured", "filter") and not pattern:
            raise ValueError(f"unknown layout '{layout}': give 'unstructured', 'filter', or n:m such as '2:4'")
        if pattern and not 0 < int(pattern[1]) < int(pattern[2]):
            raise ValueError(f"layout '{layout}': `0 < n < m` must hold, as in '2:4'")
        if not 0 <= min_density <= 1:
            raise ValueError(f"`0 <= min_density <= 1` must hold, but got min_density={min_density}")
        self.shapes = dict(shapes)
        self.dense = _matching(list(shapes), exclude)
        self.min_density = min_density
        self.pattern = (int(pattern[1]), int(pattern[2])) if pattern else None
        self.layers: dict[str, Layer] = {}
        if layout != "unstructured":
            if model is None:
                raise ValueError(f"layout '{layout}' needs to know the filters: give model=...")
            self.layers = {name: users[0] for name, users in layers(model).items() if name in self.shapes}
            if {name: layer.weight.shape for name, layer in self.layers.items()} != self.shapes:
                raise ValueError("the scores are of another network than the model: give the model that was scored")
        self.whole = layout == "filter"

    def keep(self, sparsity: float) -> int:
        """`sigma = round((1 - sparsity) * d)`, the most weights that a mask keeps.

        Raises:
            ValueError: the layers left dense and `min_density` need more, or n:m allows fewer.
        """
        size = sum(shape.numel() for shape in self.shapes.values())
        keep, least, most = round((1 - sparsity) * size), 0, 0
        for name, shape in self.shapes.items():
            floor, ceiling = self._limits(name, shape.numel())
            if floor > ceiling:
                raise ValueError(
                    f"min_density={self.min_density} asks for {floor} of the {shape.numel()} weights of '{name}', "
                    f"but the layout allows {ceiling}: lower min_density"
                )
            least, most = least + floor, most + ceiling
        if not least <= keep <= most:
            raise ValueError(
                f"sparsity={sparsity} keeps {keep} of {size} weights, but layout, exclude and min_density together "
                f"need {least} to {most}: give a sparsity from {1 - most / size:.6f} to {1 - least / size:.6f}"
            )
        return keep

    def _limits(self, name: str, size: int) -> tuple[int, int]:
        """Fewest and most weights of a parameter that are kept."""
        if name in self.dense:
            return size, size
        filters, inputs = rows(self.layers[name].weight, self.layers[name]).shape if self.layers else (size, 1)
        floor = ceil(self.min_density * filters - 1e-9) * inputs if self.whole else ceil(self.min_density * size - 1e-9)
        if self.pattern:
            n, m = self.pattern
            return floor, filters * (inputs // m * n + min(n, inputs % m))
        return floor, size

    def level(self, name: str, scores: Tensor) -> Tensor:
        """Scores of a parameter as the linear program sees them: for whole filters, each weight's is its filter's mean,
        so that a part of a filter is worth its part of the sum.
        """
        if not self.whole:
            return scores
        filters = rows(scores, self.layers[name])
        means = filters.mean(1, keepdim=True, dtype=torch.float64).to(scores.dtype)
        return unrows(means.expand_as(filters), self.layers[name])

    def bounds(self, name: str, scores: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of a parameter that must be kept, and those of `alive` that may be; the best are those of `scores`,
        levelled, ties by lowest index.
        """
        if name in self.dense:
            return torch.ones_like(alive), torch.ones_like(alive)
        may = alive
        if self.pattern:
            n, m = self.pattern
            filters = rows(scores.masked_fill(~alive, -torch.inf), self.layers[name])
            groups = nn.functional.pad(filters, (0, -filters.shape[1] % m), value=-torch.inf).unflatten(1, (-1, m))
            chosen = _largest(groups, n).flatten(1)[:, : filters.shape[1]]
            may = unrows(chosen, self.layers[name]) & alive
        floor, _ = self._limits(name, scores.numel())
        if not floor:
            return torch.zeros_like(alive), may
        scores = scores.masked_fill(~may, -torch.inf)
        if not self.whole:
            return _largest(scores.flatten(), floor).view_as(scores), may
        filters = rows(scores, self.layers[name])
        best = _largest(filters[:, 0], floor // filters.shape[1])
        return unrows(best[:, None].expand_as(filters), self.layers[name]), may

    def cut(self, mask: Mapping[str, Tensor]) -> list[Tensor]:
        """Filters that `mask` keeps in part only: the positions of each one's weights among all `d`."""
        found, start = [], 0
        for name, kept in mask.items():
            if self.whole:
                places = torch.arange(start, start + kept.numel(), device=kept.device).view_as(kept)
                filters = rows(kept, self.layers[name])
                found += list(rows(places, self.layers[name])[filters.any(1) & ~filters.all(1)])
            start += kept.numel()
        return found


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Names that a pattern matches, with or without `.weight`."""
    if isinstance(patterns, str):
        raise ValueError(f"exclude must be a sequence of patterns, but got '{patterns}': write ['{patterns}']")
    found: set[str] = set()
    for pattern in patterns:
        matched = {n for n in names if any(fnmatchcase(x, pattern) for x in (n, n.removesuffix(".weight")))}
        if not matched:
            raise ValueError(f"exclude pattern '{pattern}' matches no prunable weight: they are {', '.join(names)}")
        found |= matched
    return found


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest along the last dimension, ties by lowest index."""
    best = torch.sort(values, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, best, True)
