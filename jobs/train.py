"""Train and evaluate one masked network."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cops import Mask
from cops.network import prunable
from jobs.spec import Training
from jobs.workloads import Samples


def train(model: nn.Module, mask: Mask | None, samples: Samples, recipe: Training, seed: int) -> Iterator[float]:
    """Train in place, epoch by epoch, and yield each epoch's mean training loss. Removed weights stay exactly zero.

    The samples are on the model's device; `seed` decides their order and every other draw.
    """
    inputs, labels = samples
    device = inputs.device
    weights = prunable(model)
    removed = [(weights[name], ~kept.to(device)) for name, kept in mask.kept.items()] if mask else []
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    steps = -(-len(labels) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    draws = torch.Generator().manual_seed(seed)
    if mask:
        mask.apply(model)
    torch.manual_seed(seed)
    for _ in range(recipe.epochs):
        model.train()
        total = torch.zeros((), device=device)
        for part in torch.randperm(len(labels), generator=draws).to(device).split(recipe.batch_size):
            optimiser.zero_grad(set_to_none=True)
            loss = cross_entropy(model(inputs[part]), labels[part])
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for weight, gone in removed:
                    weight.masked_fill_(gone, 0)
                total += loss * len(part)
            schedule.step()
        yield float(total) / len(labels)


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples, batch_size: int = 1024) -> float:
    """Fraction of the samples that the model classifies correctly, in eval mode."""
    model.eval()
    inputs, labels = samples
    correct = sum(
        (model(x).argmax(1) == y).sum().item()
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    )
    return float(correct / len(labels))


def to_device(samples: Samples, device: torch.device) -> Samples:
    """Samples on a device."""
    inputs, labels = samples
    return inputs.to(device), labels.to(device)
