"""The sweep on Ray: score tasks first, then one Tune experiment whose actors are reused. The only importer of Tune."""

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cops.scores import Scores
from jobs.data import Dataset
from jobs.errors import UserError
from jobs.plan import ScoreTask, Trial, scores_needed
from jobs.search import Search
from jobs.spec import Spec

# Read when Ray is imported or starts: no usage statistics; a local Ray listens on loopback alone; no result files of
# Tune's own, since MLflow keeps the results.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its old output is silent when told to be
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from jobs.tracking import Tracker
from jobs.trial import compute_score, finish, run
from jobs.workloads import load_data

logging.getLogger("ray").setLevel(logging.ERROR)  # Tune warns that its own result files, which we disable, are missing

OUTCOME = "outcome/"
OnChange = Callable[[Search], None]
ScoreRefs = dict[ScoreTask, "ray.ObjectRef[Any]"]
DataRefs = dict[str, "ray.ObjectRef[Any]"]


@contextmanager
def connected(spec: Spec) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names (as in a job), else start Ray on this machine, on loopback.

    Raises:
        UserError: the cluster does not answer, or the local one lacks what a trial asks for.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    try:
        ray.init(include_dashboard=False if address is None else None, configure_logging=False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = '{address}': {error}") from None
    try:
        total = ray.cluster_resources()
        for name, needed in (("CPU", spec.resources.cpu), ("GPU", spec.resources.gpu)):
            if address is None and needed > total.get(name, 0):
                raise UserError(
                    f"resources.{name.lower()} = {needed:g}: this machine has {total.get(name, 0):g}; "
                    "ask for less, or submit the sweep to a cluster with `ray job submit`"
                )
        yield
    finally:
        ray.shutdown()


def fit(spec: Spec, sweep: str, tracking_uri: str, on_change: OnChange) -> Search:
    """Run a sweep on the connected cluster; `on_change` is called after each change. All outcomes by cell."""
    data = {name: _load_data.remote(name) for name in {str(workload.data) for workload in spec.workloads}}
    compute = _compute_score.options(num_cpus=spec.resources.cpu, num_gpus=spec.resources.gpu)
    scores = {task: compute.remote(spec, task, data[task.data]) for task in scores_needed(spec)}
    search = Search(spec)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_slots(spec))  # one at a time is Tune's default with a searcher
    trainable = tune.with_parameters(
        SweepTrial, spec=spec, sweep=sweep, tracking_uri=tracking_uri, scores=scores, data=data
    )
    with tempfile.TemporaryDirectory(prefix="cops-tune-") as scratch:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu}),
            tune_config=tune.TuneConfig(search_alg=_Searcher(search, on_change), num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name=sweep,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    return search


class SweepTrial(tune.Trainable):
    """A worker's actor. It outlives its trials, so that processes, data sets and scores are set up once."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the keywords
        self, config: dict[str, Any], *, spec: Spec, sweep: str, tracking_uri: str, scores: ScoreRefs, data: DataRefs
    ) -> None:
        """Called once per actor; `scores` and `data` are made elsewhere and fetched when a trial asks."""
        torch.set_num_threads(max(1, math.floor(spec.resources.cpu)))
        self._spec, self._sweep = spec, sweep
        self._tracker = Tracker(tracking_uri)
        self._refs = scores
        self._scores: dict[ScoreTask, Scores] = {}
        self._data_refs = data
        self._data: dict[str, Dataset] = {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; nothing of the last one matters to it."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the whole trial. A trial that fails says so and leaves the actor in service."""
        trial, started = Trial.from_dict(self.config["trial"]), time.time()
        try:
            data = self._dataset(trial.cell.data)
            result = finish(run(self._spec, trial, lambda name: self._score(trial, name), data=data))
            self._tracker.log_trial(self._spec, self._sweep, trial, result, started)
        except Exception as error:  # whatever a model, a score or the tracking server raises
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            reason = f"{type(cause).__name__}: {cause}"
            self._tracker.log_failure(self._spec, self._sweep, trial, reason, started)
            return {"done": True, "failure": reason}
        return {"done": True, "outcome": result.metrics}

    def _score(self, trial: Trial, name: str) -> Scores:
        key = ScoreTask(trial.cell.model, trial.cell.data, trial.cell.seed, name)
        if key not in self._scores:
            self._scores[key] = ray.get(self._refs[key])
        return self._scores[key]

    def _dataset(self, name: str) -> Dataset:
        if name not in self._data:
            self._data[name] = Dataset.from_arrays(ray.get(self._data_refs[name]))
        return self._data[name]


class _Searcher(Searcher):
    """Hands the trials of a `Search` to Tune, and Tune's results back."""

    def __init__(self, search: Search, on_change: OnChange) -> None:
        super().__init__()
        self._search = search
        self._on_change = on_change
        self._trials: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        trial = self._search.ask()
        if trial is None:
            return str(Searcher.FINISHED) if self._search.finished else None
        self._trials[trial_id] = trial
        self._on_change(self._search)
        return {"trial": trial.to_dict()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._trials.pop(trial_id)
        result = result or {}
        outcome = {  # Tune flattens what a trial returns
            key.removeprefix(OUTCOME): value for key, value in result.items() if key.startswith(OUTCOME)
        }
        if error or not outcome:
            self._search.tell(
                trial, None, result.get("failure", "its worker was lost, or MLflow could not be reached from it")
            )
        else:
            self._search.tell(trial, outcome)
        self._on_change(self._search)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that we do not use."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is worth keeping is in MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


@ray.remote
def _load_data(name: str) -> dict[str, Any]:
    """A data set as arrays, decoded once; every process of a node reads the same memory."""
    return load_data(name).to_arrays()


@ray.remote
def _compute_score(spec: Spec, task: ScoreTask, data: dict[str, Any]) -> Scores:
    torch.set_num_threads(max(1, math.floor(spec.resources.cpu)))
    return compute_score(spec, task, Dataset.from_arrays(data))


def _slots(spec: Spec) -> int:
    """How many trials the cluster runs at once."""
    total, needed = ray.cluster_resources(), spec.resources
    slots = [total.get("CPU", 1) / needed.cpu]
    if needed.gpu:
        slots.append(total.get("GPU", 0) / needed.gpu)
    return max(1, int(min(slots)))
