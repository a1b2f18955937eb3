"""What a sweep file asks for: cells, score vectors, confirmations, ablations; what it costs; and a tiny one like it."""

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from jobs.estimate import dry_run, estimates
from jobs.plan import Cell, ScoreTask, Trial, ablations, cells, confirmations, scores_needed
from jobs.search import Search
from jobs.smoke import smoke
from jobs.spec import Spec
from tests.conftest import ROOT, SMOKE


def spec_with(**changes: Any) -> Spec:
    return Spec.model_validate(Spec.load(SMOKE).model_dump(mode="json") | changes)


GRID = {
    "pairs": [{"target": "snip", "controls": ["grasp"]}],
    "sparsities": [0.9],
    "seeds": [0, 1],
    "rounds": [1, 10],
    "layouts": ["unstructured", "2:4"],
}


def test_every_combination_is_a_cell() -> None:
    spec = spec_with(grid=GRID, baselines=["dense", "magnitude", "synflow"])
    assert [cell.name for cell in cells(spec) if cell.seed == 0] == [
        "dense",
        "magnitude @0.9",
        "magnitude 2:4 @0.9",
        "synflow @0.9",
        "synflow 2:4 @0.9",
        "synflow x10 @0.9",
        "synflow x10 2:4 @0.9",
        "snip|grasp @0.9",
        "snip|grasp 2:4 @0.9",
        "snip|grasp x10 @0.9",
        "snip|grasp x10 2:4 @0.9",
    ]
    assert [cell.name for cell in cells(spec) if cell.seed == 1][:2] == ["dense seed=1", "magnitude @0.9 seed=1"]
    assert len({cell.name for cell in cells(spec)}) == len(cells(spec)) == 22


def test_scores_are_shared_by_layouts_and_taken_again_in_rounds() -> None:
    spec = spec_with(grid=GRID, baselines=["dense", "magnitude"])
    assert set(scores_needed(spec)) == {
        ScoreTask("convnet", "digits", seed, score) for seed in (0, 1) for score in ("magnitude", "snip", "grasp")
    }
    assert not scores_needed(spec_with(grid=GRID | {"rounds": [5]}, baselines=["dense"]))


def test_ablations_follow_the_winner() -> None:
    winner = Trial(Cell("convnet", "digits", ("snip",), ("grasp",), 0.9), (1.0,), (0.42,))
    spec = spec_with(confirmations=2, ablations=["reinit", "shuffle"])
    assert [trial.name for trial in (*confirmations(spec, winner), *ablations(spec, winner))] == [
        "snip|grasp @0.9 a=0.42 #1",
        "snip|grasp @0.9 a=0.42 #2",
        "snip|grasp @0.9 a=0.42 reinit #1",
        "snip|grasp @0.9 a=0.42 reinit #2",
        "snip|grasp @0.9 a=0.42 shuffle #1",
        "snip|grasp @0.9 a=0.42 shuffle #2",
    ]
    assert len(ablations(spec_with(confirmations=0, ablations=["shuffle"]), winner)) == 1
    assert not ablations(spec, replace(winner, cell=Cell("convnet", "digits", (), (), 0.0), weights=(), alpha=()))
    trial = ablations(spec, winner)[0]
    assert Trial.from_dict(trial.to_dict()) == trial


def test_a_dry_run_counts_what_a_sweep_runs() -> None:
    spec = spec_with(grid=GRID, baselines=["dense", "synflow"], search={"trials": 3}, confirmations=2)
    search = Search(spec)
    ran = []
    while (trial := search.ask()) is not None:
        ran.append(trial)
        search.tell(trial, {"validation_accuracy": 0.5})
    every = estimates(spec)
    assert list(every) == cells(spec)
    assert sum(one.trials for one in every.values()) == len(ran)
    assert sum(one.search for one in every.values()) == sum(trial.kind == "search" for trial in ran)

    console = Console(width=120)
    with console.capture() as capture:
        console.print(dry_run(spec))
    text = capture.get()
    assert f"cells               {len(every)} " in text
    assert f"trials              {len(ran)} " in text
    assert f"score computations  {len(scores_needed(spec))} " in text
    assert "taken again within trials" in text
    assert "at 10 GFLOP/s per CPU core" in text
    with console.capture() as capture:
        console.print(dry_run(spec_with(resources={"gpu": 0.5})))
    assert "GPU hours" in capture.get()


@pytest.mark.parametrize(("sampler", "trials", "points"), [("grid", 10, 9), ("grid", 3, 2), ("random", 10, 10)])
def test_a_dry_run_knows_how_many_points_there_are(sampler: str, trials: int, points: int) -> None:
    grid = {"pairs": [{"target": "snip", "controls": ["grasp", "synflow"]}], "sparsities": [0.9]}
    spec = spec_with(grid=grid, baselines=[], search={"trials": trials, "sampler": sampler})
    assert [one.search for one in estimates(spec).values()] == [points]


def test_a_dry_run_knows_that_there_are_no_more_levels() -> None:
    spec = spec_with(baselines=[], search={"trials": 1000, "sampler": "random"})
    assert [one.search for one in estimates(spec).values()] == [101]


def test_hours_follow_samples_and_epochs() -> None:
    def hours(**changes: Any) -> float:
        return sum(one.operations for one in estimates(spec_with(**changes)).values())

    assert hours(training={"epochs": 4}) == pytest.approx(2 * hours(training={"epochs": 2}))
    assert hours(samples=100) < hours(samples=200) < hours()
    # Three 3 x 3 convolutions of 8 x 8, 8 x 8 and 4 x 4 pixels and a linear layer, by hand.
    forward = 2 * (64 * 9 * 16 + 64 * 9 * 16 * 32 + 16 * 9 * 32 * 64 + 640)
    one = estimates(spec_with(training={"epochs": 2}))[Cell("convnet", "digits", (), (), 0.0)]
    assert one.operations == 2 * 2 * forward * (3 * 1077 + 360)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_a_smoke_run_is_tiny_and_keeps_what_may_fail_elsewhere(path: Any) -> None:
    spec = Spec.load(path)
    tiny = smoke(spec)
    assert tiny.workloads == spec.workloads
    assert tiny.resources == spec.resources
    assert len(cells(tiny)) <= 3 * len(spec.workloads)
    assert tiny.samples == 32
    assert smoke(tiny).training == tiny.training


def test_a_smoke_run_of_a_long_recipe_is_valid() -> None:
    training = {"epochs": 160, "schedule": "step", "milestones": [80, 120], "warmup": 5, "precision": "bfloat16"}
    tiny = smoke(spec_with(training=training, name="x" * 100, samples=16, confirmations=0))
    assert tiny.training.epochs == 1
    assert tiny.training.precision == "bfloat16"
    assert tiny.samples == 16
    assert tiny.confirmations == 0
