"""The report of a small sweep of real trials, run without Ray."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D
from PIL import Image

from cops.scores import Scores
from jobs import figures, page
from jobs.plan import Cell, ScoreTask
from jobs.report import standings
from jobs.search import Search
from jobs.spec import Spec
from jobs.trial import compute_score, finish, run

SPEC = {
    "name": "report",
    "workloads": [{"model": "convnet", "data": "digits"}],
    "grid": {
        "pairs": [{"target": "snip", "controls": ["grasp"]}, {"target": ["snip", "magnitude"], "controls": ["grasp"]}],
        "sparsities": [0.8, 0.9],
    },
    "baselines": ["dense", "snip", "magnitude"],
    "search": {"trials": 4},
    "training": {"epochs": 1, "batch_size": 64},
    "confirmations": 2,
    "ablations": ["shuffle", "reinit"],
    "samples": 200,
}


def points(line: Line2D) -> tuple[list[float], list[float]]:
    xs, ys = (np.asarray(values, dtype=float).tolist() for values in (line.get_xdata(), line.get_ydata()))
    return xs, ys


def scores(spec: Spec, cell: Cell, name: str) -> Scores:
    return compute_score(spec, ScoreTask(cell.model, cell.data, cell.seed, name))


@pytest.fixture(scope="module")
def swept() -> tuple[Search, dict[Cell, dict[str, float]]]:
    spec = Spec.model_validate(SPEC)
    search, densities = Search(spec), {}
    while (trial := search.ask()) is not None:
        result = finish(run(spec, trial, partial(scores, spec, trial.cell)))
        search.tell(trial, result.metrics)
        if search.cells[trial.cell].winner == trial and trial.cell.target:
            densities[trial.cell] = result.layer_density
    return search, densities


def test_the_page_holds_everything_in_itself(
    swept: tuple[Search, dict[Cell, dict[str, float]]], tmp_path: Path
) -> None:
    search, densities = swept
    page.write(search, densities, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "<script" not in html
    rows = re.findall(r"<tr(?: class=\"first\")?><td>(.*?)</td><td>(.*?)</td>", html)
    assert sorted(rows) == sorted((f"{cell.sparsity:g}", cell.method) for cell in search.cells)
    screened = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td><td>([+-].*?)</td>", html)
    assert [row[:2] for row in screened] == [("0.8", "10"), ("0.9", "10")]  # two pairs of four trials, two baselines
    assert html.count("mask shuffled: ") == html.count("weights drawn anew: ") == len(search.cells) - 1  # not dense
    wanted = {"accuracy", "bars", "alpha", "similarity", "layers", "pareto", "importance", "dual"}
    drawn = {path.stem.split("-")[1]: path for path in tmp_path.glob("figures/*.png")}
    assert drawn.keys() == wanted
    assert html.count("data:image/png;base64,") == len(wanted)
    for path in drawn.values():
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # more than an empty frame


def test_masks_go_from_the_targets_to_the_controls(swept: tuple[Search, dict[Cell, dict[str, float]]]) -> None:
    search, _ = swept
    drawn = figures.similarity_by_alpha(search, list(search.cells))
    assert drawn is not None
    for axes in drawn.axes[:2]:
        for line in axes.lines:
            alphas, shared = points(line)
            assert alphas == sorted(alphas)
            assert all(0 <= share <= 1 for share in shared)
        if axes.get_title() == "snip|grasp":
            target = next(line for line in axes.lines if str(line.get_label()) == "target @0.9")
            assert points(target)[1] == sorted(points(target)[1], reverse=True)


def test_the_example_of_the_dual_has_its_minimum_at_the_multiplier() -> None:
    left = figures.dual().axes[0]
    curve, star, point = left.lines
    weights, values = points(curve)
    lowest = weights[values.index(min(values))]
    assert lowest == pytest.approx(points(star)[0][0], abs=2 * (weights[1] - weights[0]))
    assert points(point)[1][0] <= min(values) + 1e-9


def test_a_sweep_without_results_has_a_page(tmp_path: Path) -> None:
    page.write(Search(Spec.model_validate(SPEC)), {}, tmp_path)
    assert "<h1>Sweep report</h1>" in (tmp_path / "report.html").read_text()


def test_one_sparsity_is_enough_for_a_figure() -> None:
    grid = {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.9]}
    search = Search(Spec.model_validate(SPEC | {"grid": grid, "confirmations": 0, "ablations": []}))
    while (trial := search.ask()) is not None:
        search.tell(trial, {"validation_accuracy": 0.5})
    figures.accuracy_by_sparsity(standings(search)).canvas.draw()
