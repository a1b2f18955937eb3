"""What all scorers share: their signature, their promises and the gradient of the loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Concatenate, ParamSpec, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cops.network import Replica, untouched

Batches: TypeAlias = Sequence[tuple[Tensor, Tensor]]
Scores: TypeAlias = dict[str, Tensor]
Options = ParamSpec("Options")
Scorer: TypeAlias = Callable[Concatenate[nn.Module, Batches, Options], Scores]


class ScoreError(ValueError):
    """A score that cannot be computed, or that would mean nothing."""


def scorer(function: Scorer[Options]) -> Scorer[Options]:
    """Give a scorer the promises of every score: the model is left as it was, also on an exception; no score
    leaves with NaN, infinity or nothing but zeros.
    """
    name = function.__name__.rstrip("_")

    def score(model: nn.Module, batches: Batches, /, *args: Options.args, **options: Options.kwargs) -> Scores:
        with untouched(model):
            scores = function(model, batches, *args, **options)
        for parameter, values in scores.items():
            if not torch.isfinite(values).all():
                raise ScoreError(
                    f"score '{name}' is not finite for '{parameter}' (NaN or overflow): "
                    "use a smaller initialisation, check the batches, or give the model in float64"
                )
        if not any(values.any() for values in scores.values()):
            raise ScoreError(
                f"score '{name}' is zero for every weight: it cannot rank them; "
                "check that the outputs depend on the weights and that the loss is not saturated"
            )
        return scores

    update_wrapper(score, function)
    return score


@contextmanager
def usable(name: str, number: int, *tensors: Tensor) -> Iterator[None]:
    """Turn what a network says about a batch that does not fit it into a ScoreError that names the batch."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        shapes = " and labels ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ScoreError(f"score '{name}': the model cannot use batch {number}, inputs {shapes}: {error}") from error


def require(name: str, batches: Batches, what: str) -> None:
    """Refuse to score without a batch."""
    if not batches:
        raise ScoreError(f"score '{name}' needs {what}: give at least one batch (inputs, labels)")


def losses(name: str, network: Replica, batches: Batches, temperature: float = 1.0) -> Iterator[Tensor]:
    """Cross-entropy of logits / `temperature`, batch by batch, weighted so that they sum to the mean over all
    samples: how the samples are cut into batches then makes no difference.
    """
    require(name, batches, "data")
    total = sum(len(labels) for _, labels in batches)
    for number, (inputs, labels) in enumerate(batches):
        with usable(name, number, inputs, labels):
            logits = network(inputs)
            loss = cross_entropy(logits / temperature, labels.to(logits.device))
        yield loss * (len(labels) / total)


def gradients(value: Tensor, weights: Scores, *, create_graph: bool = False) -> Scores:
    """Gradient of a scalar with respect to `weights`, shaped like them; zero where it does not depend on one."""
    grads = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def loss_gradient(name: str, network: Replica, batches: Batches, temperature: float = 1.0) -> Scores:
    """Gradient of the mean loss over all samples of all batches, by parameter name."""
    total = {key: torch.zeros_like(weight, requires_grad=False) for key, weight in network.weights.items()}
    for loss in losses(name, network, batches, temperature):
        for key, gradient in gradients(loss, network.weights).items():
            total[key] += gradient
    return total
