"""Sweeps as a whole: how they stand, and what is wanted of them."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from jobs.tracking.artifacts import presigned
from jobs.tracking.entities import CONTROL, KIND, PROGRESS, SESSION, SPENT, SWEEP, SweepRun
from jobs.tracking.runs import Runs


class Sweeps(Runs):
    """Reads the runs of sweeps, and their files; says what is wanted of one."""

    def sweeps(self, key: str | None = None) -> Iterator[SweepRun]:
        """All sweeps, or those with this content key; newest first."""
        terms = [f"tags.`{KIND}` = 'sweep'", *([f"tags.`{SWEEP}` = '{key}'"] if key else [])]
        for run in self._search(self._experiments(), " and ".join(terms)):
            if SWEEP in run.data.tags:
                yield _sweep(run)

    def set_control(self, sweep: str, wish: str) -> None:
        """Say what is wanted of a sweep."""
        self._client.set_tag(sweep, CONTROL, wish)

    def file(self, run: str, name: str, folder: Path) -> Path:
        """Fetch a file of a run into `folder`; its path.

        Raises:
            OSError: there is none, or the store does not answer.
        """
        try:
            return Path(self._client.download_artifacts(run, name, str(folder)))
        except MlflowException as error:
            raise OSError(f"{name} of run {run} cannot be read: {error.message}") from error

    def text(self, run: str, name: str) -> str | None:
        """A text file of a run; None if there is none."""
        with tempfile.TemporaryDirectory() as folder, suppress(OSError):
            return self.file(run, name, Path(folder)).read_text(encoding="utf-8", errors="replace")
        return None

    def url(self, run: str, name: str, seconds: int) -> str | None:
        """An address by which anyone may fetch a file of a run for some time; None if the store is not S3."""
        return presigned(self._client.get_run(run).info.artifact_uri, name, seconds)

    def sweep_page(self, sweep: SweepRun) -> str:
        """Address of the sweep's page in MLflow's UI."""
        return f"{self.uri}/#/experiments/{sweep.experiment}/runs/{sweep.run}"


def _sweep(run: Run) -> SweepRun:
    tags, info = run.data.tags, run.info
    return SweepRun(
        run=info.run_id,
        experiment=info.experiment_id,
        key=tags[SWEEP],
        name=info.run_name or "",
        status=info.status,
        started=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        session=tags.get(SESSION, ""),
        control=tags.get(CONTROL, ""),
        spent=_json(tags.get(SPENT, "")),
        progress=_json(tags.get(PROGRESS, "")),
    )


def _json(text: str) -> dict[str, Any]:
    """What a tag holds; nothing if someone changed it by hand."""
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}
