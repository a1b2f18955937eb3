"""Runs, metrics and mask files in MLflow. The only file here that imports it.

A sweep is a parent run, each trial a child run. A search trial's run holds its mask file; confirmations of the same
mask carry the same `cops.mask` tag, the content key that the API calls the mask's id.
"""

import json
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cops import Mask
from jobs.errors import UserError
from jobs.identity import mask_key, recipe_key, study_key, sweep_key, trial_key
from jobs.known import Known
from jobs.plan import Kind, Trial
from jobs.spec import Spec
from jobs.trial import Epoch, Result

logging.getLogger("mlflow").setLevel(logging.ERROR)

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's UI nests runs
TRIAL, STUDY, SWEEP = "cops.trial", "cops.study", "cops.sweep"  # content keys
SESSION, CONTROL, SPENT, STOPPED = "cops.session", "cops.control", "cops.spent", "cops.stopped"
ALPHA, WEIGHT = "alpha_", "weight_"  # prefixes of params
MASK_FILE = "mask.cops"
LAYERS_FILE = "layers.json"
MOST_METRICS = 1000  # of one request
ASK_SECONDS = 1.0  # between two times that a worker asks whose the sweep is: each is a request
FENCE_SECONDS = ASK_SECONDS + 2.0  # in which a worker of a killed driver ends the trials that its last answer lets it
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class SupersededError(Exception):
    """This process no longer has the sweep."""


@dataclass(frozen=True)
class Record:
    """A finished trial that has a mask, as MLflow knows it."""

    run: str
    sweep: str
    mask: str  # content key, as are:
    recipe: str
    trial: str
    kind: Kind
    params: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Session:
    """A process that drives a sweep. The sweep's run names the session it belongs to; a worker of an earlier one, whose
    driver died, finds that out before it ends a trial and leaves it alone: else a trial could end twice.

    Args:
        run: MLflow run of the sweep.
        experiment: the run's.
        id: of this session.
        resumed: whether an earlier session had the sweep.
        spent: what the earlier ones used up.
    """

    run: str
    experiment: str
    id: str
    resumed: bool
    spent: dict[str, float]


@dataclass(frozen=True)
class TrialRun:
    """MLflow run of a trial that runs: its id, and where its files go."""

    id: str
    artifacts: str


@dataclass(frozen=True)
class Wish:
    """What someone wants of a running sweep: whose it is, and whether it should `stop` or `cancel`."""

    session: str
    control: str


class Tracker:
    """Writes the runs of one sweep, and reads those of all; speaks HTTP to the MLflow server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = MlflowClient(uri)
        self._ours_until = -math.inf  # on the monotonic clock: no need to ask whose the sweep is before

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Workers get the address, and speak to the server themselves."""
        return type(self), (self.uri,)

    def start_sweep(self, spec: Spec) -> Session:
        """Take up the sweep's parent run, or create it, and the experiment if there is none.

        Raises:
            UserError: the server does not answer or refuses.
        """
        key, id_ = sweep_key(spec), secrets.token_hex(8)
        tags = {"cops.kind": "sweep", SWEEP: key, SESSION: id_, CONTROL: ""}
        try:
            found = self._client.get_experiment_by_name(spec.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(spec.experiment)
            earlier = next(self._search([experiment], f"tags.`{SWEEP}` = '{key}'"), None)
            if earlier is None:
                run = self._client.create_run(experiment, run_name=spec.name, tags=tags).info.run_id
                sweep = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
                self._client.log_text(run, sweep, "sweep.yaml")
                return Session(run, experiment, id_, resumed=False, spent={})
            run = earlier.info.run_id
            self._client.log_batch(run, tags=[RunTag(*item) for item in tags.items()])
            if earlier.info.status == "RUNNING":  # its driver was killed
                time.sleep(FENCE_SECONDS)
            self._client.update_run(run, "RUNNING")
            self.end_lost(Session(run, experiment, id_, resumed=True, spent={}))
        except MlflowException as error:
            raise UserError(f"MLflow at {self.uri} cannot be used: {error.message}") from None
        spent = json.loads(earlier.data.tags.get(SPENT, "{}"))
        return Session(run, experiment, id_, resumed=True, spent=spent)

    def page(self, session: Session) -> str:
        """Address of the sweep's page in MLflow's UI."""
        return f"{self.uri}/#/experiments/{session.experiment}/runs/{session.run}"

    def end_sweep(self, session: Session, status: RunStatus) -> None:
        """End the parent run, and whatever child a lost worker left running, unless another session has the sweep."""
        if self.wish(session.run).session == session.id:
            self.end_lost(session)
            self._client.set_terminated(session.run, status)

    def end_lost(self, session: Session) -> None:
        """End as killed the trials of the sweep that are still running for MLflow, though nobody runs them."""
        children = f"tags.`{PARENT}` = '{session.run}' and attributes.status = 'RUNNING'"
        for run in list(self._search([session.experiment], children)):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def wish(self, sweep: str) -> Wish:
        """What is wanted of a sweep now."""
        tags = self._client.get_run(sweep).data.tags
        return Wish(tags.get(SESSION, ""), tags.get(CONTROL, ""))

    def set_control(self, sweep: str, wish: str) -> None:
        """Say what is wanted of a sweep."""
        self._client.set_tag(sweep, CONTROL, wish)

    def set_spent(self, sweep: str, spent: dict[str, float]) -> None:
        """Note what a sweep has used up so far."""
        self._client.set_tag(sweep, SPENT, json.dumps(spent))

    def start_trial(self, spec: Spec, session: Session, trial: Trial) -> TrialRun:
        """Create the run of a trial that starts now."""
        tags = {
            PARENT: session.run,
            "cops.kind": trial.kind,
            TRIAL: trial_key(spec, trial),
            STUDY: study_key(spec, trial.cell),
            "cops.recipe": recipe_key(spec),
        }
        run = self._client.create_run(session.experiment, tags=tags, run_name=trial.name)
        return TrialRun(run.info.run_id, run.info.artifact_uri)

    def log_epochs(self, run: str, epochs: Sequence[Epoch]) -> None:
        """Add to the curves of a running trial."""
        self._log(run, [metric for epoch in epochs for metric in _curves(epoch)])

    def finish_trial(
        self, spec: Spec, session: Session, trial: Trial, run: TrialRun, result: Result, epochs: Sequence[Epoch]
    ) -> None:
        """Record how a trial ended, with the `epochs` that are not logged yet.

        The run becomes a mask's run, by its tag, only after the mask file is whole.

        Raises:
            SupersededError: another session has the sweep by now, and perhaps the trial.
        """
        tags = []
        if result.mask is not None and trial.kind != "ablation":  # its accuracy says nothing about the mask
            if trial.kind == "search":
                _save_mask(run.artifacts, result.mask, result.layer_density)
            tags.append(RunTag("cops.mask", mask_key(spec, trial)))
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in result.metrics.items()]
        metrics += [metric for epoch in epochs for metric in _curves(epoch)]
        self._log(run.id, metrics, _params(spec, trial), tags)
        asked = time.monotonic()
        if asked > self._ours_until:
            if self.wish(session.run).session != session.id:
                self._client.set_terminated(run.id, "KILLED")
                raise SupersededError(f"another process has taken over the sweep {session.run}")
            self._ours_until = asked + ASK_SECONDS
        self._client.set_terminated(run.id, "FINISHED")

    def fail_trial(self, run: str, reason: str) -> None:
        """Record that a trial failed, and why."""
        self._client.set_tag(run, "cops.error", reason[:5000])
        self._client.set_terminated(run, "FAILED")

    def stop_trial(self, spec: Spec, trial: Trial, run: str, epoch: int) -> None:
        """Record that a trial was stopped early, after `epoch`: never counted as finished, never run again."""
        self._log(run, [], _params(spec, trial), [RunTag(STOPPED, str(epoch))])
        self._client.set_terminated(run, "KILLED")

    def known(self, spec: Spec) -> dict[str, Known]:
        """All trials on the sweep's workloads that finished or were stopped early, in whichever sweep, by key."""
        found: dict[str, Known] = {}
        for workload in spec.workloads:
            names = {"params.model": str(workload.model), "params.data": str(workload.data)}
            where = [f"{name} = '{value}'" for name, value in names.items() if "'" not in value]
            for ended in ("attributes.status = 'FINISHED'", f"tags.`{STOPPED}` != ''"):
                for run in self._search(self._experiments(), " and ".join([*where, ended])):
                    if TRIAL in run.data.tags:
                        one = _known(run)
                        found[one.key] = one if one.outcome is not None else found.get(one.key, one)
        return found

    def layer_densities(self, session: Session, key: str) -> dict[str, float]:
        """Fraction kept by parameter name, of a finished trial with a mask; empty if there is none."""
        finished = f"tags.`{TRIAL}` = '{key}' and attributes.status = 'FINISHED'"
        for run in self._search([session.experiment], finished):
            with tempfile.TemporaryDirectory() as folder, suppress(MlflowException, OSError):
                file = self._client.download_artifacts(run.info.run_id, LAYERS_FILE, folder)
                densities: dict[str, float] = json.loads(Path(file).read_text())["layer_density"]
                return densities
        return {}

    def log_folder(self, session: Session, folder: Path) -> None:
        """Keep all files of a folder with the sweep's run."""
        self._client.log_artifacts(session.run, str(folder))

    def look_up(self, session: Session, key: str) -> tuple[Known | None, bool]:
        """How a trial whose worker was lost ended after all, if it did, and whether it had been started.

        Its run is ended as killed if it did not.
        """
        ended, started = None, False
        for run in list(self._search([session.experiment], f"tags.`{TRIAL}` = '{key}'")):
            if run.info.status == "FINISHED":
                ended = _known(run)
            elif run.info.status == "RUNNING" and run.data.tags.get(PARENT) == session.run:
                started = True
                self._client.set_terminated(run.info.run_id, "KILLED")
        return ended, started

    def records(
        self, *, model: str | None = None, data: str | None = None, mask: str | None = None
    ) -> Iterator[Record]:
        """All finished trials that have a mask, or those of one model, data set or mask; newest first."""
        wanted = {"params.model": model, "params.data": data, "tags.`cops.mask`": mask}
        terms = [f"{key} = '{value}'" for key, value in wanted.items() if value is not None]
        finished = " and ".join(["attributes.status = 'FINISHED'", "tags.`cops.kind` != 'sweep'", *terms])
        for run in self._search(self._experiments(), finished):
            tags = run.data.tags
            if "cops.mask" in tags:
                kind: Kind = "search" if tags["cops.kind"] == "search" else "confirmation"
                keys = tags[PARENT], tags["cops.mask"], tags["cops.recipe"], tags["cops.trial"]
                yield Record(run.info.run_id, *keys, kind, run.data.params, run.data.metrics)

    def mask_file(self, run: str, folder: Path) -> Path:
        """Fetch the mask file of a search trial's run into `folder`; its path."""
        return Path(self._client.download_artifacts(run, MASK_FILE, str(folder)))

    def _experiments(self) -> list[str]:
        return [experiment.experiment_id for experiment in self._client.search_experiments()]

    def _log(
        self, run: str, metrics: Sequence[Metric], params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        self._client.log_batch(run, metrics[:MOST_METRICS], params, tags)
        for first in range(MOST_METRICS, len(metrics), MOST_METRICS):
            self._client.log_batch(run, metrics[first : first + MOST_METRICS])

    def _search(self, experiments: list[str], query: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _save_mask(where: str, mask: Mask, layer_density: dict[str, float]) -> None:
    """Straight to where the run's files are: through the client it would take a request more for each."""
    store = get_artifact_repository(where)
    with tempfile.TemporaryDirectory() as folder:
        mask.save(Path(folder, MASK_FILE))
        Path(folder, LAYERS_FILE).write_text(json.dumps({"layer_density": layer_density}))
        store.log_artifacts(folder)  # type: ignore[no-untyped-call]


def _params(spec: Spec, trial: Trial) -> list[Param]:
    cell = trial.cell
    params = {
        "model": cell.model,
        "data": cell.data,
        "method": cell.method,
        "target": "+".join(cell.target),
        "controls": ",".join(cell.controls),
        "sparsity": repr(cell.sparsity),
        "seed": str(spec.seed + cell.seed),
        "rounds": str(cell.rounds),
        "layout": cell.layout,
        "training_seed": str(trial.training_seed),
        **{f"{ALPHA}{name}": str(level) for name, level in zip(cell.controls, trial.alpha, strict=True)},
        **{f"{WEIGHT}{name}": str(weight) for name, weight in zip(cell.target, trial.weights, strict=True)},
    }
    return [Param(*item) for item in params.items()]


def _curves(epoch: Epoch) -> list[Metric]:
    now = int(time.time() * 1000)
    values = {"training_loss": epoch.training_loss, "validation_accuracy": epoch.validation_accuracy}
    return [Metric(f"epoch_{name}", value, now, epoch.number) for name, value in values.items()]


def _known(run: Run) -> Known:
    def numbers(prefix: str) -> dict[str, float]:
        params: dict[str, str] = run.data.params
        return {name.removeprefix(prefix): float(text) for name, text in params.items() if name.startswith(prefix)}

    tags = run.data.tags
    outcome = run.data.metrics if run.info.status == "FINISHED" else None
    return Known(tags[TRIAL], tags.get(STUDY, ""), numbers(ALPHA), numbers(WEIGHT), outcome)
