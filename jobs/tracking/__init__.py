"""Runs, metrics and files in MLflow. The only package that imports it."""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.exceptions import MlflowException as TrackingError

from jobs.tracking.entities import (
    LAYERS_FILE,
    LOG_FILE,
    MASK_FILE,
    SWEEP_FILE,
    Record,
    RunStatus,
    Session,
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
    "Record",
    "RunStatus",
    "Runs",
    "Session",
    "SupersededError",
    "SweepRun",
    "Sweeps",
    "Tracker",
    "TrackingError",
    "TrialRun",
    "Wish",
]

logging.getLogger("mlflow").setLevel(logging.ERROR)
