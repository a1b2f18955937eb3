"""What a trial's run says of it, and what is read from the runs of other sweeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from cops import Mask
from jobs.identity import mask_settings, trial_key
from jobs.plan import Trial, cells
from jobs.spec import Spec
from jobs.tracking import Tracker
from jobs.trial import Result
from tests.conftest import SMOKE

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own database code
DENSITY = {"weight": 0.25}


def finished(tracker: Tracker, **changes: Any) -> tuple[str, dict[str, str]]:
    """A search trial of a sweep, put down as finished: its key, and its run's params."""
    spec = Spec.model_validate(Spec.load(SMOKE).model_dump(mode="json") | changes)
    cell = next(cell for cell in cells(spec) if cell.tunable)
    trial = Trial(cell, (1.0,), (0.5,))
    session = tracker.start_sweep(spec)
    run = tracker.start_trial(spec, session, trial)
    mask = Mask({"weight": torch.tensor([True, False, False, False])}, mask_settings(spec, trial))
    result = Result({"validation_accuracy": 0.5, "sparsity": 0.75}, {}, DENSITY, mask)
    tracker.finish_trial(spec, session, trial, run, result, [])
    tracker.end_sweep(session, "FINISHED")
    return trial_key(spec, trial), MlflowClient(tracker.uri).get_run(run.id).data.params


def test_layer_densities_are_those_of_whichever_experiment_ran_the_trial(tracker: Tracker, tmp_path: Path) -> None:
    MlflowClient(tracker.uri).create_experiment("another", tmp_path.as_uri())
    key, _ = finished(tracker, experiment="another")
    assert tracker.layer_densities(key) == DENSITY
    assert tracker.layer_densities("0" * 32) == {}


def test_a_run_says_what_is_not_at_its_default(tracker: Tracker) -> None:
    """Masks of few samples are not to be taken for others."""
    _, plain = finished(tracker, name="plain", seed=12)
    assert plain.keys().isdisjoint({"samples", "pruning", "scoring"})
    changed = {"samples": 32, "pruning": {"exclude": ["classifier*"]}, "scoring": {"batch_size": 32}}
    _, small = finished(tracker, name="small", seed=12, **changed)
    assert small["samples"] == "32"
    assert json.loads(small["pruning"]) == changed["pruning"]
    assert small["scoring"] == '{"batch_size":32}'
    assert plain.items() <= small.items()
