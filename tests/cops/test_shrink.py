"""Smaller networks compute what the pruned ones compute, and they are smaller."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cops import Mask, prune
from cops.flops import multiply_adds
from cops.network import prunable
from cops.shrink import shrink
from jobs.models.resnet import resnet20
from jobs.models.vgg import vgg16
from jobs.models.wideresnet import wideresnet
from tests.cops.networks import Residual, convnet, images, randomised, unchanged

pytest.importorskip("torch_pruning")
BRIGHT = (3, 32, 32)


class Concatenated(nn.Module):
    """Channels of two branches side by side, a convolution that does not pad, and one feature per position."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(2, 5, 1)
        self.norm = nn.BatchNorm2d(11)
        self.middle = nn.Conv2d(11, 8, 3)
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1)
        logits: torch.Tensor = self.head(torch.relu(self.middle(torch.relu(self.norm(x)))).flatten(1))
        return logits


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomised(build()).eval()


def filters(model: nn.Module, sparsity: float) -> Mask:
    """Of all layers but the classifier."""
    options: Any = {
        "sparsity": sparsity,
        "layout": "filter",
        "exclude": [list(prunable(model))[-1]],
        "min_density": 0.05,
    }
    return prune(model, [], target="l1_filter", **options).mask


CASES = {
    "vgg16": (lambda: vgg16(BRIGHT, 10, width=0.125), BRIGHT, 0.35),
    "resnet20": (lambda: resnet20(BRIGHT, 10, width=0.5), BRIGHT, 0.9),
    "wideresnet": (lambda: wideresnet(BRIGHT, 10, depth=10, widen=1), BRIGHT, 0.9),
    "residual": (lambda: Residual(16), (2, 6, 6), 0.8),
    "concatenated": (Concatenated, (2, 6, 6), 0.6),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_outputs_from_a_smaller_network(name: str) -> None:
    build, shape, most = CASES[name]
    model = seeded(build)
    mask = filters(model, 0.6)
    inputs = images(5, *shape, seed=1)[0]
    with unchanged(model):
        small = shrink(model, mask, images(2, *shape)[0])
    with torch.no_grad():
        expected = mask.apply(copy.deepcopy(model))(inputs)
    torch.testing.assert_close(small(inputs).detach(), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    cost, before = (sum(multiply_adds(network, inputs).values()) for network in (small, model))
    assert cost < most * before
    weights = {name: weight.numel() for name, weight in prunable(small).items()}
    assert weights.keys() == prunable(model).keys()
    assert sum(weights.values()) < sum(weight.numel() for weight in prunable(model).values())


def test_where_borders_see_less_of_a_constant_one_channel_carries_all() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)))
    with torch.no_grad():
        model.get_parameter("0.bias").copy_(torch.tensor([1, 2, -1, 0.5, 3, 1, 1, 1]))
    kept = torch.ones(8, 2, 1, 1, dtype=torch.bool)
    kept[:5] = False
    inputs = images(3, 2, 5, 5)[0]
    mask = Mask({"0.weight": kept})
    small = shrink(model, mask, inputs)
    assert small.get_parameter("0.weight").shape[0] == 4  # three are kept, one carries
    torch.testing.assert_close(small(inputs), mask.apply(model)(inputs))


def test_grouped_convolutions_stay_and_weights_alone_remove_nothing() -> None:
    model = convnet().eval()
    inputs = images(2, 2, 8, 8)[0]
    for mask in (filters(model, 0.5), prune(model, [], target="magnitude", sparsity=0.5).mask):
        small = shrink(model, mask, inputs)
        assert small.get_parameter("4.weight").shape == model.get_parameter("4.weight").shape
        torch.testing.assert_close(small(inputs), mask.apply(copy.deepcopy(model))(inputs))


def test_another_networks_mask_and_a_missing_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, mask = Residual(), filters(convnet(), 0.5)
    with unchanged(model), pytest.raises(ValueError, match="for another network"):
        shrink(model, mask, torch.zeros(1, 2, 6, 6))
    monkeypatch.setattr("cops.shrink.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'cops-sweep\[shrink\]'"):
        shrink(model, mask, torch.zeros(1, 2, 6, 6))
