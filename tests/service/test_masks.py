"""From the records of single runs to what is known of a mask."""

from typing import Literal

import pytest

from jobs.tracking import Record
from service.masks import best, summarise

PARAMS = {
    "model": "convnet",
    "data": "digits",
    "method": "snip+synflow|grasp",
    "target": "snip+synflow",
    "controls": "grasp",
    "sparsity": "0.95",
    "seed": "0",
    "alpha_grasp": "0.42",
    "weight_snip": "0.25",
    "weight_synflow": "0.75",
}


def record(
    run: str,
    validation: float,
    kind: Literal["search", "confirmation"] = "search",
    mask: str = "a",
    recipe: str = "r",
    test: float | None = None,
    trial: str | None = None,
) -> Record:
    metrics = {"validation_accuracy": validation, "sparsity": 0.9501} | (
        {} if test is None else {"test_accuracy": test}
    )
    return Record(run, "sweep", mask, recipe, trial or run, kind, PARAMS, metrics)


def confirmation(run: str, validation: float, mask: str = "a", trial: str | None = None, recipe: str = "r") -> Record:
    return record(run, validation, "confirmation", mask, recipe, test=validation - 0.1, trial=trial)


def test_accuracy_is_that_of_the_confirmations_alone() -> None:
    """The search run won for being lucky: 0.99 has no say."""
    (mask,) = summarise([record("s", 0.99), confirmation("c1", 0.90), confirmation("c2", 0.94)])
    assert mask.validation_accuracy == pytest.approx(0.92)
    assert mask.validation_error == pytest.approx(0.02)
    assert mask.test_accuracy == pytest.approx(0.82)
    assert mask.confirmations == 2
    assert mask.file_run == "s"
    assert mask.target == {"snip": 0.25, "synflow": 0.75}
    assert mask.alpha == {"grasp": 0.42}
    assert mask.controls == ["grasp"]


def test_the_same_trial_in_two_sweeps_counts_once() -> None:
    (mask,) = summarise([record("s", 0.9), confirmation("c1", 0.8, trial="t"), confirmation("c2", 0.8, trial="t")])
    assert mask.confirmations == 1
    assert mask.validation_error is None


def test_recipes_are_not_averaged() -> None:
    short = [record("s", 0.9), confirmation("c", 0.8)]
    long = [record("t", 0.95, recipe="long"), confirmation("d", 0.94, recipe="long")]
    masks = summarise([*short, *long])
    assert [(mask.recipe, mask.validation_accuracy) for mask in masks] == [("long", 0.94), ("r", 0.8)]


def test_confirmed_comes_before_unconfirmed() -> None:
    masks = summarise([record("s", 0.7), confirmation("c", 0.8), record("t", 0.99, mask="b")])
    assert [mask.id for mask in masks] == ["a", "b"]
    winner = best(masks, "validation_accuracy")
    assert winner is not None
    assert winner.id == "a"
    assert masks[1].test_accuracy is None


def test_a_mask_whose_file_no_run_holds_is_left_out() -> None:
    assert summarise([confirmation("c", 0.8)]) == []
    assert best([], "test_accuracy") is None
