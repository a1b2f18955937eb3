"""Runs, metrics and mask files in MLflow. The only file here that imports it.

A sweep is a parent run, each trial a child run. A search trial's run holds its mask file; confirmations of the same
mask carry the same `cops.mask` tag, the content key that the API calls the mask's id.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from jobs.errors import UserError
from jobs.identity import mask_key, recipe_key, trial_key
from jobs.plan import Kind, Trial
from jobs.spec import Spec
from jobs.trial import Result

logging.getLogger("mlflow").setLevel(logging.ERROR)

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's UI nests runs
MASK_FILE = "mask.cops"
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


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


class Tracker:
    """Writes the runs of one sweep, and reads those of all; speaks HTTP to the MLflow server."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(uri)

    def start_sweep(self, spec: Spec) -> str:
        """Create the sweep's parent run, and the experiment if there is none; the run's id.

        Raises:
            UserError: the server does not answer or refuses.
        """
        try:
            found = self._client.get_experiment_by_name(spec.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(spec.experiment)
            run = self._client.create_run(experiment, run_name=spec.name, tags={"cops.kind": "sweep"})
            sweep = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
            self._client.log_text(run.info.run_id, sweep, "sweep.yaml")
        except MlflowException as error:
            raise UserError(f"MLflow at {self._client.tracking_uri} cannot be used: {error.message}") from None
        return str(run.info.run_id)

    def page(self, sweep: str) -> str:
        """Address of the sweep's page in MLflow's UI."""
        return f"{self._client.tracking_uri}/#/experiments/{self._experiment(sweep)}/runs/{sweep}"

    def end_sweep(self, sweep: str, status: RunStatus) -> None:
        """End the parent run, and as failed whatever child a lost worker left running."""
        children = f"tags.`{PARENT}` = '{sweep}' and attributes.status = 'RUNNING'"
        for run in self._search([self._experiment(sweep)], children):
            self._client.set_terminated(run.info.run_id, "FAILED")
        self._client.set_terminated(sweep, status)

    def log_trial(self, spec: Spec, sweep: str, trial: Trial, result: Result, started: float) -> str:
        """Record a finished trial under its sweep; `started` in seconds since the epoch. The run's id.

        The run becomes a mask's run, by its tag, only after the mask file is whole.
        """
        run = self._start_trial(spec, sweep, trial, started)
        try:
            if result.mask is not None and trial.kind != "ablation":  # its accuracy says nothing about the mask
                if trial.kind == "search":
                    with tempfile.TemporaryDirectory() as folder:
                        path = Path(folder, MASK_FILE)
                        result.mask.save(path)
                        self._client.log_artifact(run, str(path))
                    self._client.log_dict(run, {"layer_density": result.layer_density}, "layers.json")
                self._client.set_tag(run, "cops.mask", mask_key(spec, trial))
            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, 0) for name, value in result.metrics.items()]
            for name, values in result.curves.items():
                curve = f"epoch_{name}"
                metrics += [Metric(curve, value, now, epoch) for epoch, value in enumerate(values, start=1)]
            for first in range(0, len(metrics), 1000):  # MLflow's limit per request
                self._client.log_batch(run, metrics[first : first + 1000])
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FINISHED")
        return run

    def log_failure(self, spec: Spec, sweep: str, trial: Trial, reason: str, started: float) -> str:
        """Record that a trial failed, and why; the run's id."""
        run = self._start_trial(spec, sweep, trial, started)
        self._client.set_tag(run, "cops.error", reason[:5000])
        self._client.set_terminated(run, "FAILED")
        return run

    def records(
        self, *, model: str | None = None, data: str | None = None, mask: str | None = None
    ) -> Iterator[Record]:
        """All finished trials that have a mask, or those of one model, data set or mask; newest first."""
        wanted = {"params.model": model, "params.data": data, "tags.`cops.mask`": mask}
        terms = [f"{key} = '{value}'" for key, value in wanted.items() if value is not None]
        finished = " and ".join(["attributes.status = 'FINISHED'", "tags.`cops.kind` != 'sweep'", *terms])
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        for run in self._search(experiments, finished):
            tags = run.data.tags
            if "cops.mask" in tags:
                kind: Kind = "search" if tags["cops.kind"] == "search" else "confirmation"
                keys = tags[PARENT], tags["cops.mask"], tags["cops.recipe"], tags["cops.trial"]
                yield Record(run.info.run_id, *keys, kind, run.data.params, run.data.metrics)

    def mask_file(self, run: str, folder: Path) -> Path:
        """Fetch the mask file of a search trial's run into `folder`; its path."""
        return Path(self._client.download_artifacts(run, MASK_FILE, str(folder)))

    def _experiment(self, run: str) -> str:
        return str(self._client.get_run(run).info.experiment_id)

    def _start_trial(self, spec: Spec, sweep: str, trial: Trial, started: float) -> str:
        tags = {
            PARENT: sweep,
            "cops.kind": trial.kind,
            "cops.trial": trial_key(spec, trial),
            "cops.recipe": recipe_key(spec),
        }
        run = self._client.create_run(self._experiment(sweep), int(started * 1000), tags, trial.name)
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
            **{f"alpha_{name}": str(level) for name, level in zip(cell.controls, trial.alpha, strict=True)},
            **{f"weight_{name}": str(weight) for name, weight in zip(cell.target, trial.weights, strict=True)},
        }
        self._client.log_batch(run.info.run_id, params=[Param(*item) for item in params.items()])
        return str(run.info.run_id)

    def _search(self, experiments: list[str], query: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return
