"""What may end a sweep, or a trial, early: budgets, failures and their retries."""

from collections.abc import Callable

import pytest

from jobs.known import FailureKind
from jobs.limits import Limits
from jobs.plan import Trial
from jobs.search import Failure, Search
from tests.jobs.test_search import GRID, best_at_030, run_all, spec_with


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_within(limits: Limits, search: Search, clock: Clock, seconds: float) -> list[Trial]:
    """Run one trial after another, each of which takes a while, as long as there is something to run."""
    ran: list[Trial] = []
    while True:
        limits.apply(search)
        trial = search.ask()
        if trial is None:
            return ran
        clock.now += seconds
        limits.ended(seconds)
        search.tell(trial, {"validation_accuracy": best_at_030(trial), "test_accuracy": 0.5})
        ran.append(trial)


@pytest.mark.parametrize(
    ("budget", "trials"), [({"hours": 1}, 6), ({"hours": 0.5}, 3), ({"gpu_hours": 1}, 12), ({"gpu_hours": 0.1}, 2)]
)
def test_time_that_is_spent_ends_everything(budget: dict[str, float], trials: int) -> None:
    """Trials of ten minutes on half a GPU."""
    clock, spec = Clock(), spec_with(grid=GRID, search={"trials": 9}, budget=budget, resources={"gpu": 0.5})
    search, limits = Search(spec), Limits(spec, {}, 1, clock)
    assert len(run_within(limits, search, clock, 600)) == trials
    assert search.finished
    assert search.status == "FINISHED"
    assert f"{next(iter(budget))} = {next(iter(budget.values())):g} is spent" in (search.closed or "")


def test_a_resumed_sweep_has_what_is_left_of_its_budget() -> None:
    clock, spec = Clock(), spec_with(grid=GRID, search={"trials": 9}, budget={"hours": 1})
    first, limits = Search(spec), Limits(spec, {}, 1, clock)
    first.ask()
    clock.now += 1800
    spent = limits.spent(first)
    assert spent == {"hours": 0.5, "gpu_hours": 0.0, "trials": 1.0}
    second = Search(spec)
    assert len(run_within(Limits(spec, spent, 1, clock), second, clock, 600)) == 3


def test_a_budget_of_trials_still_confirms_what_was_found() -> None:
    clock = Clock()
    spec = spec_with(grid=GRID, search={"trials": 9}, budget={"trials": 13}, baselines=["snip"], confirmations=2)
    search = Search(spec)
    ran = run_within(Limits(spec, {}, 1, clock), search, clock, 60)
    searched = [trial for trial in ran if trial.kind == "search"]
    assert len(searched) == 13
    cells = {trial.cell for trial in searched}
    assert len(ran) == 13 + 2 * len(cells)
    assert search.finished
    assert search.planned == len(ran)
    assert search.status == "FINISHED"


def test_a_closed_search_lets_running_trials_end() -> None:
    search = Search(spec_with(grid=GRID, search={"trials": 9}))
    running = [search.ask() for _ in range(4)]
    search.close("stopped", "KILLED")
    assert search.ask() is None
    assert not search.finished
    for trial in running:
        assert trial is not None
        search.tell(trial, {"validation_accuracy": 0.5})
    assert search.finished
    assert search.ask() is None
    assert (search.closed, search.status) == ("stopped", "KILLED")


def fail(search: Search, clock: Clock, kind: FailureKind, tries: int) -> list[float]:
    """Let the first trial fail again and again; the seconds after which it came back."""
    first = search.ask()
    assert first is not None
    waits = []
    for _ in range(tries):
        asked = clock.now
        if search.tell(first, None, Failure("broken", kind)):
            break
        while (trial := search.ask()) != first:
            if trial is not None:
                search.tell(trial, {"validation_accuracy": 0.5, "test_accuracy": 0.5})
            clock.now += 0.5
        waits.append(clock.now - asked)
    return waits


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        ("passing", [4.0, 8.0, 16.0]),
        ("lost", [4.0, 8.0, 16.0]),
        ("final", []),
        ("infeasible", []),
        ("preempted", [4.0] * 9),
    ],
)
def test_failures_are_retried_with_backoff(kind: FailureKind, waits: list[float]) -> None:
    clock = Clock()
    spec = spec_with(baselines=[], failures={"retries": 3, "backoff_seconds": 4})
    search = Search(spec, now=clock)
    assert fail(search, clock, kind, 9) == waits
    assert len(search.failures) == (kind != "preempted")


@pytest.mark.parametrize(("kind", "ends"), [("final", True), ("infeasible", False)])
def test_too_many_failures_end_the_sweep_with_the_reason(kind: FailureKind, ends: bool) -> None:
    search = Search(spec_with(grid=GRID, search={"trials": 9}, failures={"limit": 0.2}))
    broken: Callable[[Trial], bool] = lambda trial: bool(trial.alpha) and trial.alpha[0] < 0.5  # noqa: E731
    while (trial := search.ask()) is not None:
        failure = Failure("broken", kind) if broken(trial) else None
        search.tell(trial, None if failure else {"validation_accuracy": 0.5, "test_accuracy": 0.5}, failure)
    assert search.finished
    assert (search.status == "FAILED") is ends
    if ends:
        assert "more than failures.limit = 0.2 allows" in (search.closed or "")
        assert 10 <= len(search.outcomes) < search.planned


def test_an_accuracy_that_is_no_number_is_a_failure() -> None:
    search = Search(spec_with(search={"trials": 4}, baselines=[], confirmations=1))
    ran = run_all(search, lambda trial: float("nan") if trial.alpha[0] > 0.5 else best_at_030(trial))
    broken = {trial for trial in ran if trial.alpha[0] > 0.5 and trial.kind == "search"}
    assert broken
    assert search.failures == dict.fromkeys(broken, "its validation accuracy is nan")
    assert all(cell.winner not in broken for cell in search.cells.values())
