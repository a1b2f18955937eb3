"""Whole sweeps with their real parts: one worker or four, stopped and resumed, studies in PostgreSQL."""

import hashlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import yaml
from mlflow.entities import Run

from jobs import control
from jobs.identity import study_key, trial_key
from jobs.local import mlflow_server
from jobs.plan import cells
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.storage import Studies
from jobs.tracking import Tracker
from tests.conftest import ROOT, Home, new_home, run_command
from tests.jobs.test_search import best_at_030, run_all
from tests.jobs.test_studies import known_of
from tests.postgres import Postgres

TIMEOUT = 240


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def write(folder: Path, name: str, **tree: Any) -> Path:
    file = folder / f"{name}.yaml"
    grid = {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.9]}
    base = {"name": name, "workloads": [{"model": "convnet", "data": "digits"}], "grid": grid}
    file.write_text(yaml.safe_dump(base | tree))
    return file


def workers(number: int) -> dict[str, str]:
    """Ray on this machine with so many cores, whatever the machine has."""
    return {"RAY_OVERRIDE_RESOURCES": f'{{"CPU": {number}}}', "OMP_NUM_THREADS": "1"}


def settings_of(home: Home) -> Settings:
    return Settings(home=home.path, mlflow_port=home.mlflow_port, api_port=home.api_port)


def runs_of(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def at_once(runs: list[Run]) -> int:
    """The most runs that ran at one time."""
    ends = [(run.info.end_time, -1) for run in runs] + [(run.info.start_time, 1) for run in runs]
    now = most = 0
    for _, change in sorted(ends):
        now += change
        most = max(most, now)
    return most


def results(uri: str) -> tuple[dict[str, dict[str, object]], int]:
    """What each finished trial gave, by key: its mask file's digest and metrics; and how many ran at once."""
    runs = [run for run in runs_of(uri) if "cops.trial" in run.data.tags]
    assert {run.info.status for run in runs} == {"FINISHED"}
    found: dict[str, dict[str, object]] = {}
    for run in runs:
        mask = Path(run.info.artifact_uri.removeprefix("file://"), "mask.cops")
        metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith("seconds")}
        digest = hashlib.sha256(mask.read_bytes()).hexdigest() if mask.exists() else None
        found[run.data.tags["cops.trial"]] = {"mask": digest, **metrics}
    assert len(found) == len(runs)
    return found, at_once(runs)


@pytest.mark.timeout(600)  # several sweeps, on whatever machine
def test_one_worker_or_four_give_the_same_bits(tmp_path: Path, postgres: Postgres) -> None:
    """The same sweep in two homes: the same trials, masks and accuracies.

    The second has its studies in PostgreSQL, and finds the scores in the store of the first.
    """
    pairs = [{"target": "snip", "controls": ["grasp"]}, {"target": ["snip", "synflow"], "controls": ["grasp"]}]
    file = write(
        tmp_path,
        "same",
        grid={"pairs": pairs, "sparsities": [0.9, 0.97]},
        baselines=["dense", "snip"],
        search={"trials": 5, "sampler": "grid"},
        training={"epochs": 2},
        samples=128,
        confirmations=1,
    )
    found = []
    shared = {"COPS_STUDIES": postgres.url, "COPS_STORE": (tmp_path / "home1" / "store").as_uri()}
    for number, extra in ((1, {}), (4, shared)):
        home = new_home(tmp_path / f"home{number}")
        with mlflow_server(settings_of(home)) as uri:
            done = run_command(home, "-m", "jobs", str(file), timeout=TIMEOUT, **workers(number), **extra)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("score vectors computed: 0" in done.stdout) == bool(extra)
            found.append(results(uri))
        assert (home.path / "studies.db").exists() != bool(extra)
    (one, alone), (four, together) = found
    assert alone == 1
    assert together > 1
    assert one == four
    assert len(one) == Search(Spec.load(file)).planned
    assert sum(result["mask"] is not None for result in one.values()) > 10

    spec = Spec.load(file)
    for cell in cells(spec):
        study = optuna.load_study(study_name=study_key(spec, cell), storage=postgres.url)
        assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
        assert {trial.user_attrs["cops.trial"] for trial in study.trials} <= four.keys()
        assert len(study.trials) == Search(spec).cells[cell].planned - 1  # but for the confirmation


def test_studies_survive_a_crash_of_the_database(tmp_path: Path, postgres: Postgres) -> None:
    spec = Spec.load(write(tmp_path, "crash", search={"trials": 12, "sampler": "random"}, confirmations=0))
    studies = Studies(postgres.url)
    search = Search(spec, studies=studies)
    for _ in range(6):
        trial = search.ask()
        assert trial is not None
        search.tell(trial, {"validation_accuracy": best_at_030(trial)})
    postgres.stop()  # as a crash: nothing is shut down
    for _ in range(3):
        trial = search.ask()
        assert trial is not None
        search.tell(trial, {"validation_accuracy": best_at_030(trial)})
    time.sleep(0.5)  # for the writer to find that out
    postgres.start()
    run_all(search, best_at_030)
    studies.close()

    studies = Studies(postgres.url)
    again = Search(spec, known_of(spec, search), studies)
    studies.close()
    assert again.finished
    for cell, mine in search.cells.items():
        study = optuna.load_study(study_name=study_key(spec, cell), storage=postgres.url)
        told = [trial.user_attrs["cops.trial"] for trial in study.trials]
        assert sorted(told) == sorted(trial_key(spec, trial) for trial in mine.outcomes)


def session(
    home: Home, uri: str, file: Path, wish: Callable[[Tracker, str], None], enough: Callable[[], object]
) -> str:
    """Start a sweep, and have it stopped or cancelled by its tag once `enough` has come of it; what it said."""
    env = home.environment | workers(2)
    sweep = subprocess.Popen(
        [sys.executable, "-m", "jobs", str(file)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + TIMEOUT
    while not enough():
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (parent,) = (run for run in runs_of(uri) if "cops.sweep" in run.data.tags)
    wish(Tracker(uri), parent.info.run_id)
    said = sweep.communicate(timeout=TIMEOUT)[0]
    assert sweep.returncode == 130
    assert "the same command goes on from here" in said
    assert all(run.info.status != "RUNNING" for run in runs_of(uri))
    return said


@pytest.mark.timeout(600)  # several sweeps, on whatever machine
def test_a_sweep_that_is_stopped_damaged_cancelled_and_resumed(tmp_path: Path) -> None:
    """ASHA ends laggards for good; a budget holds over all sessions; one model whose scores overflow fails alone."""
    budget = 20
    file = write(
        tmp_path,
        "hard",
        workloads=[
            {"model": "convnet", "data": "digits"},
            {"model": "tests.jobs.networks:exploding", "data": "digits"},
        ],
        baselines=["snip"],
        search={"trials": 60, "sampler": "random"},
        stopping={"scheduler": "asha", "reduction_factor": 2},
        training={"epochs": 100},
        samples=200,
        confirmations=1,
        budget={"trials": budget},
    )
    home = new_home(tmp_path / "home")
    with mlflow_server(settings_of(home)) as uri:

        def tagged(name: str) -> list[Run]:
            return [run for run in runs_of(uri) if name in run.data.tags]

        said = session(home, uri, file, control.stop, lambda: tagged("cops.stopped"))
        assert "stopped: " in said
        assert "ScoreError: score 'snip' is not finite" in said
        assert all(run.info.status != "KILLED" or "cops.stopped" in run.data.tags for run in tagged("cops.trial"))

        before = len(tagged("cops.trial"))
        said = session(home, uri, file, control.cancel, lambda: len(tagged("cops.trial")) > before + 2)
        assert "cancelled: " in said

        stopped = {run.data.tags["cops.trial"] for run in tagged("cops.stopped")}
        damaged = next((home.path / "store").glob("*.scores"))
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
        done = run_command(home, "-m", "jobs", str(file), timeout=TIMEOUT, **workers(2))
        assert done.returncode == 1, done.stdout + done.stderr  # for the cells of the network that explodes
        assert "score vectors computed: 1\n" in done.stdout
        assert "best COPS mask" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr

        trials = tagged("cops.trial")
        assert {run.info.status for run in trials} == {"FINISHED", "KILLED", "FAILED"}
        assert all(
            run.data.tags["cops.error"].startswith("ScoreError") for run in trials if run.info.status == "FAILED"
        )
        finished = Counter(run.data.tags["cops.trial"] for run in trials if run.info.status == "FINISHED")
        assert set(finished.values()) == {1}
        assert not stopped & finished.keys()
        times = Counter(run.data.tags["cops.trial"] for run in trials)
        assert stopped
        assert all(times[key] == 1 for key in stopped)
        assert all(run.info.status == "KILLED" for run in tagged("cops.stopped"))
        assert {run.data.params["model"] for run in trials if run.info.status == "FINISHED"} == {"convnet"}
        searched = [run for run in trials if run.data.tags["cops.kind"] == "search"]
        assert budget - 4 <= len(searched) <= budget  # a cancelled session may have handed out what it did not start
        assert sum(run.data.tags["cops.kind"] == "confirmation" for run in trials if run.info.status == "FINISHED") == 2
