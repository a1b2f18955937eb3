"""What the sweeps know about masks: records of single runs, brought together mask by mask. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Literal

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
        validation_error: standard error of `validation_accuracy`; null for a single run.
        test_accuracy: null without confirmations; never used to choose unless it is asked for.
        sweeps: MLflow runs of the sweeps that trained it.
        file_run: MLflow run that holds the mask's file.
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
    recipe: str
    confirmations: int
    validation_accuracy: float
    validation_error: float | None
    test_accuracy: float | None
    sweeps: list[str]
    file_run: str


def summarise(records: Iterable[Record]) -> list[MaskSummary]:
    """One summary per mask and recipe, best validation accuracy first, confirmed before unconfirmed."""
    ordered = sorted(records, key=lambda record: (record.mask, record.recipe))
    groups = [list(group) for _, group in groupby(ordered, key=lambda record: (record.mask, record.recipe))]
    # A mask has a file only where a search trial made it.
    found = [_summary(group) for group in groups if any(record.kind == "search" for record in group)]
    return sorted(found, key=lambda mask: (mask.confirmations > 0, mask.validation_accuracy), reverse=True)


def best(masks: Sequence[MaskSummary], metric: Metric) -> MaskSummary | None:
    """The mask with the best `metric`; one whose accuracy is confirmed is preferred to any whose is not."""
    usable = [mask for mask in masks if getattr(mask, metric) is not None]
    return max(usable, key=lambda mask: (mask.confirmations > 0, getattr(mask, metric)), default=None)


def _summary(records: Sequence[Record]) -> MaskSummary:
    searched = next(record for record in records if record.kind == "search")
    # A trial that ran in two sweeps has one key: the same seed twice is not two confirmations.
    confirmed = {record.trial: record.metrics for record in records if record.kind == "confirmation"}
    runs = list(confirmed.values()) or [searched.metrics]
    validation = [run["validation_accuracy"] for run in runs]
    params = searched.params
    return MaskSummary(
        id=searched.mask,
        model=params["model"],
        data=params["data"],
        method=params["method"],
        target=_numbers("weight_", params),
        controls=[name for name in params["controls"].split(",") if name],
        alpha=_numbers("alpha_", params),
        sparsity=float(params["sparsity"]),
        removed=searched.metrics["sparsity"],
        seed=int(params["seed"]),
        recipe=searched.recipe,
        confirmations=len(confirmed),
        validation_accuracy=mean(validation),
        validation_error=stdev(validation) / len(validation) ** 0.5 if len(validation) > 1 else None,
        test_accuracy=mean(run["test_accuracy"] for run in runs) if confirmed else None,
        sweeps=sorted({record.sweep for record in records}),
        file_run=searched.run,
    )


def _numbers(prefix: str, params: dict[str, str]) -> dict[str, float]:
    return {name.removeprefix(prefix): float(value) for name, value in params.items() if name.startswith(prefix)}
