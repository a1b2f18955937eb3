"""Content keys: equal for what gives the same result, different for all that may change it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.identity import key, mask_key, recipe_key, score_settings, trial_key
from jobs.plan import Cell, ScoreTask, Trial, ablations, cells
from jobs.spec import Section, Spec, Training
from tests.conftest import ROOT, SMOKE

SPEC = Spec.load(SMOKE)
DEMO = ROOT / "jobs" / "sweeps" / "demo.yaml"
TRIAL = Trial(Cell("convnet", "digits", ("snip",), ("grasp",), 0.9), (1.0,), (0.42,))
SCORE = ScoreTask("convnet", "digits", 0, "snip")

# Another value for every key of a sweep file that decides a mask, and for each that decides training.
OF_MASKS: dict[str, Any] = {
    "seed": 1,
    "samples": 100,
    "scoring": {"batches": 2, "batch_size": 32},
    "pruning": {"exclude": ["0"], "min_density": 0.1},
    "resources": {"cpu": 2},
}
OF_TRAINING: dict[str, Any] = {
    "epochs": 99,
    "batch_size": 7,
    "optimizer": "adamw",
    "learning_rate": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": [0.3],
    "gamma": 0.2,
    "warmup": 0.5,
    "label_smoothing": 0.1,
    "crop": 4,
    "flip": True,
    "precision": "bfloat16",
    "channels_last": True,
}
OF_NEITHER: dict[str, Any] = {
    "name": "other",
    "experiment": "other",
    "confirmations": 9,
    "ablations": ["shuffle"],
    "baselines": ["dense"],
    "search": {"trials": 99},
    "resources": {"cpu": 0.5},
    "grid": {"pairs": [{"target": "fisher", "controls": ["force"]}], "sparsities": [0.5], "seeds": [5]},
}


def changed(**changes: Any) -> Spec:
    return Spec.model_validate(SPEC.model_dump(mode="json") | changes)


def leaves(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each single change of a tree of changes: its path, and the tree that has it alone."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += [(f"{name}.{path}", {name: inner}) for path, inner in leaves(value)]
        else:
            found.append((name, {name: value}))
    return found


def test_keys_are_pinned() -> None:
    """Stored masks are found by these keys: a change here forgets every sweep that ever ran."""
    assert mask_key(SPEC, TRIAL) == "221da09b553cbb4694dc508f382c8732"
    assert trial_key(SPEC, TRIAL) == "0c94793c6a7f536d973e0c37b47140dd"


def test_keys_of_the_demo_are_those_of_the_first_release() -> None:
    """Written by version 0.1.0, before recipes, rounds, layouts, seeds, options and ablations were there.

    Those of revision 2, of combined scores and of random ones, are later.
    """
    spec, expected = Spec.load(DEMO), json.loads(Path(__file__).with_name("demo_keys.json").read_text())
    found = {}
    for cell in cells(spec):
        weights = ((), (1.0,), (0.25, 0.75))[len(cell.target)]
        trial = Trial(cell, weights, (0.42,) * len(cell.controls))
        for one in (trial, replace(trial, kind="confirmation", training_seed=2)):
            found[one.name] = [mask_key(spec, one) if cell.target else None, trial_key(spec, one)]
    assert found == expected
    assert score_settings(spec, SCORE) == {
        "model": "convnet",
        "data": "digits",
        "seed": 0,
        "scoring": {},
        "score": "snip",
    }


def test_every_key_of_a_sweep_file_is_classed() -> None:
    """A new key must be put where it belongs, and then be part of the keys that it decides, or of none."""
    for name, others in (("training", OF_TRAINING), *((name, OF_MASKS[name]) for name in ("scoring", "pruning"))):
        section = Spec.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        assert set(section.model_fields) == set(others)


@pytest.mark.parametrize(("path", "change"), leaves(OF_NEITHER))
def test_what_does_not_decide_a_trial_keeps_its_keys(path: str, change: dict[str, Any]) -> None:
    tree = SPEC.model_dump(mode="json")
    value = next(iter(change.values()))
    spec = changed(**{name: {**tree[name], **value} if isinstance(value, dict) else value for name in change})
    assert trial_key(spec, TRIAL) == trial_key(SPEC, TRIAL)
    assert mask_key(spec, TRIAL) == mask_key(SPEC, TRIAL)
    assert recipe_key(spec) == recipe_key(SPEC)


@pytest.mark.parametrize(("path", "change"), leaves(OF_MASKS))
def test_what_decides_a_mask_changes_both_keys(path: str, change: dict[str, Any]) -> None:
    assert mask_key(changed(**change), TRIAL) != mask_key(SPEC, TRIAL)
    assert trial_key(changed(**change), TRIAL) != trial_key(SPEC, TRIAL)
    score = key("score", score_settings(changed(**change), SCORE))
    assert (score != key("score", score_settings(SPEC, SCORE))) == (not path.startswith("pruning"))


@given(
    st.lists(st.sampled_from(list(OF_TRAINING)), unique=True), st.lists(st.sampled_from(list(OF_TRAINING)), unique=True)
)
def test_recipes_are_alike_if_and_only_if_their_settings_are(first: list[str], second: list[str]) -> None:
    one, two = (changed(training={name: OF_TRAINING[name] for name in names}) for names in (first, second))
    assert (trial_key(one, TRIAL) == trial_key(two, TRIAL)) == (set(first) == set(second))
    assert (recipe_key(one) == recipe_key(two)) == (set(first) == set(second))
    assert mask_key(one, TRIAL) == mask_key(two, TRIAL)


@pytest.mark.parametrize(
    "cell",
    [
        replace(TRIAL.cell, sparsity=0.91),
        replace(TRIAL.cell, target=("synflow",)),
        replace(TRIAL.cell, controls=("synflow",)),
        replace(TRIAL.cell, model="other"),
        replace(TRIAL.cell, data="other"),
        replace(TRIAL.cell, seed=1),
        replace(TRIAL.cell, rounds=2),
        replace(TRIAL.cell, layout="2:4"),
    ],
)
def test_another_cell_is_another_mask(cell: Cell) -> None:
    assert mask_key(SPEC, replace(TRIAL, cell=cell)) != mask_key(SPEC, TRIAL)
    assert trial_key(SPEC, replace(TRIAL, cell=cell)) != trial_key(SPEC, TRIAL)


def test_a_seed_is_the_same_however_it_is_given() -> None:
    """The third initialisation of a sweep from seed 0 is the first of one from seed 2."""
    third = replace(TRIAL, cell=replace(TRIAL.cell, seed=2))
    assert trial_key(SPEC, third) == trial_key(changed(seed=2), TRIAL)


def test_alpha_and_weights_are_part_of_the_mask() -> None:
    assert mask_key(SPEC, replace(TRIAL, alpha=(0.43,))) != mask_key(SPEC, TRIAL)
    two = replace(TRIAL, cell=replace(TRIAL.cell, target=("snip", "fisher")), weights=(0.5, 0.5))
    assert mask_key(SPEC, two) != mask_key(SPEC, replace(two, weights=(0.6, 0.4)))


def test_training_decides_the_trial_but_not_the_mask() -> None:
    confirmation = replace(TRIAL, training_seed=1, kind="confirmation")
    assert mask_key(SPEC, confirmation) == mask_key(SPEC, TRIAL)
    assert trial_key(SPEC, confirmation) != trial_key(SPEC, TRIAL)


def test_ablations_have_keys_of_their_own() -> None:
    spec = changed(ablations=["shuffle", "reinit"], confirmations=2)
    trials = ablations(spec, TRIAL)
    assert len({trial_key(spec, trial) for trial in (TRIAL, *trials)}) == 5
    masks = {(trial.ablation, trial.training_seed): mask_key(spec, trial) for trial in trials}
    assert masks["reinit", 1] == masks["reinit", 2] == mask_key(spec, TRIAL)
    assert len(set(masks.values())) == 3


def test_threads_do_not_matter_on_a_gpu() -> None:
    one, two = (changed(resources={"cpu": cpu, "gpu": 0.5}) for cpu in (1, 2))
    assert trial_key(one, TRIAL) == trial_key(two, TRIAL)
    assert trial_key(one, TRIAL) == trial_key(SPEC, TRIAL)


def test_a_default_written_out_keeps_the_keys() -> None:
    defaults = Training().model_dump(mode="json") | SPEC.training.model_dump(mode="json")
    spelt = changed(scoring={"batches": 1, "batch_size": 256}, training=defaults, pruning={"exclude": []})
    assert trial_key(spelt, TRIAL) == trial_key(SPEC, TRIAL)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_in_the_file_decides_nothing(random: Any) -> None:
    def shuffled(tree: Any) -> Any:
        if isinstance(tree, dict):
            names = list(tree)
            random.shuffle(names)
            return {name: shuffled(tree[name]) for name in names}
        return [shuffled(item) for item in tree] if isinstance(tree, list) else tree

    tree = Spec.load(DEMO).model_dump(mode="json") | {"training": OF_TRAINING} | OF_MASKS
    tree["workloads"] = [{"model": {"name": "vgg16", "options": {"width": 0.5}}, "data": "digits"}]
    one, two = (Spec.model_validate(yaml.safe_load(yaml.safe_dump(t, sort_keys=False))) for t in (tree, shuffled(tree)))
    assert cells(one) == cells(two)
    for cell in cells(one):
        trial = Trial(
            cell, (1 / len(cell.target),) * len(cell.target) if cell.target else (), (0.5,) * len(cell.controls)
        )
        assert trial_key(one, trial) == trial_key(two, trial)
