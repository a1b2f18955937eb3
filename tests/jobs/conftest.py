"""A tracker on a database of its own: real runs and files of MLflow, without the seconds that its server takes."""

from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from jobs.spec import Spec
from jobs.tracking import Tracker


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment(Spec.model_fields["experiment"].default, (folder / "files").as_uri())
    return Tracker(uri)


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also beside a torch without CUDA.

    The registry's wheel has compiled operators for CUDA, which do not load there, and refuses to be imported without
    two of them. Its networks and data sets are plain Python, and all that is used here.
    """
    if not torch.cuda.is_available():
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    return pytest.importorskip("torchvision")
