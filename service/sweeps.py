"""How a sweep stands: what MLflow keeps of it, and what Ray says of its job, brought together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a client needs no MLflow
    from jobs.tracking import SweepRun
    from service.launcher import Job

State = Literal["pending", "running", "stopping", "finished", "failed", "stopped", "lost"]
SILENT_SECONDS = 30.0  # after which a driver, which speaks every few seconds, does not live any more

CLOCKS_SECONDS = 5.0  # by which the clocks of two machines may differ


@dataclass(frozen=True)
class BestOfCell:
    """The best mask of a cell so far; the best COPS mask of each sparsity comes first.

    Args:
        name: of the cell, e.g. snip|grasp @0.95.
        validation_accuracy: mean over the confirmations where there are some, else of the search run, which flatters.
    """

    name: str
    model: str
    data: str
    sparsity: float
    validation_accuracy: float
    confirmed: bool


@dataclass(frozen=True)
class JobStatus:
    """The Ray job that runs the sweep, or ran it last.

    Args:
        status: Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
    """

    id: str
    status: str
    message: str


@dataclass(frozen=True)
class SweepStatus:
    """How a sweep stands.

    Args:
        id: content key of the sweep file, 32 hex digits.
        state: pending (its job has begun nothing yet), running, stopping, finished, failed, stopped (can be resumed) or
            lost (its driver has not spoken for long; can be resumed).
        started: in seconds since 1970, like `ended`.
        counts: trials by state: done, reused, stopped, failed, running, waiting.
        planned: trials in all, as far as is known.
        best: of each cell; of a large sweep, of the first cells.
        eta_seconds: to go; null while nobody knows.
        closed: why nothing new is started.
        spent: hours, GPU hours and trials, over all sessions.
        run: the sweep's run in MLflow; null before there is one.
        page: of that run in MLflow's UI.
        job: null where no Ray job runs it, or the cluster has forgotten it.
    """

    id: str
    name: str
    state: State
    started: float | None
    ended: float | None
    counts: dict[str, int] = field(default_factory=dict)
    planned: int | None = None
    best: list[BestOfCell] = field(default_factory=list)
    eta_seconds: float | None = None
    closed: str | None = None
    spent: dict[str, float] = field(default_factory=dict)
    run: str | None = None
    page: str | None = None
    job: JobStatus | None = None


def answers(run: SweepRun | None, job: Job | None, now: float) -> bool:
    """Whether a process drives the sweep, as a job or not: it has spoken lately, and did not end with its job."""
    if run is None or run.status != "RUNNING" or run.progress.get("session") != run.session:
        return False
    spoke = float(run.progress.get("at", 0))
    over = job is not None and not job.active and (job.ended or 0) > spoke - CLOCKS_SECONDS
    return now - spoke < SILENT_SECONDS and not over


def status(run: SweepRun | None, job: Job | None, page: str | None, now: float) -> SweepStatus:
    """How a sweep stands; at least one of run and job is there."""
    told = None if job is None else JobStatus(job.id, job.status, job.message)
    if run is None:
        assert job is not None  # noqa: S101
        return SweepStatus(job.sweep, job.name, _state(run, job, now), job.started, job.ended, job=told)
    said = run.progress
    state = _state(run, job, now)
    return SweepStatus(
        id=run.key,
        name=run.name,
        state=state,
        started=run.started,
        ended=None if state in ("pending", "running", "stopping") else run.ended,
        counts=said.get("counts", {}),
        planned=said.get("planned"),
        best=[BestOfCell(**one) for one in said.get("best", [])],
        eta_seconds=said.get("eta_seconds") if state == "running" else None,
        closed=said.get("closed"),
        spent=run.spent,
        run=run.run,
        page=page,
        job=told,
    )


def latest(runs: Iterable[SweepRun]) -> dict[str, SweepRun]:
    """The run of each sweep, by its key; of several, which two drivers at once may have made, the newest."""
    found: dict[str, SweepRun] = {}
    for run in runs:
        found.setdefault(run.key, run)
    return found


def _state(run: SweepRun | None, job: Job | None, now: float) -> State:
    active = job is not None and job.active
    if answers(run, job, now):
        assert run is not None  # noqa: S101
        return "stopping" if run.control else "running"
    over = run is not None and run.status != "RUNNING" and (run.ended or 0) > ((job and job.started) or 0)
    if active and not over:  # a job that is over lives on for seconds
        return "pending"
    if run is None:
        assert job is not None  # noqa: S101
        return "failed" if job.status == "FAILED" else "stopped"
    ends: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
    return ends.get(run.status, "lost")
