"""Can masks be screened without training? How what is known of them beforehand ranks them, against their accuracy."""

from collections.abc import Iterable, Sequence

import numpy as np

from jobs.plan import Cell
from jobs.search import Search

PROXIES = {  # metrics that every trial has before it trains, and what they are called
    "gradient_norm_ratio": "gradient norm",
    "flops_share": "multiply-adds left",
    "dead_share": "dead weights",
}
LEAST = 5  # masks of which a correlation says anything


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, in [-1, 1]; None if there are too few values, or one side has but one."""
    if len(first) < LEAST or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def correlations(search: Search, cells: Iterable[Cell]) -> list[dict[str, str]]:
    """A row per sparsity: number of masks, and each proxy's rank correlation with validation accuracy, as text.

    All search trials that came to their end count, whatever their method.
    """
    found: dict[float, list[dict[str, float]]] = {}
    for cell in cells:
        if cell.target:
            trials = search.cells[cell].outcomes.items()
            ended = [dict(out) for trial, out in trials if out is not None and trial.kind == "search"]
            found.setdefault(cell.sparsity, []).extend(ended)
    rows = []
    for sparsity, outcomes in sorted(found.items()):
        row = {"sparsity": f"{sparsity:g}", "masks": str(len(outcomes))}
        for proxy in PROXIES:
            pairs = [(one[proxy], one["validation_accuracy"]) for one in outcomes if proxy in one]
            value = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
            row[proxy] = "" if value is None else f"{value:+.2f}"
        rows.append(row)
    return [row for row in rows if any(row[proxy] for proxy in PROXIES)]


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks; equal values share their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean: np.ndarray = (np.cumsum(count) - (count - 1) / 2)[place]
    return mean
