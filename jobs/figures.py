"""Figures of a sweep, each a function of what was found. Nothing is drawn for which there is no data."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cops import relative_kappa, solve
from jobs.known import Outcome
from jobs.plan import Cell, Trial
from jobs.report import Standing, best_masks
from jobs.search import Search

# Okabe and Ito's colours, which most people can tell apart; the first is kept for COPS.
COPS = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#F0E442")
MARKERS = "osD^vPX*"
INCHES = 3.2  # height of a panel
Searched = list[tuple[Trial, Outcome]]
Style = dict[str, Any]


def accuracy_by_sparsity(found: Sequence[Standing]) -> Figure:
    """Validation accuracy of the best COPS mask and every baseline, with standard errors."""
    figure, (axes,) = canvas(1, width=6.5)
    lines: dict[str, list[Standing]] = {"best COPS": list(best_masks(found).values())}
    for one in found:
        if not one.cell.tunable and one.cell.target:
            lines.setdefault(one.cell.method, []).append(one)
    for label, style in _styles(lines).items():
        points = sorted(lines[label], key=lambda one: one.cell.sparsity)
        axes.errorbar(
            [_density(one.cell) for one in points],
            [100 * one.validation for one in points],
            yerr=[100 * (one.error or 0.0) for one in points],
            label=label,
            capsize=3,
            **style,
        )
    for one in found:
        if not one.cell.target:
            axes.axhline(100 * one.validation, color="#999999", linestyle=":", label="dense")
    densities = [_density(one.cell) for one in found if one.cell.target]
    # Limits first: a logarithmic axis warns when it has to find its own with nothing drawn.
    axes.set(xlim=(1.15 * max(densities, default=1), min(densities, default=0.1) / 1.15), xscale="log")
    ticks = sorted({one.cell.sparsity for one in found if one.cell.target})
    axes.set_xticks([1 - sparsity for sparsity in ticks], [f"{sparsity:g}" for sparsity in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="sparsity", ylabel="validation accuracy, %")
    legend(figure, axes)
    return figure


def accuracy_by_alpha(search: Search, cells: Sequence[Cell]) -> Figure | None:
    """Validation accuracy of every search trial against its first alpha: a panel for each pair."""
    return _by_alpha(search, cells, "validation accuracy, %", _accuracy)


def similarity_by_alpha(search: Search, cells: Sequence[Cell]) -> Figure | None:
    """How much of the COPS mask the masks of target and first control alone share: from one to the other."""

    def draw(axes: Axes, trials: Searched, style: Style, label: str) -> None:
        control = trials[0][0].cell.controls[0]
        for name, filled in (("target", True), (control, False)):
            points = [
                (trial.alpha[0], out[f"similarity_{name}"]) for trial, out in trials if f"similarity_{name}" in out
            ]
            points.sort()
            face = style["color"] if filled else "white"
            axes.plot(
                *zip(*points, strict=True), **style, markerfacecolor=face, label=f"{name} {label}"
            ) if points else None

    return _by_alpha(search, cells, "Jaccard similarity of masks", draw)


def bars(search: Search, found: Sequence[Standing]) -> Figure | None:
    """Accuracy after training, and gradient norm before it, of the dense network and of each method's mask."""
    best = best_masks(found)
    if not best:
        return None
    figure, panels = canvas(2 * len(best), columns=2, width=6.5)
    for row, (sparsity, cops) in enumerate(best.items()):
        shown = [one for one in found if not one.cell.tunable and one.cell.sparsity in (0.0, sparsity)] + [cops]
        names = [one.cell.method for one in shown[:-1]] + ["COPS"]
        colours = [*("#999999" for _ in shown[:-1]), COPS]
        left, right = panels[2 * row : 2 * row + 2]
        left.bar(
            names,
            [100 * one.validation for one in shown],
            yerr=[100 * (one.error or 0.0) for one in shown],
            color=colours,
            capsize=3,
        )
        left.set(ylabel="validation accuracy, %", title=f"sparsity {sparsity:g}")
        norms = [_metric(search, one, "gradient_norm_ratio") for one in shown]
        right.bar(
            names, [1.0 if not one.cell.target else norm for one, norm in zip(shown, norms, strict=True)], color=colours
        )
        right.set(ylabel="gradient norm / dense", title=f"sparsity {sparsity:g}")
        for axes in (left, right):
            axes.tick_params(axis="x", rotation=60)
    return figure


def layer_densities(found: Sequence[Standing], densities: Mapping[Cell, Mapping[str, float]]) -> Figure | None:
    """Fraction kept of every layer by the best masks: a panel for each sparsity. Emptied layers have no point."""
    known = [one for one in found if densities.get(one.cell)]
    best = best_masks(known)
    if not best:
        return None
    figure, panels = canvas(len(best), width=8.0)
    for axes, (sparsity, cops) in zip(panels, best.items(), strict=True):
        shown = {one.cell.method: one for one in known if not one.cell.tunable and one.cell.sparsity == sparsity}
        shown["best COPS"] = cops
        for label, style in _styles(shown).items():
            layers = densities[shown[label].cell]
            axes.plot(list(layers), [kept or math.nan for kept in layers.values()], label=label, **style)
        axes.axhline(1 - sparsity, color="#999999", linestyle=":")
        axes.set(ylabel="density", yscale="log", title=f"sparsity {sparsity:g}")
        axes.tick_params(axis="x", rotation=75, labelsize="small")
    legend(figure, panels[0])
    return figure


def importance(search: Search, cells: Sequence[Cell]) -> Figure | None:
    """Share of the variance in accuracy that alpha and each weight explain, where several are tuned."""
    rows = {cell.name: shares for cell in cells if (shares := search.cells[cell].importances())}
    if not rows:
        return None
    figure, (axes,) = canvas(1, width=7.0)
    names = list(dict.fromkeys(name for shares in rows.values() for name in shares))
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [row + height * (index - (len(names) - 1) / 2) for row in range(len(rows))]
        axes.barh(
            places,
            [shares.get(name, 0.0) for shares in rows.values()],
            height,
            label=name.replace("stick", "weight"),
            color=COLOURS[index % 8],
        )
    axes.set_yticks(range(len(rows)), list(rows), fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1))
    axes.legend(fontsize="small")
    return figure


def pareto(search: Search, cells: Sequence[Cell]) -> Figure | None:
    """Accuracy against cost of every search trial, and the frontier: nothing is both better and cheaper."""
    trials = [(trial, out) for cell in cells for trial, out in _searched(search, cell) if "flops_share" in out]
    if not trials:
        return None
    figure, (axes,) = canvas(1, width=6.5)
    for (label, tuned), style in zip((("COPS", True), ("single scores", False)), (COPS, COLOURS[0]), strict=True):
        points = [
            (out["flops_share"], 100 * out["validation_accuracy"]) for t, out in trials if t.cell.tunable is tuned
        ]
        if points:
            costs, accuracies = zip(*points, strict=True)
            axes.scatter(costs, accuracies, s=16, color=style, label=label, alpha=0.7)
    front: list[tuple[float, float]] = []
    for cost, right in sorted(
        ((out["flops_share"], 100 * out["validation_accuracy"]) for _, out in trials), key=lambda p: (p[0], -p[1])
    ):
        if not front or right > front[-1][1]:
            front.append((cost, right))
    axes.step(*zip(*front, strict=True), where="post", color="#000000", linewidth=1, label="frontier")
    axes.set(xlabel="multiply-adds / dense, %", ylabel="validation accuracy, %", xscale="log")
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize="small")
    return figure


def dual() -> Figure:
    """How COPS chooses, on twelve weights of which five may stay: the dual function, and the combined scores."""
    draws = torch.Generator().manual_seed(3)
    target, control = (torch.rand(12, generator=draws, dtype=torch.float64) for _ in range(2))
    keep = 5
    kappa = relative_kappa([0.6], target, [control], keep)
    best = solve(target, [control], keep, kappa)
    star = best.multipliers[0]
    weights = torch.linspace(0.0, max(2.5 * star, 1.0), 400, dtype=torch.float64)
    pi = target + weights[:, None] * control
    ranked = pi.sort(1, descending=True).values
    figure, (left, right) = canvas(2, columns=2, width=8.0)
    left.plot(weights, ranked[:, :keep].clamp(min=0).sum(1) - weights * kappa[0], color=COLOURS[0])
    left.axvline(star, color=COPS, linestyle="--")
    left.plot(star, best.bound, "o", color=COPS)
    left.set(xlabel="multiplier", ylabel="dual function g", title="its minimum is the best multiplier")
    for line, kept in zip(pi.T, best.mask, strict=True):
        right.plot(weights, line, color=COLOURS[0] if kept else "#BBBBBB", linewidth=1)
    right.plot(weights, ranked[:, keep - 1], color="#000000", linewidth=1.5, label="threshold")
    right.axvline(star, color=COPS, linestyle="--")
    right.set(xlabel="multiplier", ylabel="combined score", title="weights above the threshold there stay")
    right.legend(fontsize="small")
    return figure


def canvas(count: int, *, columns: int = 1, width: float) -> tuple[Figure, list[Axes]]:
    """A figure, `width` inches wide, of at least `count` panels; those that are too many are not seen."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width, INCHES * rows + 0.3), layout="constrained", dpi=120)
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, panels


def legend(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, beside them, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)


def _by_alpha(
    search: Search,
    cells: Sequence[Cell],
    what: str,
    draw: Callable[[Axes, Searched, Style, str], None],
) -> Figure | None:
    tuned = [cell for cell in cells if cell.controls and _searched(search, cell)]
    if not tuned:
        return None
    methods = {
        method: list(group)
        for method, group in groupby(sorted(tuned, key=lambda cell: cell.method), lambda cell: cell.method)
    }
    figure, panels = canvas(len(methods), columns=2, width=8.0)
    for axes, (method, group) in zip(panels, methods.items(), strict=False):
        for index, cell in enumerate(sorted(group, key=lambda cell: cell.sparsity)):
            style = {"color": COLOURS[index % 8], "marker": MARKERS[index % 8], "linestyle": ":"}
            draw(axes, sorted(_searched(search, cell), key=lambda pair: pair[0].alpha), style, f"@{cell.sparsity:g}")
        axes.set(title=method, xlabel="alpha", ylabel=what, xlim=(-0.02, 1.02))
        axes.legend(fontsize="x-small")
    return figure


def _accuracy(axes: Axes, trials: Searched, style: Style, label: str) -> None:
    points = [(trial.alpha[0], 100 * out["validation_accuracy"]) for trial, out in trials]
    axes.plot(*zip(*points, strict=True), **style, label=label)


def _searched(search: Search, cell: Cell) -> Searched:
    outcomes = search.cells[cell].outcomes.items()
    return [(trial, out) for trial, out in outcomes if out is not None and trial.kind == "search"]


def _metric(search: Search, one: Standing, name: str) -> float:
    values = [out[name] for trial, out in _searched(search, one.cell) if trial == one.trial and name in out]
    return mean(values) if values else 0.0


def _density(cell: Cell) -> float:
    return 1.0 - cell.sparsity


def _styles(labels: Mapping[str, object]) -> dict[str, Style]:
    """A colour and a marker for each label, COPS standing out; the same ones in every figure of a page."""
    others = [label for label in labels if not label.endswith("COPS")]
    styles = {label: {"color": COLOURS[i % 8], "marker": MARKERS[i % 8]} for i, label in enumerate(others)}
    return {label: styles.get(label, {"color": COPS, "marker": "o"}) for label in labels}
