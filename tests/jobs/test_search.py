"""One study per cell: budgets, distinct trials, confirmation of the winner. No Ray needed: `Search` knows none."""

from collections import Counter
from collections.abc import Callable

import pytest

from jobs.plan import Cell, Trial, cells, scores_needed
from jobs.search import Failure, Search
from jobs.spec import Spec
from jobs.studies import stick_breaking
from tests.conftest import SMOKE


def spec_with(**changes: object) -> Spec:
    tree = Spec.load(SMOKE).model_dump(mode="json")
    return Spec.model_validate(tree | changes)


PAIRS = [
    {"target": "snip", "controls": ["grasp"]},
    {"target": ["snip", "synflow"], "controls": ["grasp"]},
    {"target": "synflow", "controls": ["grasp", "magnitude"]},
]
GRID = {"pairs": PAIRS, "sparsities": [0.9, 0.95]}


def run_all(search: Search, accuracy: Callable[[Trial], float | None], workers: int = 3) -> list[Trial]:
    """All trials in the order they were asked for, `workers` at a time, the latest asked told first."""
    ran: list[Trial] = []
    running: list[Trial] = []
    while not search.finished:
        while len(running) < workers and (trial := search.ask()) is not None:
            running.append(trial)
        assert running, "nothing runs, nothing comes, and yet it is not finished"
        trial = running.pop()
        ran.append(trial)
        value = accuracy(trial)
        outcome = None if value is None else {"validation_accuracy": value, "test_accuracy": value}
        search.tell(trial, outcome, Failure("broken") if value is None else None)
    return ran


def best_at_030(trial: Trial) -> float:
    return 1 - abs(trial.alpha[0] - 0.3) if trial.alpha else 0.5


def test_each_cell_spends_its_own_budget_on_distinct_trials() -> None:
    spec = spec_with(grid=GRID, search={"trials": 7}, confirmations=2, baselines=["dense", "random", "snip"])
    search = Search(spec)
    planned = search.planned
    ran = run_all(search, best_at_030)

    assert len(ran) == len(set(ran)) == planned == search.planned
    for cell in cells(spec):
        mine = [trial for trial in ran if trial.cell == cell]
        searched = [trial for trial in mine if trial.kind == "search"]
        assert len(searched) == (7 if cell.controls else 1)
        assert len(mine) - len(searched) == 2


def test_confirmations_are_of_the_winner_with_fresh_seeds() -> None:
    spec = spec_with(grid=GRID, search={"trials": 7}, confirmations=3)
    search = Search(spec)
    ran = run_all(search, best_at_030)
    for cell in cells(spec):
        searched = [trial for trial in ran if trial.cell == cell and trial.kind == "search"]
        confirmed = [trial for trial in ran if trial.cell == cell and trial.kind == "confirmation"]
        winner = max(searched, key=best_at_030)
        assert {(trial.alpha, trial.weights) for trial in confirmed} == {(winner.alpha, winner.weights)}
        assert sorted(trial.training_seed for trial in confirmed) == [1, 2, 3]
        assert all(trial.training_seed == 0 for trial in searched)


def test_tpe_finds_the_best_alpha() -> None:
    spec = spec_with(search={"trials": 40}, confirmations=0, baselines=[])
    search = Search(spec)
    run_all(search, best_at_030)
    winner = next(iter(search.cells.values())).winner
    assert winner is not None
    assert winner.alpha[0] == pytest.approx(0.3, abs=0.03)


def test_tpe_spends_its_whole_budget() -> None:
    spec = spec_with(search={"trials": 80}, baselines=[], confirmations=0)
    assert len(run_all(Search(spec), best_at_030)) == 80


def test_a_search_without_parallel_workers_is_repeatable() -> None:
    spec = spec_with(grid=GRID, search={"trials": 6})
    first, second = (run_all(Search(spec), best_at_030, workers=1) for _ in range(2))
    assert first == second
    other = run_all(Search(spec_with(grid=GRID, search={"trials": 6}, seed=1)), best_at_030, workers=1)
    assert first != other


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_space_smaller_than_the_budget_ends_the_search(sampler: str, workers: int) -> None:
    """101 values of alpha: the budget of 150 can never be spent on distinct trials."""
    spec = spec_with(search={"trials": 150, "sampler": sampler}, baselines=[], confirmations=1)
    search = Search(spec)
    ran = run_all(search, best_at_030, workers)
    assert 95 < len(ran) <= 102
    assert len(set(ran)) == len(ran) == search.planned
    assert sum(trial.kind == "confirmation" for trial in ran) == 1


def test_failed_trials_are_kept_with_their_reason_and_never_win() -> None:
    spec = spec_with(search={"trials": 5}, baselines=["magnitude"], confirmations=1)
    search = Search(spec)
    ran = run_all(search, lambda trial: None if trial.alpha and trial.alpha[0] < 0.5 else best_at_030(trial))
    broken = [trial for trial in ran if trial.alpha and trial.alpha[0] < 0.5]
    assert search.failures == dict.fromkeys(broken, "broken")
    for cell in search.cells.values():
        assert cell.winner not in broken


def test_a_cell_whose_trials_all_fail_ends_without_a_winner() -> None:
    search = Search(spec_with(search={"trials": 3}, confirmations=2))
    ran = run_all(search, lambda trial: None if trial.alpha else 0.5)
    lost = next(cell for cell in search.cells.values() if cell.cell.controls)
    assert lost.finished
    assert lost.winner is None
    assert len([trial for trial in ran if trial.alpha]) == 3 == lost.planned


def test_cells_take_turns() -> None:
    search = Search(spec_with(grid=GRID, baselines=["dense", "snip"]))
    asked = [search.ask() for _ in range(len(search.cells))]
    assert {trial.cell for trial in asked if trial} == set(search.cells)


def test_stick_breaking_is_uniform_on_the_simplex() -> None:
    assert stick_breaking([]) == (1.0,)
    assert stick_breaking([0.3]) == (0.3, 0.7)
    grid = [(index + 0.5) / 40 for index in range(40)]
    weights = [stick_breaking([u, v]) for u in grid for v in grid]
    assert all(abs(sum(w) - 1) < 1e-3 and min(w) >= 0 for w in weights)
    for column in zip(*weights, strict=True):
        assert sum(column) / len(column) == pytest.approx(1 / 3, abs=1e-3)


def test_plan_enumerates_grid_and_baselines_once() -> None:
    spec = spec_with(grid=GRID, baselines=["dense", "random", "snip"])
    names = [cell.name for cell in cells(spec)]
    assert names == [
        "dense",
        *(f"{score} @{sparsity}" for score in ("random", "snip") for sparsity in (0.9, 0.95)),
        *(
            f"{pair} @{sparsity}"
            for sparsity in (0.9, 0.95)
            for pair in ("snip|grasp", "snip+synflow|grasp", "synflow|grasp,magnitude")
        ),
    ]
    assert [task.score for task in scores_needed(spec)] == ["random", "snip", "grasp", "synflow", "magnitude"]


def test_names_that_a_person_reads() -> None:
    cell = Cell("convnet", "digits", ("snip",), ("grasp",), 0.95)
    assert Trial(cell, (1.0,), (0.42,)).name == "snip|grasp @0.95 a=0.42"
    weighted = Cell("convnet", "digits", ("snip", "synflow"), ("grasp",), 0.9)
    trial = Trial(weighted, (0.25, 0.75), (1.0,), training_seed=2, kind="confirmation")
    assert trial.name == "snip+synflow|grasp @0.9 a=1.00 w=0.25,0.75 #2"
    assert Trial.from_dict(trial.to_dict()) == trial


def test_the_winner_of_equals_does_not_depend_on_which_ended_first() -> None:
    spec = spec_with(search={"trials": 5, "sampler": "grid"}, baselines=[], confirmations=1)
    for backwards in (False, True):
        search = Search(spec)
        trials = [trial for _ in range(5) if (trial := search.ask()) is not None]
        for trial in reversed(trials) if backwards else trials:
            search.tell(trial, {"validation_accuracy": 0.5})
        confirmation = search.ask()
        assert confirmation is not None
        assert confirmation.alpha == (1.0,)


def test_a_cell_without_its_score_is_given_up_and_the_rest_goes_on() -> None:
    """Most cells of this sweep cannot be scored: that is no failure rate, and no reason to try again and again."""
    grid = {"pairs": PAIRS[:1], "sparsities": [0.5, 0.9, 0.95, 0.99]}
    search = Search(spec_with(grid=grid, search={"trials": 6}, baselines=[], confirmations=1))
    ran: Counter[Cell] = Counter()
    while (trial := search.ask()) is not None:
        ran[trial.cell] += 1
        broken = trial.cell.sparsity > 0.5
        outcome = {"validation_accuracy": best_at_030(trial)}
        search.tell(trial, None if broken else outcome, Failure("no score", "cell") if broken else None)
    assert search.status == "FINISHED"
    assert search.finished
    assert {cell.sparsity: count for cell, count in ran.items()} == {0.5: 7, 0.9: 1, 0.95: 1, 0.99: 1}
