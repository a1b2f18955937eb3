"""Start, watch, stop and resume sweeps: what MLflow knows of them, and Ray's jobs that run them."""

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import yaml

from jobs import control
from jobs.errors import UserError
from jobs.identity import sweep_key
from jobs.spec import Spec
from jobs.tracking import LOG_FILE, SWEEP_FILE, SweepRun, Sweeps, TrackingError
from service.allowed import forbidden
from service.launcher import ClusterError, Job, Launcher, TakenError
from service.problems import ProblemError
from service.sweeps import SweepStatus, answers, latest, status
from service.tokens import Scope

COUNT_SECONDS = 10.0  # for which a count of sweeps is good enough


class Steering:
    """Sweeps of one MLflow server and one Ray cluster.

    Args:
        launcher: None where there is no cluster.
        folders: whose data sets a sweep may name without the scope admin.
    """

    def __init__(self, runs: Sweeps, launcher: Launcher | None, folders: Sequence[PurePosixPath]) -> None:
        self._runs, self._launcher, self._folders = runs, launcher, folders
        self._counting = threading.Lock()
        self._counted: tuple[float, dict[str, int]] = (0.0, {})

    def every(self) -> list[SweepStatus]:
        """All sweeps, those begun last first."""
        runs, jobs = latest(self._runs.sweeps()), self._jobs()
        newest = {job.sweep: job for job in reversed(jobs)}
        found = [self._status(runs.get(id_), newest.get(id_)) for id_ in {**newest, **runs}]
        return sorted(found, key=lambda one: (one.started or float("inf"), one.id), reverse=True)

    def one(self, id_: str) -> SweepStatus:
        """How a sweep stands."""
        return self._status(*self._find(id_))

    def count(self) -> dict[str, int]:
        """Number of sweeps by state, of some seconds ago; the last known while MLflow is down."""
        with self._counting:
            if time.monotonic() - self._counted[0] > COUNT_SECONDS or not self._counted[0]:
                counts = self._counted[1]
                with suppress(TrackingError):
                    counts = dict(Counter(one.state for one in self.every()))
                self._counted = time.monotonic(), counts
            return self._counted[1]

    def submit(self, spec: Spec, scope: Scope) -> SweepStatus:
        """Start a sweep, or let it go on; the same file is the same sweep."""
        why = forbidden(spec, self._folders)
        if why is not None and scope != "admin":
            raise ProblemError(403, why)
        launcher, id_ = self._cluster(), sweep_key(spec)
        jobs = launcher.jobs(id_)
        run = latest(self._runs.sweeps(id_)).get(id_)
        link = f"/v1/sweeps/{id_}"
        if any(job.active for job in jobs) or answers(run, _newest(jobs), time.time()):
            raise ProblemError(409, f"the sweep {id_} runs already: stop it first, or wait", link=link)
        text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
        try:
            # Of two at once, wherever they were asked, Ray takes one: both give the same number.
            launcher.submit(id_, 1 + max((job.number for job in jobs), default=0), spec.name, text)
        except TakenError:
            raise ProblemError(409, f"the sweep {id_} has just been started by someone else", link=link) from None
        return self.one(id_)

    def resume(self, id_: str, scope: Scope) -> SweepStatus:
        """Let a sweep go on where it ended, by the file that is kept with it."""
        run, _ = self._find(id_)
        text = None if run is None else self._runs.text(run.run, SWEEP_FILE)
        if text is None:
            raise ProblemError(409, f"no sweep file is kept of {id_}: send it again, to /v1/sweeps", link="/v1/sweeps")
        try:
            spec = Spec.parse(text, SWEEP_FILE)
        except UserError as error:
            raise ProblemError(409, f"the sweep file kept of {id_} is not valid here: {error}") from None
        return self.submit(spec, scope)

    def wish(self, id_: str, wish: str) -> SweepStatus:
        """Stop or cancel a sweep; one whose driver does not answer, or has not begun, by ending its job."""
        run, job = self._find(id_)
        state = self._status(run, job).state
        if run is not None and state in ("running", "stopping"):
            {control.STOP: control.stop, control.CANCEL: control.cancel}[wish](self._runs, run.run)
        elif job is not None and state == "pending":
            self._cluster().stop(job.id)
        else:
            raise ProblemError(409, f"the sweep {id_} does not run: it is {state}", link=f"/v1/sweeps/{id_}")
        return self.one(id_)

    def log(self, id_: str) -> str:
        """What a sweep has printed: from the cluster while that knows it, else what is kept with the sweep's run."""
        run, job = self._find(id_)
        if job is not None and self._launcher is not None:
            with suppress(ClusterError):
                return self._launcher.log(job.id)
        text = None if run is None else self._runs.text(run.run, LOG_FILE)
        if text is None:
            raise ProblemError(404, f"no log of the sweep {id_}: there is none before it has ended, but in its cluster")
        return text

    def follow(self, id_: str) -> AsyncIterator[str] | None:
        """What a sweep prints until it ends; None if it does not run as a job."""
        _, job = self._find(id_)
        return self._launcher.follow(job.id) if self._launcher and job is not None and job.active else None

    def check(self) -> None:
        """Ask the cluster, if there is one, whether it answers; raises ClusterError."""
        if self._launcher is not None:
            self._launcher.check()

    def _find(self, id_: str) -> tuple[SweepRun | None, Job | None]:
        run, job = latest(self._runs.sweeps(id_)).get(id_), _newest(self._jobs(id_))
        if run is None and job is None:
            raise ProblemError(404, f"no sweep {id_}: list them with /v1/sweeps")
        return run, job

    def _jobs(self, id_: str | None = None) -> list[Job]:
        """Jobs, newest first; none while there is no cluster: what MLflow knows is told all the same."""
        with suppress(ClusterError):
            return self._launcher.jobs(id_) if self._launcher else []
        return []

    def _cluster(self) -> Launcher:
        if self._launcher is None:
            raise ProblemError(
                503,
                "no Ray cluster is known to this API: set RAY_API_SERVER_ADDRESS to the address of its server of jobs, "
                "e.g. http://127.0.0.1:8265, or start the stack with `cops up`",
            )
        return self._launcher

    def _status(self, run: SweepRun | None, job: Job | None) -> SweepStatus:
        return status(run, job, None if run is None else self._runs.sweep_page(run), time.time())


def _newest(jobs: Sequence[Job]) -> Job | None:
    return jobs[0] if jobs else None
