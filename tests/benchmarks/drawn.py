"""Figures of what masks are like before training, and of the studies of what they are worth after it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from jobs.figures import COLOURS, COPS, MARKERS, canvas, legend
from jobs.initialisations import COPS as OURS
from jobs.initialisations import SINGLE as CHOSEN
from jobs.initialisations import Comparison, Mean

Record = Mapping[str, Any]
DPI = 80  # a page has room for files of tens of kB
SINGLE = ("random", "magnitude", "snip", "grasp", "synflow", "synflow x100")
BY_METHOD = dict(zip((*SINGLE, CHOSEN), COLOURS, strict=False)) | {OURS: COPS, "dense": "#BBBBBB"}
AGAINST = (CHOSEN, "snip", "grasp")  # the others fall so far behind that nothing else could be seen
BEYOND = ("snip|grasp", "synflow|grasp", "snip|synflow")  # the pairs of a figure that has no room for more


def gradients(found: Mapping[str, tuple[float, Sequence[Record]]], sparsities: Sequence[float], level: float) -> Figure:
    """Gradient norm of the remaining weights over the dense network's: by network, the dense one's and the masks."""
    figure, panels = canvas(len(found), columns=2, width=8.0)
    for axes, (name, (dense, masks)) in zip(panels, found.items(), strict=False):
        for index, method in enumerate((*SINGLE, *BEYOND)):
            points = {one["sparsity"]: living(one["gradient"] / dense) for one in masks if one["method"] == method}
            pair = "|" in method
            axes.plot(
                range(len(sparsities)),
                [points.get(at) or math.nan for at in sparsities],
                color=COPS if pair else COLOURS[index % 8],
                marker=MARKERS[(index - len(SINGLE)) if pair else index],
                linestyle="-" if pair else ":",
                label=f"COPS {method}, alpha {level:g}" if pair else method,
            )
        axes.axhline(1.0, color="#000000", linewidth=0.8, label="dense")
        _by_sparsity(axes, sparsities)
        axes.set(title=name, ylabel="gradient norm / dense", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda norm, _: f"{norm:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    legend(figure, panels[0])
    return figure


def living(norm: float) -> float:
    """A gradient norm; 0 where only rounding left one behind, as in a network without a path from input to output."""
    return norm if norm > 1e-6 else 0.0


def similarities(masks: Sequence[Record], alphas: Sequence[float], title: str) -> Figure:
    """What the masks of each pair share with those of its target and of its control alone, against alpha."""
    pairs = [method for method in dict.fromkeys(one["method"] for one in masks) if "|" in method]
    figure, panels = canvas(len(pairs), columns=3, width=9.0)
    for axes, pair in zip(panels, pairs, strict=False):
        for index, one in enumerate(one for one in masks if one["method"] == pair):
            for name, face in (("target", COLOURS[index]), ("control", "white")):
                axes.plot(
                    alphas,
                    one[name],
                    color=COLOURS[index],
                    marker=MARKERS[index],
                    markersize=4,
                    markerfacecolor=face,
                    linestyle="-" if name == "target" else ":",
                    label=f"{name}, {100 * one['sparsity']:g}%",
                )
        axes.set(title=pair, xlabel="alpha", ylabel="Jaccard similarity", xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
    figure.suptitle(title, fontsize="medium")
    legend(figure, panels[0])
    return figure


def accuracies(found: Mapping[str, Sequence[Comparison]]) -> Figure:
    """Above, mean test accuracies against sparsity; below, what COPS adds to some of them: a column per network."""
    figure, panels = canvas(2 * len(found), columns=len(found), width=4.0 * len(found))
    for column, (title, tables) in enumerate(found.items()):
        for table, axes in zip(tables, panels[column :: len(found)], strict=False):
            shown = [name for name in table.rows if (name in AGAINST if table.signed else "|" not in name)]
            for index, name in enumerate(shown):
                row = {at: one for at, one in table.rows[name].items() if one is not None}
                shift = 0.05 * (index - len(shown) / 2) if table.signed else 0.0
                axes.errorbar(
                    [table.sparsities.index(at) + shift for at in row],
                    [100 * one.value for one in row.values()],
                    yerr=[100 * (one.error or 0.0) for one in row.values()],
                    color=BY_METHOD[name],
                    marker="o" if name in (OURS, CHOSEN) else MARKERS[index % 8],
                    linestyle="none" if table.signed else "-" if name == OURS else ":",
                    markersize=5,
                    capsize=2,
                    label=name,
                )
            _by_sparsity(axes, table.sparsities)
            if table.signed:
                axes.axhline(0.0, color="#000000", linewidth=0.8)
            axes.set(title=title, ylabel="best COPS mask minus ..., %" if table.signed else "test accuracy, %")
    legend(figure, panels[0])
    return figure


def levels(found: Mapping[str, Mapping[float, Mapping[float, Mean]]], title: str) -> Figure:
    """Validation accuracy against alpha, mean and standard error over initialisations: a panel per pair."""
    figure, panels = canvas(len(found), columns=2, width=8.0)
    for axes, (method, rows) in zip(panels, found.items(), strict=False):
        for index, (at, row) in enumerate(rows.items()):
            axes.errorbar(
                list(row),
                [100 * one.value for one in row.values()],
                yerr=[100 * (one.error or 0.0) for one in row.values()],
                color=COLOURS[index],
                marker=MARKERS[index],
                markersize=5,
                capsize=2,
                label=f"{100 * at:g}%",
            )
        axes.set(title=method, xlabel="alpha", ylabel="validation accuracy, %", xlim=(-0.03, 1.03))
    figure.suptitle(title, fontsize="medium")
    legend(figure, panels[0])
    return figure


def _by_sparsity(axes: Axes, sparsities: Sequence[float]) -> None:
    axes.set_xticks(range(len(sparsities)), [f"{100 * at:g}%" for at in sparsities])
    axes.set(xlabel="sparsity")
