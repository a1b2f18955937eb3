"""Content keys: equal for what gives the same result, different for all that may change it."""

from dataclasses import replace

import pytest

from jobs.identity import mask_key, recipe_key, trial_key
from jobs.plan import Cell, Trial
from jobs.spec import Spec
from tests.conftest import SMOKE

SPEC = Spec.load(SMOKE)
TRIAL = Trial(Cell("convnet", "digits", ("snip",), ("grasp",), 0.9), (1.0,), (0.42,))


def changed(**changes: object) -> Spec:
    return Spec.model_validate(SPEC.model_dump(mode="json") | changes)


def test_keys_are_pinned() -> None:
    """Stored masks are found by these keys: a change here forgets every sweep that ever ran."""
    assert mask_key(SPEC, TRIAL) == "d81230e28cd4aa73c81afe77b9e5b32a"
    assert trial_key(SPEC, TRIAL) == "0a0b08e624fd665f72625cd0814f868c"


@pytest.mark.parametrize("spec", [changed(name="other"), changed(confirmations=9), changed(baselines=["dense"])])
def test_what_does_not_decide_a_trial_keeps_its_keys(spec: Spec) -> None:
    assert trial_key(spec, TRIAL) == trial_key(SPEC, TRIAL)
    assert mask_key(spec, TRIAL) == mask_key(SPEC, TRIAL)


@pytest.mark.parametrize(
    "spec", [changed(seed=1), changed(scoring={"batch_size": 32}), changed(scoring={"batches": 2})]
)
def test_what_decides_a_mask_changes_both_keys(spec: Spec) -> None:
    assert mask_key(spec, TRIAL) != mask_key(SPEC, TRIAL)
    assert trial_key(spec, TRIAL) != trial_key(SPEC, TRIAL)


@pytest.mark.parametrize(
    "cell",
    [
        replace(TRIAL.cell, sparsity=0.91),
        replace(TRIAL.cell, target=("synflow",)),
        replace(TRIAL.cell, controls=("synflow",)),
        replace(TRIAL.cell, model="other"),
        replace(TRIAL.cell, data="other"),
    ],
)
def test_another_cell_is_another_mask(cell: Cell) -> None:
    assert mask_key(SPEC, replace(TRIAL, cell=cell)) != mask_key(SPEC, TRIAL)


def test_alpha_is_part_of_the_mask() -> None:
    assert mask_key(SPEC, replace(TRIAL, alpha=(0.43,))) != mask_key(SPEC, TRIAL)


def test_training_decides_the_trial_but_not_the_mask() -> None:
    longer = changed(training={"epochs": 99})
    assert mask_key(longer, TRIAL) == mask_key(SPEC, TRIAL)
    assert trial_key(longer, TRIAL) != trial_key(SPEC, TRIAL)
    assert recipe_key(longer) != recipe_key(SPEC)

    confirmation = replace(TRIAL, training_seed=1, kind="confirmation")
    assert mask_key(SPEC, confirmation) == mask_key(SPEC, TRIAL)
    assert trial_key(SPEC, confirmation) != trial_key(SPEC, TRIAL)


def test_a_default_written_out_keeps_the_keys() -> None:
    spelt = changed(scoring={"batches": 1, "batch_size": 256})
    assert trial_key(spelt, TRIAL) == trial_key(SPEC, TRIAL)
