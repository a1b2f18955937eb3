"""From the records of single runs to what is known of a mask."""

from dataclasses import replace
from typing import Literal

import pytest

from jobs.tracking import Record
from service.masks import summarise

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


def test_a_mask_whose_file_no_run_holds_is_left_out() -> None:
    assert summarise([confirmation("c", 0.8)]) == []


def test_whichever_order_the_runs_come_in() -> None:
    """Two search runs made the mask, and one trial ran twice: the earliest counts, as its file is the one to fetch."""
    runs = [record("s", 0.9), record("t", 0.8), confirmation("c", 0.7, trial="x"), confirmation("d", 0.6, trial="x")]
    assert summarise(runs) == summarise(runs[::-1])
    (mask,) = summarise(runs)
    assert (mask.file_run, mask.confirmations) == ("s", 1)


def test_what_a_run_does_not_say_is_null() -> None:
    """Runs of earlier versions have no layout, no health and no checksums."""
    (mask,) = summarise([record("s", 0.9)])
    assert (mask.layout, mask.rounds, mask.samples) == ("unstructured", 1, None)
    unknown = [mask.flops_share, mask.dead_share, mask.emptied_layers, mask.gradient_norm_ratio, mask.test_accuracy]
    assert unknown == [None] * 5
    assert [mask.file_sha256, mask.weights_run, mask.weights_sha256] == [None] * 3


def test_a_mask_of_few_samples_says_so() -> None:
    (mask,) = summarise([replace(record("s", 0.9), params=PARAMS | {"samples": "32"})])
    assert mask.samples == 32


def test_the_trained_network_is_that_of_the_run_that_has_it() -> None:
    trained = replace(confirmation("d", 0.8), weights_sha256="e" * 64)
    (mask,) = summarise([replace(record("s", 0.9), mask_sha256="f" * 64), confirmation("c", 0.8), trained])
    assert (mask.file_sha256, mask.weights_run, mask.weights_sha256) == ("f" * 64, "d", "e" * 64)
