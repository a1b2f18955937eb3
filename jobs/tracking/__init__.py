"""Runs, metrics and files in MLflow. The only package that imports it."""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that is away, or whose database is, is asked again after 0, 2, 4, ... 64 and then every 120 s: for 8 minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")

from mlflow.exceptions import MlflowException as TrackingError

from jobs.tracking.artifacts import check as check_store
from jobs.tracking.entities import (
    LAYERS_FILE,
    LOG_FILE,
    MASK_FILE,
    SWEEP_FILE,
    WEIGHTS_FILE,
    DamagedFileError,
    Record,
    RunStatus,
    Session,
    StoreError,
    SupersededError,
    SweepRun,
    TrialRun,
    Wish,
)
from jobs.tracking.runs import Runs
from jobs.tracking.sweeps import Sweeps
from jobs.tracking.tracker import Tracker

__all__ = [
    "LAYERS_FILE",
    "LOG_FILE",
    "MASK_FILE",
    "SWEEP_FILE",
    "WEIGHTS_FILE",
    "DamagedFileError",
    "Record",
    "RunStatus",
    "Runs",
    "Session",
    "StoreError",
    "SupersededError",
    "SweepRun",
    "Sweeps",
    "Tracker",
    "TrackingError",
    "TrialRun",
    "Wish",
    "check_store",
]

logging.getLogger("mlflow").setLevel(logging.ERROR)
