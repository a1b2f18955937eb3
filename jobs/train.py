"""Train and evaluate one masked network."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from cops import Mask
from cops.network import prunable
from jobs.augment import augment
from jobs.data import Dataset, Samples
from jobs.spec import Training


class DivergedError(ValueError):
    """The training loss is no longer a number."""


class Trainer:
    """Trains a network in place, epoch by epoch. Removed weights stay exactly zero.

    Args:
        model: on the device of `data`.
        mask: None for the dense network.
        data: whose training samples are used.
        recipe: how.
        seed: decides the order of the samples and every other draw.

    Attributes:
        epochs: how many have ended.
    """

    def __init__(self, model: nn.Module, mask: Mask | None, data: Dataset, recipe: Training, seed: int) -> None:
        self.epochs = 0
        self._model, self._data, self._recipe, self._seed = model, data, recipe, seed
        inputs, labels = data.train
        self._device, self._count = inputs.device, len(labels)
        weights = prunable(model)
        self._removed = [(weights[name], ~kept.to(self._device)) for name, kept in mask.kept.items()] if mask else []
        if mask:
            mask.apply(model)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = _optimizer(model, recipe)
        self._schedule = _schedule(self._optimizer, recipe, steps=-(-self._count // recipe.batch_size))
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=recipe.precision == "float16")
        self._draws = torch.Generator().manual_seed(seed)

    def epoch(self) -> float:
        """Train one more epoch; its mean loss.

        Raises:
            DivergedError: the loss is not finite.
        """
        self._model.train()
        total = torch.zeros((), device=self._device)
        order = torch.randperm(self._count, generator=self._draws).to(self._device)
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # a model may draw as well, as dropout does
            torch.manual_seed(self._seed + self.epochs)
            for part in order.split(self._recipe.batch_size):
                total += self._step(part) * len(part)
        self.epochs += 1
        mean = float(total) / self._count
        if not math.isfinite(mean):
            recipe = self._recipe
            raise DivergedError(
                f"the training loss is {mean} in epoch {self.epochs}: lower training.learning_rate "
                f"({recipe.learning_rate:g}), give it a warmup ({recipe.warmup:g} epochs), or try another "
                f"training.precision ({recipe.precision})"
            )
        return mean

    def state(self) -> dict[str, Any]:
        """All that decides how it goes on, as tensors and plain values."""
        parts = self._parts()
        return {name: part.state_dict() for name, part in parts.items()} | {
            "epochs": self.epochs,
            "draws": self._draws.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.epochs = state["epochs"]
        self._draws.set_state(state["draws"])

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "scaler": self._scaler,
        }

    def _step(self, part: Tensor) -> Tensor:
        """One step on the samples at positions `part`; their mean loss."""
        recipe, (inputs, labels) = self._recipe, self._data.train
        batch = self._data.ready(augment(inputs[part], recipe.crop, recipe.flip, self._draws))
        if recipe.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        self._optimizer.zero_grad(set_to_none=True)
        precision = getattr(torch, recipe.precision)
        with torch.autocast(self._device.type, precision, enabled=recipe.precision != "float32"):
            loss = cross_entropy(self._model(batch), labels[part], label_smoothing=recipe.label_smoothing)
        self._scaler.scale(loss).backward()
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() >= before:  # a lower scale: float16 overflowed and the step was left out
            self._schedule.step()
        with torch.no_grad():
            for weight, gone in self._removed:
                weight.masked_fill_(gone, 0)
        return loss.detach()


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, samples: Samples, batch_size: int = 1024) -> float:
    """Fraction of the samples that the model classifies correctly, in eval mode."""
    model.eval()
    inputs, labels = samples
    correct = sum(
        (model(data.ready(x)).argmax(1) == y).sum().item()
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    )
    return float(correct / len(labels))


def _optimizer(model: nn.Module, recipe: Training) -> Optimizer:
    rate, decay, momentum = recipe.learning_rate, recipe.weight_decay, recipe.momentum
    if recipe.optimizer == "adamw":
        return AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0)


def _schedule(optimizer: Optimizer, recipe: Training, steps: int) -> LRScheduler:
    """Learning rate by step; `steps` is the number in an epoch."""
    warmup = round(recipe.warmup * steps)
    after: LRScheduler
    if recipe.schedule == "cosine":
        after = CosineAnnealingLR(optimizer, recipe.epochs * steps - warmup)
    elif recipe.schedule == "step":
        milestones = [round(epoch * steps) - warmup for epoch in recipe.milestone_epochs]
        after = MultiStepLR(optimizer, milestones, recipe.gamma)
    else:
        after = ConstantLR(optimizer, factor=1.0)
    if not warmup:
        return after
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / warmup, total_iters=warmup), after], milestones=[warmup])
