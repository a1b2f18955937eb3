"""One trial: shared scores -> mask -> proxies -> training -> result. No Ray and no MLflow in here."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cops import Mask, Pruning, ScoreError, combine, prune, score
from cops.flops import flops_share
from cops.gradient import gradient_norm_ratio
from cops.scores import Scores
from jobs.checkpoints import Checkpoint
from jobs.data import Dataset, Samples
from jobs.identity import key, mask_settings, trial_key
from jobs.network import Origin, Trained
from jobs.plan import Cell, ScoreTask, Trial
from jobs.spec import Spec
from jobs.train import Trainer, accuracy
from jobs.workloads import build_model, load_data, scoring_batches


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
        trained: the sparse network, of the first confirmation of a mask alone.
    """

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    layer_density: dict[str, float]
    mask: Mask | None
    trained: Trained | None = None


def compute_score(spec: Spec, task: ScoreTask, data: Dataset | None = None) -> Scores:
    """A score vector of a workload's freshly initialised network, on the CPU; `data` if it is in memory already.

    Raises:
        ScoreError: as `cops.score`; names the model.
        UserError: as `build_model` and `load_data`.
    """
    device, seed = best_device(), spec.seed + task.seed
    dataset = (data or load_data(task.data)).first(spec.samples)
    network = build_model(task.model, dataset, seed).to(device)
    try:
        scores = score(task.score, network, scored(spec, dataset, seed), **_options(seed).get(task.score, {}))
    except ScoreError as error:
        raise ScoreError(f"{error} ({task.model} on {task.data})") from error
    return {parameter: values.cpu() for parameter, values in scores.items()}


def run(
    spec: Spec,
    trial: Trial,
    scores: Callable[[str], Scores],
    checkpoint: Checkpoint | None = None,
    data: Dataset | None = None,
) -> Generator[Epoch, None, Result]:
    """Run a trial: yields after every epoch of training, returns the result.

    The same trial gives the same mask and, on the CPU, the same accuracies, bit for bit.

    Args:
        spec: the trial's sweep.
        trial: what to run.
        scores: gives the shared score vector of a name.
        checkpoint: of this trial, which training goes on from where there is one, and saves to now and then; epochs
            from before are yielded again. Whoever gives it removes it.
        data: the trial's data set, if it is in memory already.

    Raises:
        DivergedError: the training loss is no longer a number.
        ScoreError: a round cannot score the network.
        UserError: as `build_model` and `load_data`.
        ValueError: no mask is as wanted.
    """
    device, seed = best_device(), spec.seed + trial.cell.seed
    dataset = (data or load_data(trial.cell.data)).first(spec.samples)
    model = build_model(trial.cell.model, dataset, seed).to(device)
    metrics: dict[str, float] = {}
    mask = None
    if trial.cell.target:
        started = time.perf_counter()
        batches = scored(spec, dataset, seed)
        pruning = _prune(spec, trial, model, batches, scores)
        kept = {name: kept.cpu() for name, kept in pruning.mask.kept.items()}
        if trial.ablation == "shuffle":
            kept = _shuffled(kept, trial.training_seed)
        else:
            metrics |= _solution_metrics(spec, trial, model, pruning)
        mask = Mask(kept, mask_settings(spec, trial))
        metrics |= _mask_metrics(model, mask, batches)
        metrics["seconds_mask"] = time.perf_counter() - started
    if trial.ablation == "reinit":
        other = int(key("reinit", [seed, trial.training_seed])[:8], 16)
        model = build_model(trial.cell.model, dataset, other).to(device)

    dataset = dataset.to(device)
    curves = yield from _train(spec, trial, model, mask, dataset, metrics, checkpoint)
    metrics["validation_accuracy"] = curves["validation_accuracy"][-1]
    if trial.kind != "search":
        metrics["test_accuracy"] = accuracy(model, dataset, dataset.test)
    trained = None
    if mask is not None and trial.kind == "confirmation" and trial.training_seed == 1:
        trained = Trained.of(model, Origin.of(trial.cell.model, seed, dataset, trial_key(spec, trial)))
    return Result(metrics, curves, mask.layer_density() if mask else {}, mask, trained)


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


def _options(seed: int) -> dict[str, dict[str, int]]:
    """Options of scores that draw, by name."""
    return {"random": {"seed": seed}}


def _prune(
    spec: Spec, trial: Trial, model: nn.Module, batches: list[Samples], scores: Callable[[str], Scores]
) -> Pruning:
    cell = trial.cell
    target = dict(zip(cell.target, trial.weights, strict=True))
    if cell.rounds == 1:
        needed = {name: scores(name) for name in (*cell.target, *cell.controls)}
        return combine(
            needed, target=target, controls=cell.controls, alpha=trial.alpha, model=model, **_form(spec, cell)
        )
    return prune(
        model,
        batches,
        target=target,
        controls=cell.controls,
        alpha=trial.alpha,
        rounds=cell.rounds,
        score_options=_options(spec.seed + cell.seed),
        **_form(spec, cell),
    )


def _form(spec: Spec, cell: Cell) -> dict[str, Any]:
    """Which masks a cell looks among, as arguments of `cops.prune`."""
    exclude, floor = spec.pruning.exclude, spec.pruning.min_density
    return {"sparsity": cell.sparsity, "layout": cell.layout, "exclude": exclude, "min_density": floor}


def _shuffled(kept: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """As many weights kept of each layer, in random places."""
    draws = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=draws)].view_as(mask) for name, mask in kept.items()
    }


def _train(
    spec: Spec,
    trial: Trial,
    model: nn.Module,
    mask: Mask | None,
    dataset: Dataset,
    metrics: dict[str, float],
    checkpoint: Checkpoint | None,
) -> Generator[Epoch, None, dict[str, list[float]]]:
    """Train to the end, or from a checkpoint on; curves by name. Adds the seconds that it took to `metrics`."""
    trainer = Trainer(model, mask, dataset, spec.training, trial.training_seed)
    curves: dict[str, list[float]] = {"training_loss": [], "validation_accuracy": []}
    before = 0.0
    if checkpoint is not None and (found := checkpoint.load()) is not None:
        trainer.restore(found["trainer"])
        curves, before = found["curves"], found["seconds"]
        for number, (loss, right) in enumerate(zip(*curves.values(), strict=True), start=1):
            yield Epoch(number, loss, right)
    started = time.perf_counter()
    while trainer.epochs < spec.training.epochs:
        curves["training_loss"].append(trainer.epoch())
        curves["validation_accuracy"].append(accuracy(model, dataset, dataset.validation))
        if checkpoint is not None and checkpoint.due:
            seconds = before + time.perf_counter() - started
            checkpoint.save({"trainer": trainer.state(), "curves": curves, "seconds": seconds})
        yield Epoch(trainer.epochs, curves["training_loss"][-1], curves["validation_accuracy"][-1])
    metrics["seconds_training"] = before + time.perf_counter() - started
    return curves


def _mask_metrics(model: nn.Module, mask: Mask, batches: list[Samples]) -> dict[str, float]:
    """What a mask leaves of the network, its cost and its gradient."""
    inputs = batches[0][0][:1]
    metrics = {
        "sparsity": mask.sparsity,
        "kept": mask.count,
        "emptied_layers": sum(density == 0 for density in mask.layer_density().values()),
        "flops_share": flops_share(model, mask.kept, inputs),
        "gradient_norm_ratio": gradient_norm_ratio(model, mask.kept, batches),
    }
    with suppress(ValueError):  # a network through which no path can be followed, such as attention
        metrics["dead_share"] = mask.health(model, inputs).dead_share
    return metrics


def _solution_metrics(spec: Spec, trial: Trial, model: nn.Module, pruning: Pruning) -> dict[str, float]:
    """The solution's certificate, each control's multiplier and level; likeness to the masks of single scores."""
    cell, solution = trial.cell, pruning.solution
    metrics = {"target_kept": solution.objective, "gap": solution.gap}
    for index, control in enumerate(cell.controls):
        metrics[f"multiplier_{control}"] = solution.multipliers[index]
        metrics[f"control_value_{control}"] = solution.controls[index]
        metrics[f"control_slack_{control}"] = solution.slack[index]
    if cell.controls and cell.rounds == 1:  # in rounds, the scores of the last are those of this mask's own network
        alone = {control: {control: 1.0} for control in cell.controls}
        for name, target in {**alone, "target": dict(zip(cell.target, trial.weights, strict=True))}.items():
            other = combine(pruning.scores, target=target, model=model, **_form(spec, cell)).mask
            metrics[f"similarity_{name}"] = pruning.mask.similarity(other)
    return metrics
