"""Sensitivity: the accuracy that is left when one layer alone is pruned."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cops.network import prunable
from cops.prune import combine
from cops.scores import Batches, score

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One layer pruned to one sparsity: `removed` is the exact fraction of its weights that was removed."""

    layer: str
    sparsity: float
    removed: float
    accuracy: float


@dataclass(frozen=True)
class Sensitivity:
    """Accuracies of `sensitivity`, layer by layer in the network's order; `dense` is that of the network unpruned."""

    dense: float
    rows: tuple[Row, ...]

    @property
    def curves(self) -> dict[str, list[Row]]:
        """Rows of each layer."""
        names = dict.fromkeys(row.layer for row in self.rows)
        return {name: [row for row in self.rows if row.layer == name] for name in names}

    def __str__(self) -> str:
        """Table: one line per layer, one column per sparsity."""
        width = max(len("layer"), *(len(name) for name in self.curves))
        columns = [row.sparsity for row in next(iter(self.curves.values()))]
        lines = [f"{'layer':{width}}" + "".join(f"{sparsity:>8.2%}" for sparsity in columns)]
        lines += [
            f"{name:{width}}" + "".join(f"{row.accuracy:8.4f}" for row in curve) for name, curve in self.curves.items()
        ]
        return "\n".join([*lines, f"{'dense':{width}}{self.dense:8.4f}"])

    def figure(self) -> "Figure":
        """Accuracy against sparsity, one line per layer; `.savefig(path)` writes it.

        Raises:
            ImportError: matplotlib is missing; it comes with the extra `plots`.
        """
        try:
            from matplotlib import colormaps
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("figures need matplotlib: pip install 'cops-sweep[plots]'") from error
        figure = Figure(figsize=(8, max(4.5, 0.2 * len(self.curves) + 1)), layout="constrained")  # room for all names
        axes = figure.subplots()
        shades = colormaps["viridis"].resampled(len(self.curves))
        for number, (name, curve) in enumerate(self.curves.items()):
            points = [(0.0, self.dense), *((100 * row.removed, row.accuracy) for row in curve)]
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, color=shades(number), label=name)
        axes.axhline(self.dense, color="grey", lw=0.8, ls=":")
        axes.set(xlabel="weights of the layer removed (%)", ylabel="accuracy", title="Each layer pruned alone")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", fontsize="small", frameon=False, title="first to last layer")
        return figure


def sensitivity(
    model: nn.Module,
    batches: Batches,
    *,
    evaluate: Callable[[nn.Module], float] | Batches,
    target: str = "l1_filter",
    layout: str = "filter",
    sparsities: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    score_options: Mapping[str, Any] | None = None,
) -> Sensitivity:
    """Prune each layer alone to each sparsity, without training, and evaluate. Sensitive layers are better left out.

    Args:
        model: a trained network; left as it was.
        batches: (inputs, labels) pairs for the score.
        evaluate: what gives the accuracy of a network (it gets a pruned copy in eval mode), or (inputs, labels) pairs
            to measure the share of right answers on.
        target: name of the score that ranks the weights, or filters, of a layer.
        layout: as in `cops.prune`; the publication removes whole filters.
        sparsities: fractions of a layer's weights to remove, each in (0, 1).
        score_options: options of the score.

    Raises:
        ValueError: as `cops.prune`; nothing to evaluate on, or no sparsities.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2 and figure 2b.
    """
    if not sparsities:
        raise ValueError("sparsities is empty: give at least one fraction in (0, 1)")
    if not callable(evaluate) and not evaluate:
        raise ValueError("evaluate is empty: give a function or at least one batch (inputs, labels)")
    measure = evaluate if callable(evaluate) else _accuracy_on(evaluate)
    scores = score(target, model, batches, **(score_options or {}))
    network = deepcopy(model).eval()
    weights = prunable(network)
    dense = float(measure(network))
    rows = []
    for name, values in scores.items():
        original = weights[name].detach().clone()
        for sparsity in sparsities:
            kept = combine({target: {name: values}}, target=target, sparsity=sparsity, layout=layout, model=model).mask
            kept.apply(network)
            rows.append(Row(name, sparsity, kept.sparsity, float(measure(network))))
            with torch.no_grad():
                weights[name].copy_(original)
    return Sensitivity(dense, tuple(rows))


def _accuracy_on(batches: Batches) -> Callable[[nn.Module], float]:
    """Share of samples whose largest logit is their label's."""

    def accuracy(network: nn.Module) -> float:
        device = next(iter(prunable(network).values())).device
        with torch.no_grad():
            hits = sum(int((network(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in batches)
        return hits / sum(len(y) for _, y in batches)

    return accuracy
