"""What the sweeps know about masks: records of single runs, brought together mask by mask. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a client needs no MLflow
    from jobs.tracking import Record

Metric = Literal["validation_accuracy", "test_accuracy"]


@dataclass(frozen=True)
class MaskSummary:
    """A mask, and how well the network trained under it by one recipe, over all sweeps.

    Args:
        id: content key of the mask, 32 hex digits.
        method: target scores | control scores.
        target: weight of each target score; they sum to 1.
        alpha: relative level of each control score, in [0, 1].
        sparsity: fraction of the prunable weights removed, as asked for.
        removed: fraction removed in fact: more, where the scores of fewer weights are worth keeping.
        seed: of the initial weights, which the mask belongs to.
        recipe: content key of the training recipe.
        confirmations: distinct runs with fresh training seeds. The accuracies are means over them or, where there
            are none, those of the search run, which is biased upward for having been picked.
        layout: of the mask, e.g. unstructured, filter or 2:4.
        rounds: in which it was pruned.
        samples: at most so many training, validation and test samples each were used, for trying out; null for all.
        validation_error: standard error of `validation_accuracy`; null for a single run.
        test_accuracy: null without confirmations; never used to choose unless it is asked for.
        sweeps: MLflow runs of the sweeps that trained it.
        flops_share: floating-point operations left, of those of the dense network; this and what follows is null where
            it is not known.
        dead_share: kept weights on no path from input to output, of all kept.
        emptied_layers: layers without a kept weight.
        gradient_norm_ratio: mean gradient of the kept weights before training, over that of the dense network.
        file_run: MLflow run that holds the mask's file.
        file_sha256: of that file.
        weights_run: MLflow run that holds the trained sparse network.
        weights_sha256: of that file.
    """

    id: str
    model: str
    data: str
    method: str
    target: dict[str, float]
    controls: list[str]
    alpha: dict[str, float]
    sparsity: float
    removed: float
    seed: int
    layout: str
    rounds: int
    samples: int | None
    recipe: str
    confirmations: int
    validation_accuracy: float
    validation_error: float | None
    test_accuracy: float | None
    flops_share: float | None
    dead_share: float | None
    emptied_layers: int | None
    gradient_norm_ratio: float | None
    sweeps: list[str]
    file_run: str
    file_sha256: str | None
    weights_run: str | None
    weights_sha256: str | None


def summarise(records: Iterable[Record]) -> list[MaskSummary]:
    """One summary per mask and recipe, in whichever order the records come; by id."""
    ordered = sorted(records, key=lambda record: (record.mask, record.recipe, record.ended, record.run))
    groups = [list(group) for _, group in groupby(ordered, key=lambda record: (record.mask, record.recipe))]
    # A mask has a file only where a search trial made it.
    return [_summary(group) for group in groups if any(record.kind == "search" for record in group)]


def _summary(records: Sequence[Record]) -> MaskSummary:
    searched = next(record for record in records if record.kind == "search")
    # A trial that ran in two sweeps has one key: the same seed twice is not two confirmations.
    confirmed = {record.trial: record.metrics for record in records if record.kind == "confirmation"}
    runs = list(confirmed.values()) or [searched.metrics]
    validation = [run["validation_accuracy"] for run in runs]
    tested = [run["test_accuracy"] for run in confirmed.values() if "test_accuracy" in run]
    trained = next((record for record in records if record.weights_sha256), None)
    params, metrics = searched.params, searched.metrics
    emptied = _finite(metrics, "emptied_layers")
    return MaskSummary(
        id=searched.mask,
        model=params["model"],
        data=params["data"],
        method=params["method"],
        target=_numbers("weight_", params),
        controls=[name for name in params["controls"].split(",") if name],
        alpha=_numbers("alpha_", params),
        sparsity=float(params["sparsity"]),
        removed=metrics["sparsity"],
        seed=int(params["seed"]),
        layout=params.get("layout", "unstructured"),
        rounds=int(params.get("rounds", 1)),
        samples=int(params["samples"]) if "samples" in params else None,
        recipe=searched.recipe,
        confirmations=len(confirmed),
        validation_accuracy=mean(validation),
        validation_error=stdev(validation) / len(validation) ** 0.5 if len(validation) > 1 else None,
        test_accuracy=mean(tested) if tested else None,
        flops_share=_finite(metrics, "flops_share"),
        dead_share=_finite(metrics, "dead_share"),
        emptied_layers=None if emptied is None else int(emptied),
        gradient_norm_ratio=_finite(metrics, "gradient_norm_ratio"),
        sweeps=sorted({record.sweep for record in records}),
        file_run=searched.run,
        file_sha256=searched.mask_sha256,
        weights_run=trained.run if trained else None,
        weights_sha256=trained.weights_sha256 if trained else None,
    )


def _finite(metrics: dict[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and isfinite(value) else None


def _numbers(prefix: str, params: dict[str, str]) -> dict[str, float]:
    return {name.removeprefix(prefix): float(value) for name, value in params.items() if name.startswith(prefix)}
