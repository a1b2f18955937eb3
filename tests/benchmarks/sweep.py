"""What running a trial costs beside its training, side by side in one run: `python -m tests.benchmarks.sweep [--json]`.

Training and solving are left out: a trial's mask is made of one score, and its accuracy is a formula. All else is the
product: mask files, studies in SQLite, keys, batches on Ray Tune, reused workers, score store; MLflow where it says so.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cops import Mask
from cops.scores import Scores
from jobs import tune
from jobs.data import Dataset
from jobs.identity import mask_key, mask_settings, recipe_key, study_key, trial_key
from jobs.limits import Limits
from jobs.local import mlflow_server
from jobs.plan import Trial, scores_needed
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.storage import Studies
from jobs.tracking import MASK_FILE, Session, Tracker, TrialRun, Wish
from jobs.trial import Epoch, Result
from tests.benchmarks.show import Measures, show
from tests.conftest import ROOT, new_home

SESSION = Session("benchmark", "0", "benchmark", resumed=False, spent={})
PER_CELL = 50  # of 101 values of alpha
CALM = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Files(Tracker):
    """Keys and mask files as in a sweep, but no server: they go to a folder, the `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def start_trial(self, spec: Spec, session: Session, trial: Trial) -> TrialRun:
        key = trial_key(spec, trial)
        study_key(spec, trial.cell), recipe_key(spec), mask_key(spec, trial)
        return TrialRun(key, str(Path(self.uri, key)))

    def finish_trial(
        self, spec: Spec, session: Session, trial: Trial, run: TrialRun, result: Result, epochs: Sequence[Epoch]
    ) -> None:
        if result.mask is not None and trial.kind == "search":
            Path(run.artifacts).mkdir(parents=True, exist_ok=True)
            result.mask.save(Path(run.artifacts, MASK_FILE))

    def fail_trial(self, run: str, reason: str) -> None:
        raise AssertionError(reason)

    def wish(self, sweep: str) -> Wish:
        return Wish(SESSION.id, "")

    def set_spent(self, sweep: str, spent: dict[str, float]) -> None:
        pass

    def log_data(self, session: Session, name: str, arrays: Mapping[str, Any]) -> None:
        pass


def no_training(
    spec: Spec, trial: Trial, scores: Callable[[str], Scores], _checkpoint: Path, _data: Dataset
) -> Generator[Epoch, None, Result]:
    """A trial without its training, and without the solver: its mask is that of the target alone, moved on by alpha."""
    yield from ()
    target = scores(trial.cell.target[0])
    kept = {}
    for name, values in target.items():
        flat = values.flatten()
        keep = max(1, round((1 - trial.cell.sparsity) * len(flat)))
        chosen = torch.zeros(len(flat), dtype=torch.bool)
        chosen[flat.topk(keep).indices] = True
        kept[name] = chosen.roll(round(100 * trial.alpha[0])).view_as(values)
    mask = Mask(kept, mask_settings(spec, trial))
    accuracy = 1 - abs(trial.alpha[0] - 0.3)
    metrics = {"validation_accuracy": accuracy, "sparsity": mask.sparsity, "kept": float(mask.count)}
    return Result(metrics, {}, mask.layer_density(), mask)


def asleep(
    _spec: Spec, _trial: Trial, _scores: Callable[[str], Scores], _checkpoint: Path, _data: Dataset
) -> Generator[Epoch, None, Result]:
    """A trial that keeps a simulated GPU busy."""
    yield from ()
    started = time.time()
    time.sleep(float(os.environ["COPS_BENCHMARK_SLEEP"]))
    metrics = {"validation_accuracy": 0.5, "worker": float(os.getpid()), "started": started, "ended": time.time()}
    return Result(metrics, {}, {}, None)


def spec_of(cells: int, trials: int, **changes: Any) -> Spec:
    """`cells` cells with `trials` search trials each, and nothing else."""
    tree: dict[str, Any] = {
        "name": "benchmark",
        "workloads": [{"model": "convnet", "data": "digits"}],
        "grid": {
            "pairs": [{"target": "snip", "controls": ["grasp"]}],
            "sparsities": [round(0.5 + 0.49 * i / cells, 4) for i in range(cells)],
        },
        "baselines": [],
        "search": {"trials": trials},
        "confirmations": 0,
    }
    return Spec.model_validate(tree | changes)


class Stopwatch:
    """When trials ended: Ray's workers take seconds to start, which is no cost of a trial."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, float]] = []

    def __call__(self, search: Search, _limits: Limits) -> None:
        counts = search.counts() if not self.ended or time.perf_counter() - self.ended[-1][1] > 0.2 else None
        if counts is not None or search.finished:
            done = sum(cell.ended for cell in search.cells.values())
            if done:
                self.ended.append((done, time.perf_counter()))

    @property
    def seconds_per_trial(self) -> float:
        """Between the first and the last look."""
        (first, start), (last, end) = self.ended[0], self.ended[-1]
        return (end - start) / (last - first)


def run(
    spec: Spec, settings: Settings, tracker: Tracker, session: Session, runner: Any
) -> tuple[float, Stopwatch, int]:
    """Trials per second from the start of the search to its end, when they ended, and scores computed."""
    watch = Stopwatch()
    started = time.perf_counter()
    studies = Studies(settings.studies_url)
    search = Search(spec, studies=studies)
    computed = tune.fit(search, session, settings, tracker, watch, runner)
    studies.close()
    assert search.finished, search.closed
    assert not search.failures, next(iter(search.failures.values()))
    return len(search.outcomes) / (time.perf_counter() - started), watch, computed


def fresh(folder: Path, name: str) -> Settings:
    """Settings of a folder that nothing is in yet."""
    (folder / name).mkdir()
    return Settings(home=folder / name)


def plain(trials: int) -> float:
    """No-op trials per second of Tune and OptunaSearch by themselves, in a process of their own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TUNE_", "RAY_"))} | CALM
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only
    command = [sys.executable, "-m", "tests.benchmarks.plain", str(trials)]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=True)
    return float(done.stdout.rpartition(":")[2])


def same_requests(arguments: tuple[str, Session, int, int]) -> None:
    """What one worker asks of the tracking server, without a worker around it."""
    uri, session, first, count = arguments
    torch.set_num_threads(1)
    spec, tracker = spec_of(1, PER_CELL), Tracker(uri)
    (cell,) = Search(spec).cells
    kept = {"weight": torch.rand(23_824) > 0.9}
    for number in range(first, first + count):
        trial = Trial(cell, (1.0,), (number / 1e6,))
        metrics = {"validation_accuracy": 0.5, "sparsity": 0.9, "kept": 2382.0}
        result = Result(metrics, {}, {"weight": 0.1}, Mask(kept, mask_settings(spec, trial)))
        tracker.finish_trial(spec, session, trial, tracker.start_trial(spec, session, trial), result, [])


def server_alone(uri: str, session: Session, workers: int, trials: int) -> float:
    """Trials per second that the server takes."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(same_requests, [(uri, session, 900_000 + worker, 1) for worker in range(workers)])  # imports
        started = time.perf_counter()
        share = trials // workers
        pool.map(same_requests, [(uri, session, worker * share, share) for worker in range(workers)], chunksize=1)
        return share * workers / (time.perf_counter() - started)


def busy_share(search: Search, gpus: int) -> float:
    """Share of GPU time in use, from when the last GPU got its first trial to when the first one had its last."""
    spans: dict[float, list[tuple[float, float]]] = {}
    for outcome in search.outcomes.values():
        assert outcome is not None
        spans.setdefault(outcome["worker"], []).append((outcome["started"], outcome["ended"]))
    assert len(spans) == gpus, f"{len(spans)} of {gpus} GPUs were in use"
    start = max(min(began for began, _ in span) for span in spans.values())
    end = min(max(ended for _, ended in span) for span in spans.values())
    used = sum(max(0.0, min(ended, end) - max(began, start)) for span in spans.values() for began, ended in span)
    return used / (gpus * (end - start))


def measure(folder: Path, *, quick: bool, skip_gpus: bool) -> Measures:
    """All measures; `quick` with fewer and shorter trials."""
    found: Measures = {}

    def record(name: str, value: float, target: float, better: str) -> None:
        found[name] = {"value": round(value, 4), "target": target, "better": better}
        print(f"{name}: {value:.3g}", file=sys.stderr, flush=True)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    many, few = (1000, 200) if quick else (5000, 200)
    reference = plain(8 if quick else 24)
    note(f"plain Tune and OptunaSearch: {reference:.3g} trials/s")

    spec = spec_of(many // PER_CELL, PER_CELL)
    with tune.connected(spec):
        times: list[float] = []
        for _ in range(3):
            settings = fresh(folder, f"few{len(times)}")
            _, watch, _ = run(
                spec_of(few // PER_CELL, PER_CELL), settings, Files(str(settings.home / "m")), SESSION, no_training
            )
            times.append(watch.seconds_per_trial)
        settings = fresh(folder, "many")
        rate, watch, computed = run(spec, settings, Files(str(settings.home / "m")), SESSION, no_training)
        note(f"search, identity and mask file: {rate:.3g} trials/s, {1000 * watch.seconds_per_trial:.3g} ms each")
        record("trials per second / plain Tune and OptunaSearch", rate / reference, 60.0, "more")
        record(
            f"overhead per trial, {many} trials / {few}",
            watch.seconds_per_trial / statistics.median(times),
            1.3,
            "less",
        )
        record("score computations / distinct keys", computed / len(scores_needed(spec)), 1.0, "less")
        other = spec_of(2, 2, grid=spec.grid.model_dump() | {"sparsities": [0.42, 0.43]})
        _, _, again = run(other, settings, Files(str(settings.home / "m")), SESSION, no_training)
        record("score computations of another sweep", again, 0.0, "less")

    tracked = 400 if quick else 1000
    home = new_home(folder / "tracked")
    settings = Settings(home=home.path, mlflow_port=home.mlflow_port, api_port=home.api_port)
    with mlflow_server(settings) as uri:
        spec, tracker = spec_of(tracked // PER_CELL, PER_CELL), Tracker(uri)
        session = tracker.start_sweep(spec)
        with tune.connected(spec):
            workers = tune.slots(spec)
            _, watch, _ = run(spec, settings, tracker, session, no_training)
        alone = server_alone(uri, session, workers, tracked)
        ours = 1 / watch.seconds_per_trial
        note(f"with MLflow: {ours:.3g} trials/s; the server alone takes {alone:.3g}/s from {workers} clients")
        record("with MLflow, trials per second / the server alone", ours / alone, 0.8, "more")
        tracker.end_sweep(session, "FINISHED")

    if not skip_gpus:
        gpus, seconds, rounds = (8, 2.0, 6) if quick else (32, 10.0, 6)
        record(f"share of {gpus} simulated GPUs' time in use", _gpus(folder, gpus, seconds, rounds), 0.95, "more")
    return found


def _gpus(folder: Path, gpus: int, seconds: float, rounds: int) -> float:
    os.environ["COPS_BENCHMARK_SLEEP"] = str(seconds)
    spec = spec_of(gpus, rounds, resources={"cpu": 0.01, "gpu": 1}, scoring={"batch_size": 16})
    settings = fresh(folder, "gpus")
    import ray  # after `jobs.tune`, which says how it should start

    ray.init("local", num_gpus=gpus, include_dashboard=False, configure_logging=False, log_to_driver=False)
    search = Search(spec)
    tune.fit(search, SESSION, settings, Files(str(settings.home / "m")), lambda *_: None, asleep)
    ray.shutdown()
    return busy_share(search, gpus)


def main() -> None:
    """Print the measures as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trials")
    parser.add_argument("--skip-gpus", action="store_true", help="32 workers take some 10 GB of memory")
    options = parser.parse_args()
    os.environ |= CALM
    with tempfile.TemporaryDirectory(prefix="cops-") as folder:
        found = measure(Path(folder), quick=options.quick, skip_gpus=options.skip_gpus)
    show(found, "COPS sweeps", as_json=options.json)


if __name__ == "__main__":
    main()
