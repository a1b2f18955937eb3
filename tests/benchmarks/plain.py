"""What a sweep is compared with: `tune.Tuner` and `OptunaSearch` as they come. Prints no-op trials per second."""

import os
import sys
import tempfile
import time
from typing import Any

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch


def noop(config: dict[str, Any]) -> None:
    tune.report({"accuracy": 1 - abs(config["alpha"] - 0.3)})


def main() -> None:
    trials = int(sys.argv[1])
    ray.init(include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tune.Tuner(
            noop,
            param_space={"alpha": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric="accuracy", mode="max"), num_samples=trials, metric=None
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        print("trials per second:", trials / (time.perf_counter() - started))
    ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
