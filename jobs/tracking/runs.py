"""What MLflow knows of all sweeps: read only."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from jobs.errors import UserError
from jobs.known import Known
from jobs.plan import Kind
from jobs.spec import Spec
from jobs.tracking.artifacts import download
from jobs.tracking.entities import (
    ALPHA,
    CONTROL,
    KIND,
    LAYERS_FILE,
    MASK,
    MASK_FILE,
    MASK_SHA256,
    PARENT,
    RECIPE,
    SESSION,
    STOPPED,
    STUDY,
    TRIAL,
    WEIGHT,
    WEIGHTS_SHA256,
    Record,
    Session,
    Wish,
)

PAGE = 1000  # runs of one answer
MOST_IDS = 200  # of one question
FINISHED_MASK = f"attributes.status = 'FINISHED' and tags.`{MASK}` != ''"
# Without these it is no run of ours, whatever its tags say.
NEEDED_TAGS = {PARENT, MASK, RECIPE, TRIAL, KIND}
NEEDED_PARAMS = {"model", "data", "method", "target", "controls", "sparsity", "seed"}
NEEDED_METRICS = {"sparsity", "validation_accuracy"}
KEPT_METRICS = (  # of a record: a catalog of many thousands has no use for the rest
    *("sparsity", "validation_accuracy", "test_accuracy", "flops_share", "dead_share", "emptied_layers"),
    "gradient_norm_ratio",
)


class Runs:
    """Reads the runs of all sweeps; speaks HTTP to the MLflow server at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = MlflowClient(uri)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Workers get the address, and speak to the server themselves."""
        return type(self), (self.uri,)

    def server_version(self) -> str:
        """What the server says its version is, asked with our user and password; `HTTP status N` if it says none.

        Raises:
            UserError: the server does not answer.
        """
        try:
            ours = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
            answer = http_request(ours, "/version", "GET", max_retries=1, timeout=10)  # type: ignore[no-untyped-call]
        except MlflowException as error:
            raise UserError(f"MLFLOW_TRACKING_URI = '{self.uri}' does not answer: {error.message}") from None
        return answer.text[:100].strip() if answer.ok else f"HTTP status {answer.status_code}"

    def page(self, session: Session) -> str:
        """Address of the sweep's page in MLflow's UI."""
        return f"{self.uri}/#/experiments/{session.experiment}/runs/{session.run}"

    def wish(self, sweep: str) -> Wish:
        """What is wanted of a sweep now."""
        tags = self._client.get_run(sweep).data.tags
        return Wish(tags.get(SESSION, ""), tags.get(CONTROL, ""))

    def known(self, spec: Spec, since: int = 0, beside: Session | None = None) -> dict[str, Known]:
        """All trials on the sweep's workloads that finished or were stopped early, in whichever sweep, by key.

        Args:
            spec: the sweep.
            since: only what ended at this time or later, in milliseconds since 1970 by the clock of who ended it.
            beside: only what other sweeps than this one ended.
        """
        found: dict[str, Known] = {}
        only = [f"attributes.end_time >= {since}"] if since else []
        only += [f"tags.`{PARENT}` != '{beside.run}'"] if beside else []
        for workload in spec.workloads:
            names = {"params.model": str(workload.model), "params.data": str(workload.data)}
            where = only + [f"{name} = '{value}'" for name, value in names.items() if "'" not in value]
            for ended in ("attributes.status = 'FINISHED'", f"tags.`{STOPPED}` != ''"):
                for run in self._search(self._experiments(), " and ".join([*where, ended])):
                    if TRIAL in run.data.tags:
                        one = known(run)
                        found[one.key] = one if one.outcome is not None else found.get(one.key, one)
        return found

    def layer_densities(self, key: str) -> dict[str, float]:
        """Fraction kept by parameter name, of a trial with a mask that any sweep finished; empty if there is none."""
        finished = f"tags.`{TRIAL}` = '{key}' and attributes.status = 'FINISHED'"
        for run in self._search(self._experiments(), finished):
            with tempfile.TemporaryDirectory() as folder, suppress(MlflowException, OSError):
                file = self._client.download_artifacts(run.info.run_id, LAYERS_FILE, folder)
                densities: dict[str, float] = json.loads(Path(file).read_text())["layer_density"]
                return densities
        return {}

    def records(self) -> Iterator[list[Record]]:
        """All finished trials that have a mask, page by page."""
        return self._records("start_time", 0)

    def ended(self, since: int) -> Iterator[list[Record]]:
        """Those that ended at `since`, in milliseconds since 1970, or later, page by page."""
        return self._records("end_time", since)

    def those(self, runs: Iterable[str]) -> Iterator[list[Record]]:
        """Those among some runs, by their ids; neither the deleted nor the unknown."""
        remaining = iter(sorted(runs))
        while ids := list(islice(remaining, MOST_IDS)):
            quoted = ", ".join(f"'{run}'" for run in ids)
            found = self._search(self._experiments(), f"{FINISHED_MASK} and attributes.run_id IN ({quoted})")
            yield [record for run in found if (record := _record(run))]

    def deleted(self) -> set[str]:
        """Ids of the runs that were deleted, alone or with their experiment, and can still be restored."""
        experiments = self._experiments(ViewType.ALL)
        return {run.info.run_id for run in self._search(experiments, FINISHED_MASK, ViewType.DELETED_ONLY)}

    def _records(self, time: Literal["start_time", "end_time"], since: int) -> Iterator[list[Record]]:
        """Records page by page, by a time rather than by page number, which runs that come and go would shift."""
        experiments, token = self._experiments(), None
        while True:
            query = f"{FINISHED_MASK} and attributes.{time} >= {since}"
            order = [f"attributes.{time} ASC"]
            page = self._client.search_runs(experiments, query, max_results=PAGE, order_by=order, page_token=token)
            yield [record for run in page if (record := _record(run))]
            if not page.token:
                return
            last = getattr(page[-1].info, time)
            token = page.token if last == since else None  # a page of one millisecond: on by number
            since = last

    def mask_file(self, run: str, folder: Path) -> Path:
        """Fetch the mask file of a search trial's run into `folder`; its path.

        Raises:
            DamagedFileError: it is not the file that was stored.
        """
        found = self._client.get_run(run)
        return download(found.info.artifact_uri, MASK_FILE, folder, found.data.tags.get(MASK_SHA256))

    def artifact_root(self, experiment: str) -> str:
        """Where the files of an experiment's runs are, or will be if there is none of this name.

        Raises:
            UserError: the server does not answer or refuses.
        """
        try:
            found = self._client.get_experiment_by_name(experiment)
            if found is not None:
                return str(found.artifact_location)
            return str(self._client.get_experiment("0").artifact_location).rpartition("/")[0]  # MLflow's Default
        except MlflowException as error:
            raise UserError(f"MLflow at {self.uri} cannot be used: {error.message}") from None

    def _experiments(self, view: int = ViewType.ACTIVE_ONLY) -> list[str]:
        found, token = [], None
        while True:
            page = self._client.search_experiments(view, page_token=token)
            found += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return found

    def _search(self, experiments: list[str], query: str, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, query, view, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _record(run: Run) -> Record | None:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    if not (tags.keys() >= NEEDED_TAGS and params.keys() >= NEEDED_PARAMS and metrics.keys() >= NEEDED_METRICS):
        return None
    kind: Kind = "search" if tags[KIND] == "search" else "confirmation"
    return Record(
        run=run.info.run_id,
        sweep=tags[PARENT],
        mask=tags[MASK],
        recipe=tags[RECIPE],
        trial=tags[TRIAL],
        kind=kind,
        params=params,
        metrics={name: metrics[name] for name in KEPT_METRICS if name in metrics},
        ended=run.info.end_time or 0,
        mask_sha256=tags.get(MASK_SHA256),
        weights_sha256=tags.get(WEIGHTS_SHA256),
    )


def known(run: Run) -> Known:
    """A trial's end, from its run."""

    def numbers(prefix: str) -> dict[str, float]:
        params: dict[str, str] = run.data.params
        return {name.removeprefix(prefix): float(text) for name, text in params.items() if name.startswith(prefix)}

    tags = run.data.tags
    outcome = run.data.metrics if run.info.status == "FINISHED" else None
    return Known(tags[TRIAL], tags.get(STUDY, ""), numbers(ALPHA), numbers(WEIGHT), outcome)
