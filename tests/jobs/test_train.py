"""Training recipes: what each does, and that none moves a removed weight or depends on what ran before."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cops import Mask
from cops.network import prunable
from jobs.checkpoints import Checkpoint, checkpoint_store
from jobs.data import Dataset, digits
from jobs.spec import Training
from jobs.train import DivergedError, Trainer, accuracy
from jobs.workloads import build_model

DATA = digits().first(256)
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "no momentum": {"momentum": 0},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "channels last": {"channels_last": True},
    "augmented": {"crop": 1, "flip": True},
    "warmup and steps": {"warmup": 1, "schedule": "step", "milestones": [2, 2.5]},
    "constant": {"schedule": "constant", "label_smoothing": 0.1},
}


def recipe(epochs: int = 3, **changes: Any) -> Training:
    return Training.model_validate({"epochs": epochs, "batch_size": 64} | changes)


def random_mask(model: nn.Module) -> Mask:
    draws = torch.Generator().manual_seed(0)
    return Mask({name: torch.rand(w.shape, generator=draws) < 0.5 for name, w in prunable(model).items()})


def trained(how: Training, data: Dataset = DATA) -> tuple[list[float], dict[str, Tensor]]:
    """Losses by epoch, and the final state, of a masked network; global random state is disturbed between epochs."""
    model = build_model("convnet", data, 0)
    trainer = Trainer(model, random_mask(model), data, how, seed=3)
    losses = []
    for _ in range(how.epochs):
        losses.append(trainer.epoch())
        torch.rand(1)
    return losses, model.state_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_removed_weights_stay_exactly_zero_and_it_learns(name: str) -> None:
    losses, state = trained(recipe(**RECIPES[name]))
    for key, kept in random_mask(build_model("convnet", DATA, 0)).kept.items():
        assert bool((state[key][~kept] == 0).all())
        assert bool((state[key][kept] != 0).any())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_network_bit_for_bit(name: str) -> None:
    torch.manual_seed(1)
    first = trained(recipe(**RECIPES[name]))
    torch.manual_seed(2)
    second = trained(recipe(**RECIPES[name]))
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][key]) for key, value in first[1].items())


def test_every_recipe_gives_another_network() -> None:
    losses = [tuple(trained(recipe(**changes))[0]) for name, changes in RECIPES.items() if name != "channels last"]
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_from_a_checkpoint_it_ends_bitwise_as_uninterrupted(name: str, tmp_path: Path) -> None:
    how, checkpoint = recipe(**RECIPES[name]), Checkpoint(checkpoint_store(tmp_path.as_uri()), "0" * 32)
    model = build_model("convnet", DATA, 0)
    trainer = Trainer(model, random_mask(model), DATA, how, seed=3)
    losses = [trainer.epoch()]
    checkpoint.save(trainer.state())

    found = checkpoint.load()
    assert found is not None
    other = build_model("convnet", DATA, 9)
    again = Trainer(other, random_mask(other), DATA, how, seed=3)
    again.restore(found)
    losses += [again.epoch() for _ in range(how.epochs - 1)]
    whole, state = trained(how)
    assert losses == whole
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def rates(how: Training, steps_per_epoch: int = 4) -> list[float]:
    """The learning rate of each step."""
    seen: list[float] = []
    data = DATA.first(64 * steps_per_epoch)
    trainer = Trainer(build_model("convnet", data, 0), None, data, how, seed=0)
    trainer._optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    for _ in range(how.epochs):
        trainer.epoch()
    return seen


def test_cosine_falls_from_the_rate_to_zero() -> None:
    seen = rates(recipe(epochs=2))
    assert seen == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


@pytest.mark.parametrize("milestones", [[0.25, 0.75], [1, 3]])
def test_steps_divide_the_rate_at_fractions_or_epochs(milestones: list[float]) -> None:
    seen = rates(recipe(epochs=4, schedule="step", milestones=milestones, gamma=0.1))
    assert seen == pytest.approx([0.1] * 4 + [0.01] * 8 + [0.001] * 4)


def test_warmup_rises_linearly_and_does_not_move_the_milestones() -> None:
    seen = rates(recipe(epochs=3, schedule="step", milestones=[2], warmup=1))
    assert seen == pytest.approx([0.025, 0.04375, 0.0625, 0.08125] + [0.1] * 4 + [0.01] * 4)
    seen = rates(recipe(epochs=2, warmup=1))
    assert seen == pytest.approx(
        [0.025, 0.04375, 0.0625, 0.08125] + [0.05 * (1 + math.cos(math.pi * n / 4)) for n in range(4)], abs=1e-6
    )


def test_a_constant_rate_is_constant() -> None:
    assert rates(recipe(epochs=2, schedule="constant")) == pytest.approx([0.1] * 8)


def test_mixed_precision_computes_in_it_and_keeps_float32_weights() -> None:
    seen: list[torch.dtype] = []
    model = build_model("convnet", DATA, 0)
    next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).register_forward_hook(
        lambda layer, given, output: seen.append(output.dtype)
    )
    Trainer(model, None, DATA, recipe(precision="bfloat16"), seed=0).epoch()
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_ends_training_by_name() -> None:
    trainer = Trainer(build_model("convnet", DATA, 0), None, DATA, recipe(learning_rate=1e30, momentum=0), seed=0)
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) in epoch \d.*training.learning_rate \(1e\+30\)"):
        trainer.epoch()


def test_a_model_that_draws_is_repeatable_and_leaves_the_random_state() -> None:
    def losses(resume: bool) -> list[float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
        trainer = Trainer(model, None, DATA, recipe(), seed=0)
        found = [trainer.epoch()]
        if resume:
            state = trainer.state()
            trainer = Trainer(model, None, DATA, recipe(), seed=0)
            trainer.restore(state)
        return [*found, trainer.epoch(), trainer.epoch()]

    before = torch.get_rng_state()
    assert losses(resume=False) == losses(resume=True)
    assert torch.equal(before, torch.get_rng_state())


def test_uint8_images_train_as_their_normalised_floats_do() -> None:
    images = (16 * (DATA.train[0] - DATA.train[0].min())).to(torch.uint8)
    labels = DATA.train[1]
    mean, std = torch.full((1, 1, 1), 30.0), torch.full((1, 1, 1), 12.0)
    whole = Dataset((images, labels), (images, labels), (images, labels), 10, (mean, std))
    floats = ((images - mean) / std, labels)
    ready = replace(whole, train=floats, validation=floats, test=floats, statistics=None)
    assert trained(recipe(), whole)[0] == trained(recipe(), ready)[0]
    model = build_model("convnet", whole, 0)
    assert accuracy(model, whole, whole.test) == accuracy(model, ready, ready.test)
