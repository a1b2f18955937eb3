"""One trial on real digits: the same mask and accuracy each time; removed weights stay exactly zero."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from cops import Mask, score
from cops.network import prunable
from jobs.data import digits
from jobs.plan import Cell, ScoreTask, Trial
from jobs.spec import Spec, Training
from jobs.train import Trainer, accuracy
from jobs.trial import compute_score, finish, run, scored
from jobs.workloads import build_model, load_data
from tests.conftest import SMOKE

SPEC = Spec.load(SMOKE)
TRIAL = Trial(Cell("convnet", "digits", ("snip", "synflow"), ("grasp",), 0.95), (0.3, 0.7), (0.5,))


@cache
def scores(name: str) -> dict[str, torch.Tensor]:
    return compute_score(SPEC, ScoreTask("convnet", "digits", 0, name))


def test_the_same_trial_gives_the_same_result_bit_for_bit() -> None:
    torch.manual_seed(1)
    first = finish(run(SPEC, TRIAL, scores))
    torch.manual_seed(2)
    second = finish(run(SPEC, TRIAL, scores))
    assert first.mask is not None
    assert second.mask is not None
    for name, kept in first.mask.kept.items():
        assert torch.equal(kept, second.mask.kept[name])
    assert first.curves == second.curves
    timeless = [name for name in first.metrics if not name.startswith("seconds_")]
    assert {name: first.metrics[name] for name in timeless} == {name: second.metrics[name] for name in timeless}


def test_a_trial_measures_its_mask() -> None:
    result = finish(run(SPEC, TRIAL, scores))
    assert result.mask is not None
    size = sum(weight.numel() for weight in prunable(build_model("convnet", digits(), 0)).values())
    assert result.metrics["kept"] == round(0.05 * size) == sum(int(kept.sum()) for kept in result.mask.kept.values())
    assert result.metrics["gap"] >= 0
    assert 0 <= result.metrics["dead_share"] < 1
    assert result.metrics["multiplier_grasp"] > 0
    assert 0 < result.metrics["similarity_grasp"] < 1
    assert 0 < result.metrics["similarity_target"] < 1
    assert "test_accuracy" not in result.metrics
    assert len(result.curves["validation_accuracy"]) == SPEC.training.epochs
    assert result.metrics["validation_accuracy"] == result.curves["validation_accuracy"][-1]


def test_only_confirmations_see_the_test_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed = finish(run(SPEC, replace(TRIAL, kind="confirmation", training_seed=1), scores))
    assert 0 < confirmed.metrics["test_accuracy"] <= 1

    data = load_data("digits")
    poisoned = replace(data, test=(torch.full_like(data.test[0], torch.nan), data.test[1]))
    monkeypatch.setattr("jobs.trial.load_data", lambda name: poisoned)
    searched = finish(run(SPEC, TRIAL, scores))
    monkeypatch.undo()
    assert searched.curves == finish(run(SPEC, TRIAL, scores)).curves


def test_the_dense_network_has_no_mask() -> None:
    result = finish(run(SPEC, Trial(Cell("convnet", "digits", (), (), 0.0), (), ()), scores))
    assert result.mask is None
    assert result.layer_density == {}


def test_removed_weights_stay_exactly_zero_and_kept_ones_move() -> None:
    data = digits()
    model = build_model("convnet", data, 0)
    draws = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(w.shape, generator=draws) < 0.3 for name, w in prunable(model).items()})
    before = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    trainer = Trainer(model, mask, data, Training(epochs=3), seed=0)
    losses = [trainer.epoch() for _ in range(3)]
    assert losses[-1] < losses[0]
    for name, weight in prunable(model).items():
        assert bool((weight[~mask.kept[name]] == 0).all())
        assert bool((weight != before[name])[mask.kept[name]].any())


def test_training_learns_the_digits() -> None:
    data = digits()
    model = build_model("convnet", data, 0)
    assert accuracy(model, data, data.validation) < 0.3
    trainer = Trainer(model, None, data, Training(epochs=8, batch_size=64), seed=0)
    for _ in range(8):
        trainer.epoch()
    assert accuracy(model, data, data.validation) > 0.95


def test_the_three_parts_share_no_sample() -> None:
    data = digits()
    parts = [{image.numpy().tobytes() for image in inputs} for inputs, _ in (data.train, data.validation, data.test)]
    assert sum(len(inputs) for inputs, _ in (data.train, data.validation, data.test)) == 1797
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_scores_come_from_training_samples_alone() -> None:
    data = digits()
    batches = scored(SPEC, data, SPEC.seed)
    known = {image.numpy().tobytes() for image in data.train[0]}
    assert sum(len(labels) for _, labels in batches) == SPEC.scoring.batch_size
    assert all(image.numpy().tobytes() in known for inputs, _ in batches for image in inputs)


def test_the_score_is_of_the_network_that_is_trained() -> None:
    """Public code has scored one initialisation and trained another."""
    data = digits()
    direct = score("snip", build_model("convnet", data, SPEC.seed), scored(SPEC, data, SPEC.seed))
    for name, values in scores("snip").items():
        assert torch.equal(values, direct[name])
