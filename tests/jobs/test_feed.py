"""Batches between the search and its workers: their sizes, and what becomes of those whose worker is lost."""

import math
from collections import Counter

import pytest

from jobs.feed import START_SECONDS, Feed
from jobs.limits import Limits
from jobs.plan import Trial
from jobs.search import Search
from jobs.spec import Spec
from jobs.tracking import Session, Tracker
from jobs.worker import Event, Worker
from tests.jobs.test_limits import Clock
from tests.jobs.test_search import GRID, best_at_030, spec_with
from tests.jobs.test_worker import client_of, epochs_of, runs_of

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own database code
NOWHERE = Session("none", "0", "none", resumed=False, spent={})


def feed_of(spec: Spec, tracker: Tracker, session: Session = NOWHERE, workers: int = 2) -> tuple[Feed, Clock]:
    clock = Clock()
    search = Search(spec, now=clock)
    return Feed(search, session, tracker, Limits(spec, {}, workers, clock), lambda *_: None, clock), clock


def ended(index: int, trial: Trial, seconds: float = 0.01) -> Event:
    outcome = {"validation_accuracy": best_at_030(trial), "test_accuracy": 0.5}
    return {"index": index, "outcome": outcome, "seconds": seconds}


@pytest.mark.parametrize("seconds", [0.001, 0.2, 60.0])
def test_every_trial_is_in_one_batch_that_lasts_a_few_seconds(tracker: Tracker, seconds: float) -> None:
    spec = spec_with(grid=GRID, search={"trials": 40}, confirmations=2)
    feed, _ = feed_of(spec, tracker)
    sizes, ran, planned = list[int](), Counter[Trial](), feed.search.planned
    while batch := feed.next(str(len(sizes))):
        name = str(len(sizes))
        sizes.append(len(batch))
        ran.update(batch)
        assert not feed.take(name, [ended(index, trial, seconds) for index, trial in enumerate(batch)])
        feed.over(name, lost=False)
    assert feed.search.finished
    assert set(ran.values()) == {1}
    assert ran.total() == planned == len(feed.search.outcomes)
    assert sizes[0] == 1  # nobody knows yet how long a trial takes
    quarter = math.ceil((planned - 1) / 4)  # two batches are left for each of two workers
    assert max(sizes) == {0.001: quarter, 0.2: 15, 60.0: 1}[seconds]


def test_workers_share_what_is_left(tracker: Tracker) -> None:
    spec = spec_with(search={"trials": 9}, baselines=[], confirmations=0)
    feed, _ = feed_of(spec, tracker, workers=2)
    (first,) = feed.next("first")
    feed.take("first", [ended(0, first)])
    assert [len(feed.next(name)) for name in "abcdefgh"] == [2, 2, 1, 1, 1, 1, 0, 0]


def test_a_worker_waits_with_its_second_batch_of_short_trials_until_all_have_started(tracker: Tracker) -> None:
    feed, clock = feed_of(spec_with(search={"trials": 9}), tracker, workers=2)
    (first,) = feed.next("first")
    (other,) = feed.next("other")
    feed.take("first", [])  # it is there
    feed.take("first", [ended(0, first)])
    assert feed.hold()
    clock.now += START_SECONDS - 1
    assert feed.hold()
    feed.take("other", [])
    assert not feed.hold()
    feed.take("other", [ended(0, other)])
    assert not feed.hold()


@pytest.mark.parametrize("seconds", [0.01, 5.0, 60.0])  # a worker takes some five seconds to start, too
def test_a_worker_does_not_wait_for_ever_nor_where_trials_are_long(tracker: Tracker, seconds: float) -> None:
    feed, clock = feed_of(spec_with(search={"trials": 9}), tracker, workers=2)
    (first,) = feed.next("first")
    feed.take("first", [])
    feed.take("first", [ended(0, first, seconds)])
    assert feed.hold() == (seconds < START_SECONDS)
    clock.now += START_SECONDS
    assert not feed.hold()


def test_trials_that_may_stop_early_come_one_at_a_time(tracker: Tracker) -> None:
    spec = spec_with(search={"trials": 9}, stopping={"scheduler": "asha"})
    feed, _ = feed_of(spec, tracker)
    for name in "abc":
        (trial,) = feed.next(name)
        feed.take(name, [ended(0, trial)])


def test_a_laggard_stops_for_good(tracker: Tracker) -> None:
    stopping = {"scheduler": "median", "grace_epochs": 1}
    spec = spec_with(
        name="laggard", seed=71, search={"trials": 9}, baselines=[], stopping=stopping, resources={"gpu": 0.5}
    )
    session = tracker.start_sweep(spec)
    feed, _ = feed_of(spec, tracker, session)
    run = ""
    for number in range(9):
        (trial,) = feed.next(str(number))
        run = tracker.start_trial(spec, session, trial).id
        event = {"index": 0, "epoch": 1, "value": 0.9 - 0.1 * number, "run": run, "seconds": 7.0}
        if feed.take(str(number), [event]):
            break
        feed.take(str(number), [ended(0, trial)])
        feed.over(str(number), lost=False)
    else:
        pytest.fail("none was stopped")
    assert feed.search.counts()["stopped"] == 1
    assert feed.limits.spent(feed.search)["gpu_hours"] == pytest.approx(0.5 * (7.0 + 0.01 * number) / 3600)
    stopped = client_of(tracker).get_run(run)
    assert (stopped.info.status, stopped.data.tags["cops.stopped"]) == ("KILLED", "1")
    assert not feed.take(str(number), [ended(0, trial)])  # told again by Tune
    feed.over(str(number), lost=False)
    assert feed.search.counts()["stopped"] == 1
    assert trial not in feed.search.outcomes


def lost_after(
    tracker: Tracker, name: str, seed: int, finished: int, *, started: bool
) -> tuple[Feed, Clock, list[Trial]]:
    """A feed whose second batch's worker is gone, after it ended some trials in MLflow and perhaps started another."""
    spec = spec_with(name=name, seed=seed, search={"trials": 40}, baselines=[], failures={"retries": 0})
    session = tracker.start_sweep(spec)
    feed, clock = feed_of(spec, tracker, session)
    feed.next("first")
    feed.take("first", [ended(0, next(iter(feed.search.cells.values())).running.copy().popitem()[0])])
    batch = feed.next("second")
    assert len(batch) > finished + 1
    worker = Worker(spec, session, tracker, epochs_of)
    worker.take(batch[:finished])
    while not worker.done:
        worker.advance()  # the events are lost with it
    if started:
        tracker.start_trial(spec, session, batch[finished])
    return feed, clock, batch


def test_what_a_lost_worker_had_ended_is_looked_up(tracker: Tracker) -> None:
    feed, clock, batch = lost_after(tracker, "lost", 72, 2, started=True)
    feed.over("second", lost=True)
    done, running, waiting = batch[:2], batch[2], batch[3:]
    for trial in done:
        outcome = feed.search.outcomes[trial]
        assert outcome is not None
        assert outcome["validation_accuracy"] == 1 - trial.alpha[0]
    assert "its worker was lost" in feed.search.failures[running]
    clock.now += 60
    again = [feed.search.ask() for _ in waiting]
    assert set(again) == set(waiting)  # they were never started: no try is used up
    assert {run.info.status for run in runs_of(client_of(tracker), feed._session)} == {"FINISHED", "KILLED"}


def busy(feed: Feed) -> float:
    """Seconds of workers that are counted as used."""
    return feed.limits.use * feed.limits.seconds * feed.limits.workers


def test_a_preempted_worker_costs_no_try(tracker: Tracker) -> None:
    feed, clock, batch = lost_after(tracker, "preempted", 73, 0, started=True)
    feed.preempted("second")
    clock.now += 50
    feed.over("second", lost=True)
    assert busy(feed) == pytest.approx(50 + 0.01)  # and the first batch
    assert not feed.search.failures
    clock.now += 60
    assert {feed.search.ask() for _ in batch} == set(batch)


def test_a_worker_lost_before_it_started_any_trial_uses_up_a_try_of_all(tracker: Tracker) -> None:
    """Else a batch that kills its worker at once would come back for ever."""
    feed, _, batch = lost_after(tracker, "unstarted", 74, 0, started=False)
    feed.over("second", lost=True)
    assert set(feed.search.failures) == set(batch)
