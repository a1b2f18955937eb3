"""The gradient that a mask leaves, against autograd by hand."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cops import Mask, ScoreError
from cops.gradient import gradient_norm_ratio
from cops.network import prunable
from tests.cops.networks import convnet, images, unchanged

BATCHES = [images(8, 2, 8, 8), images(8, 2, 8, 8, seed=1)]


def mask(model: nn.Module, density: float) -> Mask:
    draws = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(w.shape, generator=draws) < density for name, w in prunable(model).items()})


def test_against_autograd_by_hand() -> None:
    model, means = convnet(), []
    kept = mask(model, 0.4)
    for network, where in ((deepcopy(model), None), (kept.apply(deepcopy(model)), kept.kept)):
        sum(cross_entropy(network(x), y) / 2 for x, y in BATCHES).backward()  # type: ignore[union-attr]
        slopes = [
            w.grad.abs()[... if where is None else where[name]].flatten()
            for name, w in prunable(network).items()
            if w.grad is not None
        ]
        means.append(torch.cat(slopes).mean().item())
    assert gradient_norm_ratio(model, kept.kept, BATCHES) == pytest.approx(means[1] / means[0], rel=1e-9)


def test_ends_of_the_scale() -> None:
    model = convnet()
    assert gradient_norm_ratio(model, mask(model, 2.0).kept, BATCHES) == 1
    assert gradient_norm_ratio(model, mask(model, 0.0).kept, BATCHES) == 0


def test_the_model_is_left_as_it_was() -> None:
    model = convnet()
    kept = mask(model, 0.4).kept
    with unchanged(model):
        gradient_norm_ratio(model, kept, BATCHES)
    with unchanged(model), pytest.raises(ScoreError, match="batch 0"):
        gradient_norm_ratio(model, kept, [images(2, 5, 8, 8)])
