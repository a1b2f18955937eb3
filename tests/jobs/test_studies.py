"""Studies: samplers, the grid, early stopping, external storage and what MLflow knows beside it."""

import math
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UserError
from jobs.identity import study_key, trial_key
from jobs.known import Known
from jobs.plan import Cell, Trial, cells
from jobs.search import Search
from jobs.spec import Spec
from jobs.storage import Studies
from jobs.studies import grid, stick_breaking, stick_fractions
from tests.jobs.test_search import PAIRS, best_at_030, run_all, spec_with

TWO = {"pairs": [PAIRS[2]], "sparsities": [0.9]}  # two alphas


@given(st.lists(st.integers(0, 100).map(lambda percent: percent / 100), max_size=3))
def test_weights_tell_the_fractions_they_came_from(fractions: list[float]) -> None:
    weights = stick_breaking(fractions)
    again = stick_breaking(stick_fractions(weights))
    assert max(abs(a - b) for a, b in zip(weights, again, strict=True)) <= 2e-3


@given(st.integers(1, 400), st.integers(1, 4))
def test_a_grid_is_even_distinct_and_within_budget(trials: int, values: int) -> None:
    points = grid(trials, values)
    assert 1 <= len(points) <= trials
    assert len(set(points)) == len(points)
    assert all(len(point) == values and all(0 <= x <= 1 for x in point) for point in points)
    for axis in zip(*points, strict=True):
        steps = [b - a for a, b in pairwise(sorted(set(axis)))]
        assert not steps or max(steps) - min(steps) < 0.011


def test_a_grid_of_one_value_takes_the_whole_budget() -> None:
    assert [alpha for (alpha,) in grid(5, 1)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert len(grid(1000, 1)) == 101


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "grid"])
def test_every_sampler_spends_its_budget_on_distinct_trials(sampler: str) -> None:
    search = Search(spec_with(grid=TWO, search={"trials": 9, "sampler": sampler}, baselines=[], confirmations=1))
    ran = run_all(search, best_at_030)
    assert len(ran) == len(set(ran)) == 10


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_learn(sampler: str) -> None:
    spec = spec_with(grid=TWO, search={"trials": 60, "sampler": sampler}, baselines=[], confirmations=0)
    search = Search(spec)
    run_all(search, lambda trial: 1 - math.dist(trial.alpha, (0.3, 0.8)), workers=1)
    (cell,) = search.cells.values()
    assert cell.winner is not None
    assert math.dist(cell.winner.alpha, (0.3, 0.8)) < 0.12


def test_grid_trials_are_the_grid() -> None:
    search = Search(spec_with(search={"trials": 11, "sampler": "grid"}, baselines=[], confirmations=0))
    ran = run_all(search, best_at_030)
    assert sorted(trial.alpha[0] for trial in ran) == [round(i / 10, 2) for i in range(11)]


def test_a_grid_of_weights_is_proposed_point_by_point(tmp_path: Path) -> None:
    """Where one score has all the weight, points coincide: each trial runs once, and the study has its own values."""
    pair = {"target": ["snip", "synflow", "magnitude"], "controls": ["grasp"]}
    spec = spec_with(
        grid={"pairs": [pair], "sparsities": [0.9]},
        search={"trials": 16, "sampler": "grid"},
        baselines=[],
        confirmations=0,
    )
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    studies = Studies(url)
    search = Search(spec, studies=studies)
    ran = run_all(search, best_at_030)
    studies.close()
    points = {(*stick_breaking([b, c]), a) for a, b, c in grid(16, 3)}
    assert {trial.weights + trial.alpha for trial in ran} == points
    assert len(ran) == len(points)
    (cell,) = cells(spec)
    study = optuna.load_study(study_name=study_key(spec, cell), storage=url)
    by_key = {trial_key(spec, trial): trial for trial in ran}
    assert len(study.trials) == len(ran)
    for one in study.trials:
        trial = by_key[one.user_attrs["cops.trial"]]
        values = one.params
        assert trial.alpha == (values["alpha[grasp]"],)
        assert trial.weights == stick_breaking([values["stick[snip]"], values["stick[synflow]"]])


def test_a_grid_is_whole_whatever_ran_before() -> None:
    first = spec_with(search={"trials": 4, "sampler": "random"}, baselines=[], confirmations=0)
    before = Search(first)
    run_all(before, best_at_030)
    spec = spec_with(search={"trials": 5, "sampler": "grid"}, baselines=[], confirmations=0)
    search = Search(spec, known_of(first, before))
    run_all(search, best_at_030)
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= {trial.alpha[0] for trial in search.outcomes}
    assert search.finished


@given(st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=3))
def test_no_weight_is_minus_zero(fractions: list[float]) -> None:
    assert all(math.copysign(1, weight) == 1 for weight in stick_breaking(fractions))


def test_several_objectives_are_searched_and_the_most_accurate_wins() -> None:
    spec = spec_with(
        search={"trials": 20, "objective": ["validation_accuracy", "flops_share"]}, baselines=["dense"], confirmations=1
    )
    search = Search(spec)
    while (trial := search.ask()) is not None:
        accuracy = best_at_030(trial)
        share = {"flops_share": trial.alpha[0]} if trial.alpha else {}
        search.tell(trial, {"validation_accuracy": accuracy, **share})
    cell = next(cell for cell in search.cells.values() if cell.cell.tunable)
    assert cell.winner is not None
    assert best_at_030(cell.winner) == max(best_at_030(trial) for trial in cell.outcomes if trial.kind == "search")


def stopping_spec(scheduler: str) -> Spec:
    stopping = {"scheduler": scheduler, "grace_epochs": 2}
    training, search = {"epochs": 9}, {"trials": 30, "sampler": "random"}
    return spec_with(search=search, stopping=stopping, training=training, baselines=[], confirmations=2)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_laggards_stop_and_never_win(scheduler: str) -> None:
    search = Search(stopping_spec(scheduler))
    stopped_at = {}
    while (trial := search.ask()) is not None:
        accuracy = best_at_030(trial)
        for epoch in range(1, 10):
            if search.report(trial, epoch, accuracy * epoch / 9):
                stopped_at[trial] = epoch
                search.tell(trial, None)
                break
        else:
            search.tell(trial, {"validation_accuracy": accuracy, "test_accuracy": accuracy})
    (cell,) = search.cells.values()
    assert 5 < len(stopped_at) < 30
    assert min(stopped_at.values()) >= 2
    assert cell.stopped == set(stopped_at)
    assert all(trial.kind == "search" for trial in stopped_at)
    assert cell.winner not in stopped_at
    assert len(cell.outcomes) + len(stopped_at) == search.planned == 32
    assert search.counts()["stopped"] == len(stopped_at)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_nothing_stops_at_its_last_epoch(scheduler: str) -> None:
    """However poor: its mask and accuracy are there, and all their cost is paid."""
    tree = stopping_spec(scheduler).model_dump(mode="json")
    tree["stopping"]["grace_epochs"] = 9
    search = Search(Spec.model_validate(tree))
    while (trial := search.ask()) is not None:
        accuracy = best_at_030(trial)
        assert not any(search.report(trial, epoch, accuracy) for epoch in range(1, 10))
        search.tell(trial, {"validation_accuracy": accuracy, "test_accuracy": accuracy})
    assert len(search.outcomes) == search.planned == 32


def test_brackets_are_of_a_cell_alone() -> None:
    """A cell whose accuracies are far lower is not compared with another's: its best trials run to their end."""
    tree = stopping_spec("asha").model_dump(mode="json")
    tree["grid"] = {"pairs": [PAIRS[0]], "sparsities": [0.5, 0.99]}
    search = Search(Spec.model_validate(tree))
    ran_on: dict[Cell, int] = {}
    while (trial := search.ask()) is not None:
        accuracy = best_at_030(trial) * (1.0 if trial.cell.sparsity == 0.5 else 0.1)
        if any(search.report(trial, epoch, accuracy * epoch / 9) for epoch in range(1, 10)):
            search.tell(trial, None)
        else:
            search.tell(trial, {"validation_accuracy": accuracy, "test_accuracy": accuracy})
            ran_on[trial.cell] = ran_on.get(trial.cell, 0) + (trial.kind == "search")
    assert len(ran_on) == 2
    assert min(ran_on.values()) >= 2


def known_of(spec: Spec, search: Search) -> dict[str, Known]:
    found = {}
    for trial, outcome in search.outcomes.items():
        cell, key = trial.cell, trial_key(spec, trial)
        alpha, weights = (
            dict(zip(cell.controls, trial.alpha, strict=True)),
            dict(zip(cell.target, trial.weights, strict=True)),
        )
        found[key] = Known(key, study_key(spec, cell), alpha, weights, outcome)
    return found


GRID = {"pairs": PAIRS, "sparsities": [0.9]}


def test_external_studies_hold_what_ran(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    spec = spec_with(grid=GRID, search={"trials": 5}, confirmations=1)
    studies = Studies(url)
    search = Search(spec, studies=studies)
    run_all(search, lambda trial: None if trial.alpha and trial.alpha[0] > 0.8 else best_at_030(trial))
    studies.close()
    for cell in cells(spec):
        study = optuna.load_study(study_name=study_key(spec, cell), storage=url)
        told = {trial.user_attrs["cops.trial"]: trial for trial in study.trials}
        mine = search.cells[cell]
        ran = [trial for trial in mine.outcomes if trial.kind == "search"]
        assert told.keys() == {trial_key(spec, trial) for trial in ran}
        for trial in ran:
            found, outcome = told[trial_key(spec, trial)], mine.outcomes[trial]
            if outcome is None:
                assert found.state is optuna.trial.TrialState.FAIL
            else:
                assert found.value == outcome["validation_accuracy"]


def test_a_lost_storage_is_filled_again_from_what_is_known(tmp_path: Path) -> None:
    spec = spec_with(grid=GRID, search={"trials": 5}, confirmations=1)
    search = Search(spec)
    run_all(search, best_at_030)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for _ in range(2):  # and not twice
        studies = Studies(url)
        again = Search(spec, known_of(spec, search), studies)
        studies.close()
        assert again.finished
        assert again.outcomes == search.outcomes
        assert again.reused == again.planned == search.planned
        for cell in cells(spec):
            study = optuna.load_study(study_name=study_key(spec, cell), storage=url)
            assert len(study.trials) == (5 if cell.tunable else 1)


def test_a_search_goes_on_from_what_is_known() -> None:
    """More trials, the same cell: only what is new runs, and the earlier ones teach the sampler."""
    spec = spec_with(search={"trials": 8}, baselines=["snip"], confirmations=2)
    first = Search(spec)
    run_all(first, best_at_030)
    more = spec_with(search={"trials": 20}, baselines=["snip"], confirmations=2)
    second = Search(more, known_of(spec, first))
    ran = run_all(second, best_at_030)
    assert not set(ran) & set(first.outcomes)
    searched = [trial for trial in ran if trial.kind == "search"]
    assert len(searched) == 12
    winner = next(cell for cell in second.cells.values() if cell.cell.tunable).winner
    assert winner is not None
    assert abs(winner.alpha[0] - 0.3) <= 0.05


@pytest.mark.parametrize("before", range(10))
def test_what_another_sweep_ends_meanwhile_is_not_run_here(before: int) -> None:
    """Whenever that is heard: before the first trial, between two, or while confirmations are lined up."""
    spec = spec_with(search={"trials": 5, "sampler": "grid"}, baselines=["snip"], confirmations=2)
    other, search = Search(spec), Search(spec)
    run_all(other, best_at_030)
    assert other.planned == 10
    for _ in range(before):
        trial = search.ask()
        assert trial is not None
        search.tell(trial, other.outcomes[trial])
    search.learn(known_of(spec, other))
    assert search.ask() is None
    assert search.finished
    assert search.outcomes == other.outcomes
    assert search.reused == 10 - before
    assert search.counts()["done"] == before


def test_a_stopped_trial_is_known_and_run_again_only_where_none_is_stopped() -> None:
    spec = spec_with(search={"trials": 3}, baselines=[], confirmations=0, stopping={"scheduler": "asha"})
    search = Search(spec)
    trials = [search.ask() for _ in range(3)]
    for number, trial in enumerate(trials):
        assert trial is not None
        search.tell(trial, None if number == 0 else {"validation_accuracy": 0.1 * number})
    known = known_of(spec, search)
    stopped = trials[0]
    assert isinstance(stopped, Trial)
    key = trial_key(spec, stopped)
    known[key] = Known(key, study_key(spec, stopped.cell), {"grasp": stopped.alpha[0]}, {"snip": 1.0}, None)
    again = Search(spec, known)
    assert again.finished
    assert again.counts()["stopped"] == 1
    assert again.reused == 3
    patient = spec_with(search={"trials": 3}, baselines=[], confirmations=0)
    whole = Search(patient, known)
    assert whole.reused == 2
    whole.learn(known)
    assert [trial.kind for trial in run_all(whole, best_at_030)] == ["search"]


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db", "postgresql+psycopg2://127.0.0.1:1/none"])
def test_a_database_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UserError, match="COPS_STUDIES") as caught:
        Studies(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg2://sweep:hunter2@127.0.0.1:1/studies", "sweep:hunter2@127.0.0.1:1/studies"]
)
def test_no_message_tells_the_password_of_the_database(url: str) -> None:
    with pytest.raises(UserError, match="COPS_STUDIES") as caught:
        Studies(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_cell_is_searched_out(sampler: str) -> None:
    """More trials than there are levels: each level runs once, and then the winner is confirmed."""
    search = Search(spec_with(search={"trials": 130, "sampler": sampler}, baselines=[], confirmations=1))
    ran = run_all(search, best_at_030)
    levels = [trial.alpha[0] for trial in ran if trial.kind == "search"]
    assert len(levels) == len(set(levels)) <= 101
    assert len(levels) >= 100
    assert [trial.kind for trial in ran[-1:]] == ["confirmation"]
    assert search.finished
