"""Writes what happens in a sweep to MLflow.

A sweep is a parent run, each trial a child run. A search trial's run holds its mask file; confirmations of the same
mask carry the same `cops.mask` tag, the content key that the API calls the mask's id.
"""

import json
import math
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from jobs.errors import UserError
from jobs.identity import mask_key, recipe_key, study_key, sweep_key, trial_key
from jobs.known import Known
from jobs.plan import Trial
from jobs.provenance import Provenance
from jobs.spec import Spec
from jobs.tracking.artifacts import save_mask, save_weights, upload
from jobs.tracking.entities import (
    ALPHA,
    CONTROL,
    ERROR,
    KIND,
    MASK,
    MASK_SHA256,
    PARENT,
    PROGRESS,
    RECIPE,
    SESSION,
    SPENT,
    STOPPED,
    STUDY,
    SWEEP,
    SWEEP_FILE,
    TAG_CHARACTERS,
    TRIAL,
    WEIGHT,
    WEIGHTS_SHA256,
    RunStatus,
    Session,
    SupersededError,
    TrialRun,
)
from jobs.tracking.origin import data_input, origin_tags
from jobs.tracking.runs import known
from jobs.tracking.sweeps import Sweeps
from jobs.trial import Epoch, Result

MOST_METRICS = 1000  # of one request
ASK_SECONDS = 1.0  # between two times that a worker asks whose the sweep is: each is a request
FENCE_SECONDS = ASK_SECONDS + 2.0  # in which a worker of a killed driver ends the trials that its last answer lets it


class Tracker(Sweeps):
    """Writes the runs of one sweep, too."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._ours_until = -math.inf  # on the monotonic clock: no need to ask whose the sweep is before

    def start_sweep(self, spec: Spec, origin: Provenance | None = None) -> Session:
        """Take up the sweep's parent run, or create it, and the experiment if there is none; say where it comes from.

        Raises:
            UserError: the server does not answer or refuses.
        """
        key, id_ = sweep_key(spec), secrets.token_hex(8)
        ours, each = origin_tags(spec, origin)
        tags = {KIND: "sweep", SWEEP: key, SESSION: id_, CONTROL: "", **ours}
        try:
            found = self._client.get_experiment_by_name(spec.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(spec.experiment)
            earlier = next(self._search([experiment], f"tags.`{SWEEP}` = '{key}'"), None)
            if earlier is None:
                created = self._client.create_run(experiment, run_name=spec.name, tags=tags).info
                _keep_file(created.artifact_uri, spec)
                return Session(created.run_id, experiment, id_, resumed=False, spent={}, tags=each)
            run = earlier.info.run_id
            _keep_file(earlier.info.artifact_uri, spec)  # its first driver may have been killed before
            self._client.log_batch(run, tags=[RunTag(*item) for item in tags.items()])
            if earlier.info.status == "RUNNING":  # its driver was killed
                time.sleep(FENCE_SECONDS)
            self._client.update_run(run, "RUNNING")
            self.end_lost(Session(run, experiment, id_, resumed=True, spent={}))
        except MlflowException as error:
            raise UserError(f"MLflow at {self.uri} cannot be used: {error.message}") from None
        spent = json.loads(earlier.data.tags.get(SPENT, "{}"))
        return Session(run, experiment, id_, resumed=True, spent=spent, tags=each)

    def end_sweep(self, session: Session, status: RunStatus, progress: dict[str, Any] | None = None) -> None:
        """End the parent run, and whatever child a lost worker left running, unless another session has the sweep.

        The `progress` noted last was that of the moment; if given, the one at the end takes its place.
        """
        if self.wish(session.run).session == session.id:
            self.end_lost(session)
            if progress is not None:
                self.note(session, progress)
            self._client.set_terminated(session.run, status)

    def end_lost(self, session: Session) -> None:
        """End as killed the trials of the sweep that are still running for MLflow, though nobody runs them."""
        children = f"tags.`{PARENT}` = '{session.run}' and attributes.status = 'RUNNING'"
        for run in list(self._search([session.experiment], children)):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def note(self, session: Session, progress: dict[str, Any], spent: dict[str, float] | None = None) -> None:
        """Note how far a sweep is, and what it has used up so far."""
        tags = [RunTag(PROGRESS, _fitting(progress | {"session": session.id, "at": time.time()}))]
        tags += [RunTag(SPENT, json.dumps(spent))] if spent is not None else []
        self._client.log_batch(session.run, tags=tags)

    def start_trial(self, spec: Spec, session: Session, trial: Trial) -> TrialRun:
        """Create the run of a trial that starts now."""
        tags = {
            PARENT: session.run,
            KIND: trial.kind,
            TRIAL: trial_key(spec, trial),
            STUDY: study_key(spec, trial.cell),
            RECIPE: recipe_key(spec),
            **session.tags,
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
                digest = save_mask(run.artifacts, result.mask, result.layer_density)
                tags.append(RunTag(MASK_SHA256, digest))
            if result.trained is not None:
                tags.append(RunTag(WEIGHTS_SHA256, save_weights(run.artifacts, result.trained)))
            tags.append(RunTag(MASK, mask_key(spec, trial)))
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
        self._client.set_tag(run, ERROR, reason[:5000])
        self._client.set_terminated(run, "FAILED")

    def stop_trial(self, spec: Spec, trial: Trial, run: str, epoch: int) -> None:
        """Record that a trial was stopped early, after `epoch`: never counted as finished, never run again."""
        self._log(run, [], _params(spec, trial), [RunTag(STOPPED, str(epoch))])
        self._client.set_terminated(run, "KILLED")

    def log_folder(self, session: Session, folder: Path) -> None:
        """Keep all files of a folder with the sweep's run."""
        upload(self._client.get_run(session.run).info.artifact_uri, folder)

    def log_data(self, session: Session, name: str, arrays: Mapping[str, Any]) -> None:
        """Record what data a sweep reads, as `Dataset.to_arrays` gives them; no sweep fails for want of it."""
        with suppress(MlflowException):
            self._client.log_inputs(session.run, [data_input(name, arrays)])

    def look_up(self, session: Session, key: str) -> tuple[Known | None, bool]:
        """How a trial whose worker was lost ended after all, if it did, and whether it had been started.

        Its run is ended as killed if it did not.
        """
        ended, started = None, False
        for run in list(self._search([session.experiment], f"tags.`{TRIAL}` = '{key}'")):
            if run.info.status == "FINISHED":
                ended = known(run)
            elif run.info.status == "RUNNING" and run.data.tags.get(PARENT) == session.run:
                started = True
                self._client.set_terminated(run.info.run_id, "KILLED")
        return ended, started

    def _log(
        self, run: str, metrics: Sequence[Metric], params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        self._client.log_batch(run, metrics[:MOST_METRICS], params, tags)
        for first in range(MOST_METRICS, len(metrics), MOST_METRICS):
            self._client.log_batch(run, metrics[first : first + MOST_METRICS])


def _fitting(progress: dict[str, Any]) -> str:
    """As a tag's value, without the last of its best cells where they are too many."""
    text, best = json.dumps(progress), list(progress["best"])
    while len(text) > TAG_CHARACTERS and best:
        best = best[: len(best) * 3 // 4]
        text = json.dumps(progress | {"best": best})
    return text


def _keep_file(where: str, spec: Spec) -> None:
    """Keep the sweep file, with all its defaults, among the files of the sweep's run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, SWEEP_FILE).write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
        upload(where, Path(folder))


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
    options: dict[str, tuple[Any, Any]] = {  # value and default
        "samples": (spec.samples, None),
        "pruning": (spec.pruning.model_dump(mode="json", exclude_defaults=True), {}),
        "scoring": (spec.scoring.model_dump(mode="json", exclude_defaults=True), {}),
    }
    params |= {
        name: json.dumps(value, separators=(",", ":")) for name, (value, default) in options.items() if value != default
    }
    return [Param(*item) for item in params.items()]


def _curves(epoch: Epoch) -> list[Metric]:
    now = int(time.time() * 1000)
    values = {"training_loss": epoch.training_loss, "validation_accuracy": epoch.validation_accuracy}
    return [Metric(f"epoch_{name}", value, now, epoch.number) for name, value in values.items()]
