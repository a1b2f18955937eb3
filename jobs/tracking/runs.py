"""What MLflow knows of all sweeps: read only."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

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
    Record,
    Session,
    Wish,
)


class Runs:
    """Reads the runs of all sweeps; speaks HTTP to the MLflow server at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = MlflowClient(uri)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Workers get the address, and speak to the server themselves."""
        return type(self), (self.uri,)

    def page(self, session: Session) -> str:
        """Address of the sweep's page in MLflow's UI."""
        return f"{self.uri}/#/experiments/{session.experiment}/runs/{session.run}"

    def wish(self, sweep: str) -> Wish:
        """What is wanted of a sweep now."""
        tags = self._client.get_run(sweep).data.tags
        return Wish(tags.get(SESSION, ""), tags.get(CONTROL, ""))

    def known(self, spec: Spec) -> dict[str, Known]:
        """All trials on the sweep's workloads that finished or were stopped early, in whichever sweep, by key."""
        found: dict[str, Known] = {}
        for workload in spec.workloads:
            names = {"params.model": str(workload.model), "params.data": str(workload.data)}
            where = [f"{name} = '{value}'" for name, value in names.items() if "'" not in value]
            for ended in ("attributes.status = 'FINISHED'", f"tags.`{STOPPED}` != ''"):
                for run in self._search(self._experiments(), " and ".join([*where, ended])):
                    if TRIAL in run.data.tags:
                        one = known(run)
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

    def records(
        self, *, model: str | None = None, data: str | None = None, mask: str | None = None
    ) -> Iterator[Record]:
        """All finished trials that have a mask, or those of one model, data set or mask; newest first."""
        wanted = {"params.model": model, "params.data": data, f"tags.`{MASK}`": mask}
        terms = [f"{key} = '{value}'" for key, value in wanted.items() if value is not None]
        finished = " and ".join(["attributes.status = 'FINISHED'", f"tags.`{KIND}` != 'sweep'", *terms])
        for run in self._search(self._experiments(), finished):
            tags = run.data.tags
            if MASK in tags:
                kind: Kind = "search" if tags[KIND] == "search" else "confirmation"
                keys = tags[PARENT], tags[MASK], tags[RECIPE], tags[TRIAL]
                yield Record(run.info.run_id, *keys, kind, run.data.params, run.data.metrics)

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

    def _experiments(self) -> list[str]:
        return [experiment.experiment_id for experiment in self._client.search_experiments()]

    def _search(self, experiments: list[str], query: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def known(run: Run) -> Known:
    """A trial's end, from its run."""

    def numbers(prefix: str) -> dict[str, float]:
        params: dict[str, str] = run.data.params
        return {name.removeprefix(prefix): float(text) for name, text in params.items() if name.startswith(prefix)}

    tags = run.data.tags
    outcome = run.data.metrics if run.info.status == "FINISHED" else None
    return Known(tags[TRIAL], tags.get(STUDY, ""), numbers(ALPHA), numbers(WEIGHT), outcome)
