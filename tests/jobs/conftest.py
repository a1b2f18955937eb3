"""A tracker on a database of its own: real runs and files of MLflow, without the seconds that its server takes."""

import pytest
from mlflow import MlflowClient

from jobs.spec import Spec
from jobs.tracking import Tracker


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment(Spec.model_fields["experiment"].default, (folder / "files").as_uri())
    return Tracker(uri)
