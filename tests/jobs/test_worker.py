"""A worker's batches, with real runs in MLflow: what it tells, and what it leaves there."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

import jobs.tracking.tracker
from cops import InfeasibleError, Mask
from jobs.control import Watch
from jobs.identity import trial_key
from jobs.known import FailureKind, Known
from jobs.limits import Limits
from jobs.plan import Trial
from jobs.search import Search
from jobs.spec import Spec
from jobs.tracking import Session, SupersededError, Tracker, Wish
from jobs.trial import Epoch, Result
from jobs.worker import Event, Runner, Worker
from tests.jobs.test_search import spec_with

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own database code
MASK = Mask({"weight": torch.arange(20) % 4 == 0}, {})


def epochs_of(trial: Trial) -> Generator[Epoch, None, Result]:
    """Two epochs, then a mask."""
    accuracy = 1 - trial.alpha[0]
    for number in (1, 2):
        yield Epoch(number, 1 / number, accuracy * number / 2)
    return Result({"validation_accuracy": accuracy}, {}, {"weight": 0.25}, MASK)


def fails_with(error: Exception) -> Runner:
    """The first trial of the batch fails after an epoch."""
    left = [error]

    def run(trial: Trial) -> Generator[Epoch, None, Result]:
        steps = epochs_of(trial)
        yield next(steps)
        if left:
            raise left.pop()
        return (yield from steps)

    return run


def few(name: str, **changes: object) -> tuple[Spec, list[Trial]]:
    """A sweep, and three trials of it."""
    spec = spec_with(name=name, baselines=[], search={"trials": 3}, **changes)
    search = Search(spec)
    trials = [search.ask() for _ in range(3)]
    return spec, [trial for trial in trials if trial is not None]


def work(worker: Worker) -> list[Event]:
    """All that a worker tells of its batch."""
    events = []
    while not worker.done:
        events += worker.advance()
    return events


def client_of(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def runs_of(client: MlflowClient, session: Session) -> list[Run]:
    """Of a sweep's trials, oldest first."""
    mine = f"tags.`mlflow.parentRunId` = '{session.run}'"
    return list(client.search_runs([session.experiment], mine, order_by=["attributes.start_time ASC"]))


def test_a_batch_leaves_its_trials_in_mlflow(tracker: Tracker, tmp_path: Path) -> None:
    spec, trials = few("batch")
    session = tracker.start_sweep(spec)
    worker = Worker(spec, session, tracker, epochs_of)
    assert worker.done
    worker.take(trials)
    events = work(worker)
    assert [event["index"] for event in events] == [0, 1, 2]
    assert [event["outcome"]["validation_accuracy"] for event in events] == [1 - trial.alpha[0] for trial in trials]
    assert all(event["seconds"] >= 0 for event in events)
    for run, trial in zip(runs_of(client_of(tracker), session), trials, strict=True):
        assert run.info.status == "FINISHED"
        assert run.info.end_time >= run.info.start_time
        assert run.data.params["alpha_grasp"] == str(trial.alpha[0])
        curve = client_of(tracker).get_metric_history(run.info.run_id, "epoch_validation_accuracy")
        assert [point.step for point in curve] == [1, 2]
        kept = Mask.load(tracker.mask_file(run.info.run_id, tmp_path))
        assert kept.similarity(MASK) == 1


class ScoreTaskError(Exception):
    """As Ray wraps what a task raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long trace")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ValueError("batch_size = 0"), "final", "ValueError: batch_size = 0"),
        (OSError("disk full"), "passing", "OSError: disk full"),
        (InfeasibleError(0, 0.9, 0.5, 10), "infeasible", "InfeasibleError: "),
        (ScoreTaskError(TypeError("no gradient")), "cell", "TypeError: no gradient"),
    ],
)
def test_a_failed_trial_says_why_and_the_next_one_runs(
    tracker: Tracker, error: Exception, kind: FailureKind, reason: str
) -> None:
    spec, trials = few(f"fails-{type(error).__name__}")
    session = tracker.start_sweep(spec)
    worker = Worker(spec, session, tracker, fails_with(error))
    worker.take(trials)
    events = work(worker)
    assert events[0]["kind"] == kind
    assert events[0]["failure"].startswith(reason)
    assert ["outcome" in event for event in events] == [False, True, True]
    runs = runs_of(client_of(tracker), session)
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED", "FINISHED"]
    assert runs[0].data.tags["cops.error"] == events[0]["failure"]


def test_an_accuracy_that_is_no_number_fails(tracker: Tracker) -> None:
    def run(_trial: Trial) -> Generator[Epoch, None, Result]:
        yield from ()
        return Result({"validation_accuracy": float("nan")}, {}, {}, MASK)

    spec, trials = few("no-number")
    session = tracker.start_sweep(spec)
    worker = Worker(spec, session, tracker, run)
    worker.take(trials[:1])
    (event,) = work(worker)
    assert (event["kind"], event["failure"]) == ("final", "ValueError: its validation accuracy is nan")
    assert [run.info.status for run in runs_of(client_of(tracker), session)] == ["FAILED"]


def test_epochs_are_told_where_they_decide_and_kept_of_a_trial_that_is_stopped(tracker: Tracker) -> None:
    closed = []

    def endless(trial: Trial) -> Generator[Epoch, None, Result]:
        try:
            for number in range(1, 1000):
                yield Epoch(number, 0.5, 0.5)
        finally:
            closed.append(trial)
        raise AssertionError

    spec, trials = few("stopped", stopping={"scheduler": "median"})
    session = tracker.start_sweep(spec)
    worker = Worker(spec, session, tracker, endless)
    worker.take(trials[:1])
    first = worker._once()[0]
    assert (first["index"], first["epoch"], first["value"]) == (0, 1, 0.5)
    assert not worker.done
    worker.take([])
    assert worker.done
    assert closed == trials[:1]
    assert len(client_of(tracker).get_metric_history(first["run"], "epoch_training_loss")) == 1


class Counting(Tracker):
    """Counts how often it asks whose the sweep is."""

    asked = 0

    def wish(self, sweep: str) -> Wish:
        self.asked += 1
        return super().wish(sweep)


def superseded(tracker: Tracker, name: str) -> tuple[Spec, list[Trial], Session]:
    """A session whose sweep another one takes up."""
    spec, trials = few(name)
    session = tracker.start_sweep(spec)
    tracker.end_sweep(session, "KILLED")
    tracker.start_sweep(spec)
    return spec, trials, session


def test_a_worker_of_an_earlier_session_ends_no_trial(tracker: Tracker) -> None:
    spec, trials, session = superseded(tracker, "superseded")
    worker = Worker(spec, session, Tracker(tracker.uri), epochs_of)
    worker.take(trials)
    with pytest.raises(SupersededError):
        work(worker)
    assert [run.info.status for run in runs_of(client_of(tracker), session)] == ["KILLED"]


@pytest.mark.parametrize(("seconds", "asked"), [(1e9, 1), (-1.0, 3)])
def test_a_worker_asks_now_and_then_whose_the_sweep_is(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, seconds: float, asked: int
) -> None:
    monkeypatch.setattr(jobs.tracking.tracker, "ASK_SECONDS", seconds)
    counting = Counting(tracker.uri)
    spec, trials = few(f"asks-{asked}-times")
    worker = Worker(spec, counting.start_sweep(spec), counting, epochs_of)
    worker.take(trials)
    assert len(work(worker)) == 3
    assert counting.asked == asked


def test_the_fence_outlasts_what_a_worker_still_believes() -> None:
    assert jobs.tracking.tracker.FENCE_SECONDS > jobs.tracking.tracker.ASK_SECONDS


def test_other_sweeps_results_are_heard_of_while_a_sweep_runs(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.control.POLL_SECONDS", 0.05)
    monkeypatch.setattr("jobs.control.LEARN_SECONDS", 0.0)
    monkeypatch.setattr("jobs.control.SKEW_SECONDS", 0.0)  # the tests before this one ran trials, too
    spec, trials = few("heard", seed=11)
    began = int(1000 * time.time())
    mine, other = tracker.start_sweep(spec), tracker.start_sweep(spec.model_copy(update={"name": "other"}))
    search, heard = Search(spec), dict[str, Known]()
    monkeypatch.setattr(search, "learn", heard.update)
    with Watch(Limits(spec, {}, 1), search, mine, tracker):
        worker = Worker(spec, other, tracker, epochs_of)
        worker.take(trials)
        work(worker)
        deadline = time.monotonic() + 60
        while len(heard) < len(trials):
            assert time.monotonic() < deadline, heard
            time.sleep(0.05)
    accuracies = {trial_key(spec, trial): 1 - trial.alpha[0] for trial in trials}
    assert {key: (known.outcome or {})["validation_accuracy"] for key, known in heard.items()} == accuracies
    assert not tracker.known(spec, began, beside=other)
    assert not tracker.known(spec, int(1000 * (time.time() + 60)))
