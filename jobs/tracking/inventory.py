"""All that MLflow knows of runs and their files, deleted ones included: what retention needs."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from mlflow.entities import ViewType

from jobs.spec import Spec
from jobs.tracking.artifacts import download
from jobs.tracking.entities import KIND, SWEEP_FILE
from jobs.tracking.runs import Runs


@dataclass(frozen=True)
class Known:
    """A run.

    Args:
        kind: what it is to COPS; empty for another program's run.
        status: MLflow's word, e.g. RUNNING.
        deleted: in MLflow, where it can be restored.
        artifacts: where its files are.
    """

    id: str
    name: str
    kind: str
    status: str
    deleted: bool
    artifacts: str


class Inventory(Runs):
    """Reads all runs."""

    def runs(self) -> Iterator[Known]:
        """Every run of every experiment, deleted ones too."""
        experiments = self._client.search_experiments(view_type=ViewType.ALL)
        gone = {one.experiment_id for one in experiments if one.lifecycle_stage == "deleted"}
        token: str | None = None
        while experiments:
            ids = [one.experiment_id for one in experiments]
            page = self._client.search_runs(ids, "", ViewType.ALL, max_results=1000, page_token=token)
            for run in page:
                deleted = run.info.lifecycle_stage == "deleted" or run.info.experiment_id in gone
                told = run.info.run_name or "", run.data.tags.get(KIND, ""), run.info.status
                yield Known(run.info.run_id, *told, deleted, run.info.artifact_uri)
            token = page.token
            if not token:
                return

    def folders(self) -> list[str]:
        """Where the files of each experiment's runs are, in a folder for each run."""
        return [str(one.artifact_location) for one in self._client.search_experiments(view_type=ViewType.ALL)]

    def registered(self) -> dict[str, str]:
        """Of each run that a version in the model registry names, that version: it lies among the run's files."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_model_versions(max_results=1000, page_token=token)
            told = {one.run_id: f"version {one.version} of the registered model '{one.name}'" for one in page}
            found |= {run: version for run, version in told.items() if run}  # others' may have none
            token = page.token
            if not token:
                return found

    def sweep_file(self, sweep: Known) -> Spec:
        """The file of a sweep.

        Raises:
            Exception: it cannot be read, in whichever way.
        """
        with tempfile.TemporaryDirectory() as folder:
            text = download(sweep.artifacts, SWEEP_FILE, Path(folder)).read_text()
        return Spec.model_validate(yaml.safe_load(text))
