"""The sweep on Ray: score tasks first, then one Tune experiment whose actors are reused. The only importer of Tune."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from cops.scores import Scores
from jobs.data import Dataset
from jobs.errors import UserError
from jobs.identity import key, score_settings, trial_key
from jobs.limits import Limits
from jobs.plan import ScoreTask, Trial, score_tasks
from jobs.scorestore import ScoreStore
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec

# Read when Ray is imported or starts: no usage statistics; a local Ray listens on loopback alone; no result files of
# Tune's own, since MLflow keeps the results.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its old output is silent when told to be
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")  # nothing is restored from Tune's own state
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of scores that no trial came to ask for
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from jobs import cluster
from jobs.checkpoints import Checkpoint, checkpoint_store
from jobs.control import Watch
from jobs.feed import Feed, OnChange
from jobs.tracking import Session, Tracker
from jobs.trial import Epoch, Result, compute_score, run
from jobs.worker import Worker
from jobs.workloads import load_data

logging.getLogger("ray").setLevel(logging.ERROR)  # Tune warns that its own result files, which we disable, are missing

HELD_SECONDS = 0.1  # between two times that a worker asks whether it may take its second batch


@contextmanager
def connected(spec: Spec) -> Iterator[str | None]:
    """Join the cluster that RAY_ADDRESS names (as in a job), else start Ray on this machine, on loopback.

    Yields:
        What the sweep will have to wait for, if no node can run a trial yet.

    Raises:
        UserError: the cluster does not answer, does not let us in, or can never run a trial.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        cluster.answers(address)
    try:
        ray.init(
            address or "local",  # without a word of it, Ray would join a cluster that someone else runs here
            include_dashboard=False if address is None else None,
            configure_logging=False,
            log_to_driver=False,
        )
    except (ConnectionError, ValueError) as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = '{address}': {error}") from None
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(
            f"RAY_ADDRESS = '{address}': {error}; submit the sweep with `ray job submit`, which runs it by the "
            "cluster's own Ray and Python, or install its versions here"
        ) from None
    try:
        if address is None:
            _fits_here(spec)
        yield None if address is None else cluster.suffices(spec.resources, ray.nodes())
    finally:
        ray.shutdown()


def _fits_here(spec: Spec) -> None:
    total = ray.cluster_resources()
    for name, needed in (("CPU", spec.resources.cpu), ("GPU", spec.resources.gpu)):
        if needed > total.get(name, 0):
            raise UserError(
                f"resources.{name.lower()} = {needed:g}: this machine has {total.get(name, 0):g}; "
                "ask for less, or submit the sweep to a cluster with `ray job submit`"
            )


def disconnect() -> None:
    """Leave the cluster at once, which ends all that this process runs on it."""
    ray.shutdown()


def fit(
    search: Search,
    session: Session,
    settings: Settings,
    tracker: Tracker,
    on_change: OnChange,
    runner: Callable[..., Generator[Epoch, None, Result]] = run,
) -> int:
    """Run a sweep's search on the connected cluster, until it is finished or interrupted.

    Args:
        search: what to run; keeps all outcomes.
        session: of the sweep, in MLflow.
        settings: where score vectors and checkpoints are kept.
        tracker: speaks to the MLflow server, which workers must reach too.
        on_change: called after each change.
        runner: what runs a trial; another one in benchmarks.

    Returns:
        How many score vectors had to be computed; the others were in the store.
    """
    if search.finished:
        return 0
    spec = search.spec
    tasks, data = _needed(search)
    resources = {"num_cpus": spec.resources.cpu, "num_gpus": spec.resources.gpu}
    datasets = {name: _load.options(num_cpus=spec.resources.cpu).remote(name, session, tracker) for name in data}
    scores: dict[ScoreTask, Any] = {
        task: _score.options(**resources).remote(spec, task, settings.store_url, datasets[task.data]) for task in tasks
    }
    feed = Feed(search, session, tracker, Limits(spec, session.spent, slots(spec)), on_change)
    watch = Watch(feed.limits, search, session, tracker)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots(spec))  # one at a time is Tune's default with a searcher
    trainable = tune.with_parameters(
        SweepTrial,
        spec=spec,
        session=session,
        tracker=tracker,
        checkpoints=settings.checkpoints_url,
        store_url=settings.store_url,
        scores={task: vectors for task, (vectors, _) in scores.items()},
        datasets=datasets,
        runner=runner,
    )
    with tempfile.TemporaryDirectory(prefix="cops-tune-") as scratch, watch:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(feed), scheduler=_Scheduler(feed), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=session.run,
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    flags = ray.wait([flag for _, flag in scores.values()], num_returns=len(scores), timeout=0)[0] if scores else []
    return sum(_flag(flag) for flag in flags)


class SweepTrial(tune.Trainable):
    """A worker's actor, for Tune. It outlives its trials, so that processes, data and scores are set up once."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the keywords
        self,
        config: dict[str, Any],
        *,
        spec: Spec,
        session: Session,
        tracker: Tracker,
        checkpoints: str,
        store_url: str,
        scores: dict[ScoreTask, Any],
        datasets: dict[str, Any],
        runner: Callable[..., Generator[Epoch, None, Result]],
    ) -> None:
        """Called once per actor; scores and data are object references, fetched when a trial asks."""
        torch.set_num_threads(spec.resources.threads)
        self._spec, self._checkpoints = spec, checkpoint_store(checkpoints)
        self._store_url = store_url
        self._score_refs, self._data_refs = scores, datasets
        self._run = runner
        self._scores: dict[ScoreTask, Scores] = {}
        self._datasets: dict[str, Dataset] = {}
        self._worker = Worker(spec, session, tracker, self._trial)
        self._announced = False
        self.reset_config(config)
        self._first = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another batch; nothing of the last one matters to it."""
        self._worker.take([Trial.from_dict(trial) for trial in new_config["batch"]])
        self._first = False
        return True

    def step(self) -> dict[str, Any]:
        """Go on for a second or more, and say what happened; first of all, that this worker is there.

        The driver decides when the first batch of a worker is done; see `Feed.hold`.
        """
        if self._worker.done:
            time.sleep(HELD_SECONDS)
        events = self._worker.advance() if self._announced else []
        self._announced = True
        over = self._worker.done
        return {"events": events, "over": over, "done": over and not self._first}

    def _trial(self, trial: Trial) -> Generator[Epoch, None, Result]:
        checkpoint = Checkpoint(self._checkpoints, trial_key(self._spec, trial))
        try:
            result = yield from self._run(
                self._spec, trial, lambda name: self._score(trial, name), checkpoint, self._dataset(trial.cell.data)
            )
        except GeneratorExit:  # stopped early, for good
            checkpoint.remove()
            raise
        checkpoint.remove()
        return result

    def _score(self, trial: Trial, name: str) -> Scores:
        task = ScoreTask(trial.cell.model, trial.cell.data, trial.cell.seed, name)
        if task not in self._scores:
            data = self._dataset(task.data)
            self._scores[task] = _unless_lost(
                self._score_refs[task], lambda: _stored(self._spec, task, self._store_url, data)[0]
            )
        return self._scores[task]

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            arrays = _unless_lost(self._data_refs[name], lambda: load_data(name).to_arrays())
            self._datasets[name] = Dataset.from_arrays(arrays)
        return self._datasets[name]


class _Searcher(Searcher):
    """Hands batches to Tune, and its trials' ends back."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def suggest(self, trial_id: str) -> Any:
        batch = self._feed.next(trial_id)
        if not batch:
            return str(Searcher.FINISHED) if self._feed.search.finished else None
        return {"batch": [trial.to_dict() for trial in batch]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and result.get("done") and not error:
            self._feed.take(trial_id, result["events"])
        self._feed.over(trial_id, lost=error)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that we do not use."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is worth keeping is in MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class _Scheduler(FIFOScheduler):
    """Passes on what a batch reports while it runs, and Tune's word on why a worker was lost."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._feed = feed

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._feed.take(trial.trial_id, result["events"])
        return self.STOP if stop or (result["over"] and not self._feed.hold()) else self.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if trial.run_metadata.num_failures == 0:  # Tune does not count the end of a node that was announced
            self._feed.preempted(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as in the searcher."""
        return {}


def _unless_lost(made: Any, again: Callable[[], Any]) -> Any:
    """What a task made, or, if that was lost with a node, the same made `again` here.

    Ray would run the task again, which needs a free CPU; all of them may be kept by trials that wait for this.
    """
    try:
        return ray.get(made)
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        if not isinstance(cause, ray.exceptions.RayError):
            raise
        return again()


@ray.remote(max_retries=0)
def _load(name: str, session: Session, tracker: Tracker) -> dict[str, Any]:
    """A data set as arrays, decoded once; every process of a node reads the same memory. MLflow is told of it."""
    arrays = load_data(name).to_arrays()
    tracker.log_data(session, name, arrays)
    return arrays


@ray.remote(num_returns=2, max_retries=0)
def _score(spec: Spec, task: ScoreTask, store_url: str, arrays: dict[str, Any]) -> tuple[Scores, bool]:
    """A score vector, and whether it had to be computed."""
    torch.set_num_threads(spec.resources.threads)
    return _stored(spec, task, store_url, Dataset.from_arrays(arrays))


def _stored(spec: Spec, task: ScoreTask, store_url: str, data: Dataset) -> tuple[Scores, bool]:
    """The same from the store, or computed and put there."""
    store, name = ScoreStore(store_url), key("score", score_settings(spec, task))
    scores = store.get(name)
    if scores is not None:
        return scores, False
    scores = compute_score(spec, task, data)
    store.put(name, scores)
    return scores, True


def _needed(search: Search) -> tuple[list[ScoreTask], list[str]]:
    """Distinct score vectors and data sets of the cells that have something left to run."""
    left = [cell for cell, state in search.cells.items() if not state.finished]
    tasks = dict.fromkeys(task for cell in left for task in score_tasks(cell))
    return list(tasks), list(dict.fromkeys(cell.data for cell in left))


def _flag(flag: Any) -> bool:
    try:
        return bool(ray.get(flag))
    except ray.exceptions.RayError:  # the trials that needed it have said why
        return False


def slots(spec: Spec) -> int:
    """How many trials the cluster runs at once."""
    total, needed = ray.cluster_resources(), spec.resources
    found = [total.get("CPU", 1) / needed.cpu]
    if needed.gpu:
        found.append(total.get("GPU", 0) / needed.gpu)
    return max(1, int(min(found)))
