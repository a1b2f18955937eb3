import copy

import pytest
import torch
from torch import nn

from cops import Mask
from cops.network import prunable
from tests.cops.networks import Tied, convnet, mlp, unchanged


def random_mask(model: nn.Module, density: float = 0.3, seed: int = 0) -> Mask:
    draws = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(w.shape, generator=draws) < density for name, w in prunable(model).items()})


def test_sizes_and_densities_are_counts() -> None:
    mask = Mask({"a": torch.tensor([True, False, False, True]), "b": torch.zeros(2, 3, dtype=torch.bool)})
    assert (mask.size, mask.count) == (10, 2)
    assert mask.sparsity == 0.8
    assert mask.layer_density() == {"a": 0.5, "b": 0.0}
    assert repr(mask) == "Mask(10 weights in 2 layers, sparsity 0.8000)"


def test_similarity_is_jaccards() -> None:
    one = Mask({"a": torch.tensor([True, True, False, False])})
    other = Mask({"a": torch.tensor([True, False, True, False])})
    empty = Mask({"a": torch.zeros(4, dtype=torch.bool)})
    assert one.similarity(other) == other.similarity(one) == pytest.approx(1 / 3)
    assert one.similarity(one) == 1.0
    assert empty.similarity(empty) == 1.0
    assert one.similarity(empty) == 0.0


def test_masks_of_different_networks_have_no_similarity() -> None:
    one = Mask({"a": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'a' is \(4,\) here, \(5,\) there"):
        one.similarity(Mask({"a": torch.ones(5, dtype=torch.bool)}))
    with pytest.raises(ValueError, match=r"'b' is None here, \(4,\) there"):
        one.similarity(Mask({"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(4, dtype=torch.bool)}))


def test_apply_removes_exactly_the_weights_that_are_not_kept() -> None:
    for model in (convnet(), Tied().double()):
        before = copy.deepcopy(model)
        mask = random_mask(model)
        assert mask.apply(model) is model
        for name, parameter in model.named_parameters():
            old = before.get_parameter(name)
            expected = torch.where(mask.kept[name], old, 0.0) if name in mask.kept else old
            assert torch.equal(parameter, expected)


def test_apply_to_another_network_changes_nothing() -> None:
    model = convnet()
    for kept, message in (
        ({"0.weight": torch.zeros(4, 2, 3, 3).bool(), "nine": torch.zeros(3).bool()}, "it has 'nine' of shape"),
        ({"0.weight": torch.zeros(4, 2, 3, 4).bool()}, r"\(4, 2, 3, 4\), the model has \(4, 2, 3, 3\)"),
        ({"0.weight": torch.zeros(4, 2, 3, 3).bool(), "1.weight": torch.zeros(4).bool()}, "'1.weight'"),
    ):
        with unchanged(model), pytest.raises(ValueError, match=message):
            Mask(kept).apply(model)


def test_a_mask_needs_bool_tensors() -> None:
    with pytest.raises(ValueError, match="got none"):
        Mask({})
    with pytest.raises(ValueError, match=r"'a' must be a bool tensor, but is torch.float32"):
        Mask({"a": torch.ones(3)})


def test_weights_pruned_to_zero_stay_there_when_applied_after_every_step() -> None:
    model = mlp()
    mask = random_mask(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
        optimiser.step()
        mask.apply(model)
    assert all(not prunable(model)[name][~kept].any() for name, kept in mask.kept.items())
