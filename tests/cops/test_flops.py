"""Multiply-adds against a count by hand, and what a mask leaves of them."""

import pytest
import torch
from torch import nn

from cops.flops import flops_share, multiply_adds
from tests.cops.networks import Residual, Tied, convnet, images, unchanged

LAYERS = [  # layer, input, multiply-adds of one sample
    (nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), 8 * 3 * 9 * 5 * 7),
    (nn.Conv2d(4, 8, 3, stride=2, groups=2), (4, 9, 9), 8 * 2 * 9 * 4 * 4),
    (nn.Conv1d(2, 3, 4), (2, 10), 3 * 2 * 4 * 7),
    (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 5), 2 * 3 * 4 * 4 * 5),
    (nn.Linear(6, 4), (6,), 24),
    (nn.Linear(6, 4), (5, 6), 5 * 24),
]


@pytest.mark.parametrize(("layer", "shape", "count"), LAYERS)
def test_layers_against_a_count_by_hand(layer: nn.Module, shape: tuple[int, ...], count: int) -> None:
    assert multiply_adds(nn.Sequential(layer), torch.rand(3, *shape)) == {"0.weight": count}


def test_a_shared_weight_counts_each_time_it_is_used() -> None:
    found = multiply_adds(Tied(), torch.rand(2, 4))
    assert found == {"first.weight": 2 * 16, "head.weight": 12}


def test_the_share_weighs_layers_by_their_cost() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 2))
    inputs = torch.rand(1, 1, 4, 4)
    costs = multiply_adds(model, inputs)
    assert costs == {"0.weight": 288, "2.weight": 64}
    kept = {"0.weight": torch.zeros(2, 1, 3, 3, dtype=torch.bool), "2.weight": torch.ones(2, 32, dtype=torch.bool)}
    kept["0.weight"][0, 0, 0] = True  # 3 of 18
    assert flops_share(model, kept, inputs) == pytest.approx((288 / 6 + 64) / 352)
    assert flops_share(model, {}, inputs) == 1


@pytest.mark.parametrize("model", [convnet(), Residual().double()], ids=["convnet", "residual"])
def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    inputs, _ = images(2, 2, 8, 8)
    with unchanged(model):
        multiply_adds(model, inputs)
    with unchanged(model), pytest.raises(RuntimeError):
        multiply_adds(model, inputs[:, :1])
