"""One trial on real digits: the same mask and accuracy each time; removed weights stay exactly zero."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from cops import Mask, ScoreError, prune, score
from cops.network import prunable
from jobs.checkpoints import Checkpoint, checkpoint_store
from jobs.data import Dataset, digits
from jobs.identity import trial_key
from jobs.plan import Cell, ScoreTask, Trial, ablations
from jobs.spec import Spec, Training
from jobs.train import Trainer, accuracy
from jobs.trial import compute_score, finish, run, scored
from jobs.workloads import build_model, load_data
from tests.conftest import SMOKE

SPEC = Spec.load(SMOKE)
TRIAL = Trial(Cell("convnet", "digits", ("snip", "synflow"), ("grasp",), 0.95), (0.3, 0.7), (0.5,))
KEY = trial_key(SPEC, TRIAL)


def changed(**changes: Any) -> Spec:
    return Spec.model_validate(SPEC.model_dump(mode="json") | changes)


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
    assert result.metrics["control_slack_grasp"] == 0
    assert 0.02 < result.metrics["flops_share"] < 0.2
    assert 0.1 < result.metrics["gradient_norm_ratio"] < 10
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


def test_closed_midway_and_taken_up_again_it_ends_bitwise_as_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.checkpoints.SECONDS", 0.0)
    monkeypatch.setattr("jobs.checkpoints.SHARE", math.inf)
    spec = changed(training={"epochs": 5, "batch_size": 64, "crop": 1, "precision": "bfloat16"})
    stopped = run(spec, TRIAL, scores, Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY))
    first = [next(stopped) for _ in range(3)]
    stopped.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.pt"]

    whole = run(spec, TRIAL, scores)
    every = [next(whole) for _ in range(5)]
    elsewhere = Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY)
    again = run(spec, TRIAL, scores, elsewhere)
    assert [next(again) for _ in range(5)] == every
    assert first == every[:3]
    assert [epoch.number for epoch in every] == [1, 2, 3, 4, 5]
    end, resumed = finish(whole), finish(again)
    assert resumed.curves == end.curves
    assert resumed.metrics["validation_accuracy"] == end.metrics["validation_accuracy"]

    elsewhere.remove()
    assert not list(tmp_path.iterdir())


def test_a_short_trial_writes_no_checkpoint(tmp_path: Path) -> None:
    finish(run(SPEC, TRIAL, scores, Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY)))
    assert not list(tmp_path.iterdir())


def test_data_in_memory_gives_the_same_result() -> None:
    given = Dataset.from_arrays(load_data("digits").to_arrays())
    assert finish(run(SPEC, TRIAL, scores, data=given)).curves == finish(run(SPEC, TRIAL, scores)).curves


def test_rounds_layouts_and_floors_are_those_of_prune() -> None:
    spec = changed(pruning={"exclude": ["0"], "min_density": 0.01}, training={"epochs": 1})
    cell = replace(TRIAL.cell, rounds=3, layout="2:4", seed=4, sparsity=0.8)
    result = finish(run(spec, replace(TRIAL, cell=cell), scores))
    data = load_data("digits")
    expected = prune(
        build_model("convnet", data, 4),
        scored(spec, data, 4),
        target={"snip": 0.3, "synflow": 0.7},
        controls=["grasp"],
        sparsity=0.8,
        alpha=[0.5],
        rounds=3,
        layout="2:4",
        exclude=["0"],
        min_density=0.01,
    ).mask
    assert result.mask is not None
    assert result.mask.similarity(expected) == 1
    assert result.layer_density["0.weight"] == 1
    assert result.mask.settings["rounds"] == 3
    shared = finish(run(spec, replace(TRIAL, cell=replace(cell, rounds=1, seed=0)), scores))
    assert shared.layer_density["0.weight"] == 1
    assert min(shared.layer_density.values()) >= 0.01


def test_another_seed_is_another_network_and_other_images() -> None:
    task = ScoreTask("convnet", "digits", 1, "snip")
    data = load_data("digits")
    direct = score("snip", build_model("convnet", data, 1), scored(SPEC, data, 1))
    for name, values in compute_score(SPEC, task).items():
        assert torch.equal(values, direct[name])
        assert not torch.equal(values, scores("snip")[name])


def test_ablations_keep_the_densities_and_change_places_or_weights() -> None:
    spec = changed(ablations=["shuffle", "reinit"], confirmations=1)
    winner = finish(run(spec, TRIAL, scores))
    shuffle, reinit = (finish(run(spec, trial, scores)) for trial in ablations(spec, TRIAL))
    assert winner.mask is not None
    assert shuffle.mask is not None
    assert reinit.mask is not None
    assert shuffle.layer_density == reinit.layer_density == winner.layer_density
    assert shuffle.mask.similarity(winner.mask) < 0.5
    assert reinit.mask.similarity(winner.mask) == 1
    again = finish(run(spec, ablations(spec, TRIAL)[0], scores))
    assert again.mask is not None
    assert again.mask.similarity(shuffle.mask) == 1
    assert "target_kept" not in shuffle.metrics  # the shuffled mask is no solution
    confirmed = finish(run(spec, replace(TRIAL, kind="confirmation", training_seed=1), scores))
    losses = [tuple(one.curves["training_loss"]) for one in (shuffle, reinit, confirmed)]
    assert len(set(losses)) == 3
    assert "test_accuracy" in shuffle.metrics


def test_a_network_that_health_cannot_follow_has_no_dead_share() -> None:
    cell = replace(TRIAL.cell, model="tests.jobs.networks:attention", target=("magnitude",), controls=())
    values = compute_score(SPEC, ScoreTask(cell.model, "digits", 0, "magnitude"))
    result = finish(run(SPEC, Trial(cell, (1.0,), ()), lambda name: values))
    assert "dead_share" not in result.metrics
    assert 0 < result.metrics["flops_share"] < 1
    assert result.metrics["validation_accuracy"] > 0


def test_a_score_that_overflows_names_itself_and_the_model() -> None:
    with pytest.raises(ScoreError, match=r"score 'snip' is not finite.*\(tests.jobs.networks:exploding on digits\)"):
        compute_score(SPEC, ScoreTask("tests.jobs.networks:exploding", "digits", 0, "snip"))


def test_few_samples_are_a_trial_of_their_own() -> None:
    few = changed(samples=64)
    result = finish(run(few, TRIAL, lambda name: compute_score(few, ScoreTask("convnet", "digits", 0, name))))
    accuracy = result.metrics["validation_accuracy"] * 64
    assert accuracy == round(accuracy)


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
