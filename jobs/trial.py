"""One trial: shared scores -> mask -> proxies -> training -> result. No Ray and no MLflow in here."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import torch

from cops import Mask, Pruning, combine, score
from cops.scores import Scores
from jobs.identity import mask_settings
from jobs.plan import ScoreTask, Trial
from jobs.spec import Spec
from jobs.train import accuracy, to_device, train
from jobs.workloads import Dataset, Samples, build_model, load_data, scoring_batches


@dataclass(frozen=True)
class Epoch:
    """An epoch of training that has ended: its number, from 1, mean training loss and validation accuracy."""

    number: int
    training_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Result:
    """What a trial leaves.

    Args:
        metrics: final numbers by name; `validation_accuracy` steers the search.
        curves: per epoch, by name.
        layer_density: fraction kept, by parameter name; empty for the dense network.
        mask: None for the dense network.
    """

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    layer_density: dict[str, float]
    mask: Mask | None


def compute_score(spec: Spec, task: ScoreTask) -> Scores:
    """A score vector of a workload's freshly initialised network, on the CPU."""
    device, seed = best_device(), spec.seed + task.seed
    dataset = load_data(task.data)
    network = build_model(task.model, dataset, seed).to(device)
    options = {"seed": seed} if task.score == "random" else {}
    scores = score(task.score, network, scored(spec, dataset, seed), **options)
    return {parameter: values.cpu() for parameter, values in scores.items()}


def run(
    spec: Spec, trial: Trial, scores: Callable[[str], Scores], checkpoint: Path | None = None
) -> Generator[Epoch, None, Result]:
    """Run a trial: yields after every epoch of training, returns the result. Closed early, it leaves nothing.

    On one kind of device the same trial gives the same mask and the same accuracies, bit for bit.

    Args:
        spec: the trial's sweep.
        trial: what to run.
        scores: gives the shared score vector of a name.
        checkpoint: a file that training resumes from where it exists, and saves to now and then.
    """
    device, seed = best_device(), spec.seed + trial.cell.seed
    dataset = load_data(trial.cell.data)
    model = build_model(trial.cell.model, dataset, seed).to(device)
    metrics: dict[str, float] = {}

    started = time.perf_counter()
    mask = None
    if trial.cell.target:
        needed = {name: scores(name) for name in (*trial.cell.target, *trial.cell.controls)}
        pruning = combine(
            needed,
            target=dict(zip(trial.cell.target, trial.weights, strict=True)),
            controls=trial.cell.controls,
            sparsity=trial.cell.sparsity,
            alpha=trial.alpha,
        )
        mask = Mask(pruning.mask.kept, mask_settings(spec, trial))
        metrics |= _mask_metrics(trial, pruning)
        metrics["dead_share"] = mask.health(model, dataset.train[0][:1]).dead_share
        metrics["seconds_mask"] = time.perf_counter() - started

    started = time.perf_counter()
    curves: dict[str, list[float]] = {"training_loss": [], "validation_accuracy": []}
    validation = to_device(dataset.validation, device)
    for loss in train(model, mask, to_device(dataset.train, device), spec.training, trial.training_seed):
        curves["training_loss"].append(loss)
        curves["validation_accuracy"].append(accuracy(model, validation))
        yield Epoch(len(curves["training_loss"]), loss, curves["validation_accuracy"][-1])
    metrics["seconds_training"] = time.perf_counter() - started
    metrics["validation_accuracy"] = curves["validation_accuracy"][-1]
    if trial.kind != "search":
        metrics["test_accuracy"] = accuracy(model, to_device(dataset.test, device))
    return Result(metrics, curves, mask.layer_density() if mask else {}, mask)


def finish(running: Generator[Epoch, None, Result]) -> Result:
    """The result of a trial that nobody stops."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: Result = end.value
            return result


def scored(spec: Spec, dataset: Dataset, seed: int) -> list[Samples]:
    """The training samples that every score of one initialisation sees."""
    return scoring_batches(dataset, spec.scoring.batches, spec.scoring.batch_size, seed)


def best_device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _mask_metrics(trial: Trial, pruning: Pruning) -> dict[str, float]:
    """Exact sparsity, emptied layers, the solution's certificate and each control's multiplier and level."""
    mask, solution = pruning.mask, pruning.solution
    metrics = {
        "sparsity": mask.sparsity,
        "kept": mask.count,
        "emptied_layers": sum(density == 0 for density in mask.layer_density().values()),
        "target_kept": solution.objective,
        "gap": solution.gap,
    }
    for index, control in enumerate(trial.cell.controls):
        alone = combine(pruning.scores, target=control, sparsity=trial.cell.sparsity).mask
        metrics[f"multiplier_{control}"] = solution.multipliers[index]
        metrics[f"control_value_{control}"] = solution.controls[index]
        metrics[f"similarity_{control}"] = mask.similarity(alone)
    if trial.cell.controls:
        target = dict(zip(trial.cell.target, trial.weights, strict=True))
        metrics["similarity_target"] = mask.similarity(
            combine(pruning.scores, target=target, sparsity=trial.cell.sparsity).mask
        )
    return metrics
