"""Sweeps as Ray jobs, through the job API of a cluster. The only file here that imports Ray."""

import os
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ID = re.compile(r"cops-(?P<sweep>[0-9a-f]{32})-(?P<number>\d+)")
FILE = "sweep.yaml"
ENTRYPOINT = f"python -m jobs {FILE}"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class ClusterError(Exception):
    """Ray's server of jobs does not answer, or refuses."""


class TakenError(Exception):
    """There is a job of this id already."""


@dataclass(frozen=True)
class Job:
    """A Ray job that runs, or ran, a sweep.

    Args:
        status: Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's, e.g. why it failed.
        started: in seconds since 1970; None before.
    """

    id: str
    sweep: str
    name: str
    status: str
    message: str
    started: float | None
    ended: float | None

    @property
    def active(self) -> bool:
        """Whether it runs or waits."""
        return self.status not in ENDED

    @property
    def number(self) -> int:
        """Which of the sweep's jobs it is, from 1."""
        return int(self.id.rpartition("-")[2])


class Launcher:
    """Jobs of the cluster whose server of jobs is at `address`; every method may raise ClusterError."""

    def __init__(self, address: str) -> None:
        self.address = address

    @cached_property
    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient  # a second, and 100 MB

        try:
            return JobSubmissionClient(self.address)
        except (ConnectionError, RuntimeError, OSError) as error:
            raise self._error(error) from None

    def check(self) -> None:
        """Ask whether the server is there."""
        try:
            self._client.get_version()
        except (RuntimeError, OSError) as error:
            raise self._error(error) from None

    def jobs(self, sweep: str | None = None) -> list[Job]:
        """All jobs of sweeps, or those of one; the newest first."""
        try:
            every = self._client.list_jobs()
        except (RuntimeError, OSError) as error:
            raise self._error(error) from None
        found = [job for details in every if (job := _job(details)) and sweep in (None, job.sweep)]
        return sorted(found, key=lambda job: (job.started or float("inf"), job.number), reverse=True)

    def submit(self, sweep: str, number: int, name: str, text: str) -> str:
        """Start the sweep of a file's text, as its job of this number; the job's id.

        The code is the cluster's: nothing but the file is sent.

        Raises:
            TakenError: someone else has just done that.
        """
        id_ = f"cops-{sweep}-{number}"
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, FILE).write_text(text, encoding="utf-8")
            try:
                self._client.submit_job(
                    entrypoint=ENTRYPOINT,
                    submission_id=id_,
                    runtime_env={"working_dir": folder},
                    metadata={"sweep": sweep, "name": name},
                )
            except (RuntimeError, OSError) as error:
                if "already exists" in str(error):
                    raise TakenError(id_) from None
                raise self._error(error) from None
        return id_

    def stop(self, job: str) -> None:
        """End a job: it hears SIGTERM and, three seconds later, is killed."""
        try:
            self._client.stop_job(job)
        except (RuntimeError, OSError) as error:
            raise self._error(error) from None

    def log(self, job: str) -> str:
        """What a job has printed so far."""
        try:
            return str(self._client.get_job_logs(job))
        except (RuntimeError, OSError) as error:
            raise self._error(error) from None

    async def follow(self, job: str) -> AsyncIterator[str]:
        """What a job prints, until it ends."""
        try:
            async for text in self._client.tail_job_logs(job):
                yield text
        except (RuntimeError, OSError) as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> ClusterError:
        return ClusterError(f"Ray's server of jobs at {self.address} does not answer, or refuses: {error}")


def _job(details: "JobDetails") -> Job | None:
    parts = ID.fullmatch(details.submission_id or "")
    if parts is None:
        return None
    return Job(
        id=details.submission_id,
        sweep=parts["sweep"],
        name=(details.metadata or {}).get("name", ""),
        status=str(details.status.value if hasattr(details.status, "value") else details.status),
        message=details.message or "",
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )
