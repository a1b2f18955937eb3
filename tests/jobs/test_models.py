"""The shipped networks: as published, scalable, prunable through and through."""

import pytest
import torch

from cops.network import prunable
from jobs.data import Dataset
from jobs.models import MODELS
from jobs.workloads import build_model

PRUNABLE = {  # weights of convolutions and linear layers, for CIFAR-10
    "vgg16": 14_715_584,  # METHOD of the COPS paper; without biases and norms
    "resnet20": 268_336 + 16 * 32 + 32 * 64,  # He et al.'s 0.27M, and two 1 x 1 shortcuts
    "resnet18": 11_164_352,
    "lenet300": 3072 * 300 + 300 * 100 + 100 * 10,
    "convnet": 3 * 16 * 9 + 16 * 32 * 9 + 32 * 64 * 9 + 640,
}


def data(*shape: int, classes: int = 10) -> Dataset:
    samples = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
    return Dataset(samples, samples, samples, classes)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_the_field(name: str) -> None:
    model = build_model(name, data(3, 32, 32), 0)
    assert sum(weight.numel() for weight in prunable(model).values()) == PRUNABLE[name]
    assert model.training


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_and_other_shapes_fit(name: str) -> None:
    narrow = build_model(f"{name}(width=0.25)", data(1, 28, 28, classes=7), 0)
    assert sum(w.numel() for w in prunable(narrow).values()) < 0.4 * PRUNABLE[name]
    assert narrow(torch.rand(3, 1, 28, 28)).shape == (3, 7)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    first = build_model(f"{name}(width=0.25)", data(3, 32, 32), 5)
    state = torch.get_rng_state()
    second = build_model(f"{name}(width=0.25)", data(3, 32, 32), 5)
    assert torch.equal(state, torch.get_rng_state())
    other = build_model(f"{name}(width=0.25)", data(3, 32, 32), 6)
    pairs = list(zip(prunable(first).values(), prunable(second).values(), prunable(other).values(), strict=True))
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)
