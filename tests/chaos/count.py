"""What is left of sweeps under fire, and whether it is all that there should be."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from cops import Mask
from jobs.identity import study_key
from jobs.plan import cells
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.tracking import Runs
from jobs.tracking.entities import WEIGHTS_FILE

SWEEP: dict[str, Any] = {
    "workloads": [{"model": "convnet", "data": "digits"}],
    "grid": {
        "pairs": [{"target": "snip", "controls": ["grasp"]}, {"target": ["snip", "synflow"], "controls": ["grasp"]}],
        "sparsities": [0.8, 0.9, 0.95],
    },
    "baselines": ["dense", "random", "snip"],
    "search": {"trials": 12},
    "training": {"epochs": 1},
    "samples": 256,
    "confirmations": 2,
    "failures": {"retries": 1000, "backoff_seconds": 0},
}


def count(settings: Settings, uri: str, specs: list[Spec]) -> dict[str, int]:
    """What is left of the sweeps: how many trials there should be, and how many are as they should."""
    client, records = MlflowClient(uri), Runs(uri)
    names = {spec.experiment for spec in specs}
    experiments = [one.experiment_id for one in client.search_experiments() if one.name in names]
    runs: list[Run] = []
    token = ""
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    finished = [run for run in runs if run.info.status == "FINISHED" and "cops.trial" in run.data.tags]
    times = Counter(run.data.tags["cops.trial"] for run in finished)
    masks: dict[str, Mask] = {}
    unreadable = misfits = 0
    with tempfile.TemporaryDirectory() as folder:
        for run in finished:
            if run.data.tags["cops.kind"] == "search" and "cops.mask" in run.data.tags:
                try:
                    assert run.data.tags["cops.mask_sha256"]
                    masks[run.data.tags["cops.mask"]] = Mask.load(records.mask_file(run.info.run_id, Path(folder)))
                except Exception:
                    unreadable += 1
        for run in finished:
            if "cops.weights_sha256" in run.data.tags:
                file = client.download_artifacts(run.info.run_id, WEIGHTS_FILE, folder)
                misfits += not _fits(Path(file), masks[run.data.tags["cops.mask"]])
    return {
        "planned": sum(Search(spec).planned for spec in specs),
        "finished": len(times),
        "twice": sum(times.values()) - len(times),
        "unreadable": unreadable,
        "misfits": misfits,
        "running": sum(run.info.status == "RUNNING" for run in runs),
        "incomplete_studies": sum(_incomplete(settings, spec) for spec in specs),
    }


def _fits(file: Path, mask: Mask) -> bool:
    """Whether a trained network has exactly the zeros of its mask, which another process computed."""
    weights = load_file(file)
    return all(torch.equal(weights[name] != 0, kept) for name, kept in mask.kept.items())


def _incomplete(settings: Settings, spec: Spec) -> int:
    found = 0
    for cell in cells(spec):
        study = optuna.load_study(study_name=study_key(spec, cell), storage=settings.studies_url)
        states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
        keys = {trial.user_attrs["cops.trial"] for trial in study.get_trials(deepcopy=False)}
        wanted = spec.search.trials if cell.tunable else 1
        found += not (states["COMPLETE"] >= wanted == len(keys)) or states["RUNNING"] > 0
    return found


def right(found: dict[str, int]) -> bool:
    """Whether nothing is lost, nothing done twice, and nobody let in who should not be."""
    lost = ("twice", "unreadable", "misfits", "running", "incomplete_studies", "disagreeing")
    wrong = (*lost, "needless_starts", "open_to_strangers", "closed_to_us")
    return found["planned"] == found["finished"] and not any(found.get(name) for name in wrong)
