"""The report of a sweep as one HTML page with everything in it, so that MLflow shows it inline, and its figures."""

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from jobs import figures
from jobs.initialisations import comparisons
from jobs.plan import Cell
from jobs.report import ABLATED, Standing, standings, trust
from jobs.search import Search

Densities = Mapping[Cell, Mapping[str, float]]  # of each cell's winner: fraction kept by parameter name
CAPTIONS = {
    "accuracy": "Validation accuracy against sparsity: mean and standard error of the confirmation runs.",
    "bars": "Accuracy after training, and the gradient's norm before it relative to the dense network's.",
    "alpha": "Search trials: accuracy against alpha, the relative level of the first control.",
    "similarity": "Search trials: what the COPS mask shares with the masks of the target alone (filled) and of the "
    "first control alone (open). Alpha leads from the one to the other.",
    "layers": "Fraction of each layer that masks keep; a layer without a point is empty. Dotted: of the whole network.",
    "pareto": "Search trials: accuracy against multiply-adds. Nothing is better and cheaper than the frontier.",
    "importance": "How much alpha and each weight matter for being among the best quarter of a cell's trials.",
    "dual": "How COPS chooses, on an example of twelve weights.",
}


def write(search: Search, densities: Densities, folder: Path) -> None:
    """Write `report.html`, and the figures as PNG files in a folder of their own, into `folder`."""
    found = standings(search)
    sections: list[dict[str, Any]] = []
    for workload in dict.fromkeys((cell.model, cell.data, cell.seed) for cell in search.cells):
        here = [one for one in found if _workload(one.cell) == workload]
        if here:
            name = f"{workload[0]} on {workload[1]}" + (f", seed {workload[2]}" if workload[2] else "")
            drawn = _drawn(search, workload, here, densities)
            sections.append({"name": name, "rows": _rows(here), "figures": drawn})
    sections.append({"name": "The method", "rows": [], "figures": {"dual": figures.dual()}})
    images = {}
    Path(folder, "figures").mkdir()
    for number, section in enumerate(sections, start=1):
        for key, figure in section["figures"].items():
            png = io.BytesIO()
            figure.savefig(png, format="png")
            Path(folder, "figures", f"{number}-{key}.png").write_bytes(png.getvalue())
            images[number, key] = b64encode(png.getvalue()).decode()
    page = Environment(
        loader=PackageLoader("jobs", "."), autoescape=select_autoescape(["j2"]), undefined=StrictUndefined
    ).get_template("report.html.j2")
    html = page.render(
        name=search.spec.name,
        counts={state: count for state, count in search.counts().items() if count},
        closed=search.closed,
        legend=trust(found),
        comparisons=comparisons(found),
        sections=sections,
        images=images,
        captions=CAPTIONS,
    )
    Path(folder, "report.html").write_text(html, encoding="utf-8")


def _drawn(
    search: Search, workload: tuple[str, str, int], found: Sequence[Standing], densities: Densities
) -> dict[str, Figure]:
    cells = [cell for cell in search.cells if _workload(cell) == workload]
    figure = {
        "accuracy": figures.accuracy_by_sparsity(found),
        "bars": figures.bars(search, found),
        "alpha": figures.accuracy_by_alpha(search, cells),
        "similarity": figures.similarity_by_alpha(search, cells),
        "layers": figures.layer_densities(found, densities),
        "pareto": figures.pareto(search, cells),
        "importance": figures.importance(search, cells),
    }
    return {key: value for key, value in figure.items() if value is not None}


def _rows(found: Sequence[Standing]) -> list[dict[str, str]]:
    """A row per cell, the best of each sparsity first."""
    ordered = sorted(found, key=lambda one: (one.cell.sparsity, not one.confirmed, -one.validation))
    return [
        {
            "sparsity": f"{one.cell.sparsity:g}",
            "method": one.cell.method,
            "alpha": ", ".join(f"{level:.2f}" for level in one.trial.alpha),
            "weights": ", ".join(f"{weight:.2f}" for weight in one.trial.weights) if len(one.trial.weights) > 1 else "",
            "validation": f"{100 * one.validation:.2f}"
            + (f" ± {100 * one.error:.2f}" if one.error is not None else ""),
            "test": f"{100 * one.test:.2f}" if one.test is not None else "",
            "runs": str(one.runs) if one.confirmed else "1, not confirmed",
            "note": "; ".join(_notes(one)),
        }
        for one in ordered
    ]


def _notes(one: Standing) -> Iterator[str]:
    if one.collapsed:
        yield "a layer is empty"
    for ablation, value in one.ablations.items():
        yield f"{ABLATED[ablation]}: {100 * value:.2f}"


def _workload(cell: Cell) -> tuple[str, str, int]:
    return cell.model, cell.data, cell.seed
