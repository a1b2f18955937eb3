"""What a sweep leaves in MLflow: the tags and files by which it is found again, and what is read from them."""

from dataclasses import dataclass
from typing import Any, Literal

from jobs.plan import Kind

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's UI nests runs
TRIAL, STUDY, SWEEP = "cops.trial", "cops.study", "cops.sweep"  # content keys
MASK, RECIPE, KIND = "cops.mask", "cops.recipe", "cops.kind"
SESSION, CONTROL, SPENT, STOPPED = "cops.session", "cops.control", "cops.spent", "cops.stopped"
PROGRESS = "cops.progress"
MASK_SHA256, WEIGHTS_SHA256 = "cops.mask_sha256", "cops.weights_sha256"  # of whole files
ERROR = "cops.error"
ALPHA, WEIGHT = "alpha_", "weight_"  # prefixes of params
MASK_FILE = "mask.cops"
LAYERS_FILE = "layers.json"
SWEEP_FILE = "sweep.yaml"
LOG_FILE = "sweep.log"
TAG_CHARACTERS = 8000  # that a tag's value may have
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class SupersededError(Exception):
    """This process no longer has the sweep."""


@dataclass(frozen=True)
class Record:
    """A finished trial that has a mask, as MLflow knows it.

    Args:
        ended: when, in milliseconds since 1970 by the worker's clock.
        mask_sha256: of the mask's file, if the run holds one and it is known.
        weights_sha256: of the trained network's file, if the run holds one.
    """

    run: str
    sweep: str
    mask: str  # content key, as are:
    recipe: str
    trial: str
    kind: Kind
    params: dict[str, str]
    metrics: dict[str, float]
    ended: int = 0
    mask_sha256: str | None = None
    weights_sha256: str | None = None


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


@dataclass(frozen=True)
class SweepRun:
    """A sweep, as MLflow knows it.

    Args:
        key: content key of the sweep.
        status: RUNNING as well if its driver was killed.
        started: first of all, in seconds since 1970, like `ended`.
        session: that has it, or had it last.
        control: what is wanted of it.
        spent: by all sessions so far.
        progress: what the driver said last; see `jobs.progress.summary`.
    """

    run: str
    experiment: str
    key: str
    name: str
    status: str
    started: float
    ended: float | None
    session: str
    control: str
    spent: dict[str, Any]
    progress: dict[str, Any]
