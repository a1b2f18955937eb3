"""Networks in MLflow's model registry: of each cell the best that any sweep has confirmed is its `champion`.

A version is stored as `torch.export` has it, with the mask's file beside it and its settings and certificate in its
metadata: whoever has MLflow and torch loads it in one line, without this package and without unpickling anything.
"""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import Schema, TensorSpec
from torch import nn

from jobs.champions import Candidate
from jobs.network import Trained
from jobs.tracking.artifacts import upload
from jobs.tracking.entities import KIND, MASK, MASK_FILE, RECIPE, TRIAL, WEIGHTS_FILE, WEIGHTS_SHA256, Session
from jobs.tracking.runs import Runs

CHAMPION = "champion"
FOLDER = "model"  # of the files of the run that trained it
SWEEP_RUN = "cops.sweep_run"
ACCURACY, CONFIRMATIONS = "validation_accuracy", "confirmations"
CERTIFICATE = ("target_kept", "gap", "multiplier_", "control_value_", "control_slack_")  # or what metrics start with
BATCHES = (1, 2, 5)  # sizes on which a stored network is compared with the trained one


class Registry(Runs):
    """Writes the model registry of the MLflow server at `uri`."""

    def register(self, session: Session, found: list[Candidate]) -> Iterator[str]:
        """Keep the networks of a sweep that are not kept yet; yields lines on what became of them.

        A network that cannot be kept is told of in a line, and stops nothing.
        """
        kept = champions = 0
        for one in found:
            try:
                champions += self._register(session, one)
                kept += 1
            except MlflowException as error:
                yield f"model registry: {_line(error)}"
                break  # the others would fare no better, and each waits for the server
            except Exception as error:  # whatever a model raises when it is built or exported
                yield f"not in the model registry: {one.name}: {_line(error)}"
        if kept:
            yield f"model registry: {self.uri}/#/models (networks: {kept}, champions: {champions})"

    def _register(self, session: Session, one: Candidate) -> bool:
        """Keep a network, and make the best one the champion, of equals the one that is; whether it is this one."""
        models = self._client.search_registered_models(f"name = '{one.name}'")
        versions = self._client.search_model_versions(f"name = '{one.name}'") if models else []
        same = {MASK: one.mask, RECIPE: one.recipe}
        mine = next((version for version in versions if same.items() <= version.tags.items()), None)
        if mine is None:
            mine = self._create(session, one, first=not models)
        elif int(mine.tags[CONFIRMATIONS]) < one.standing.runs:
            for name, value in _figures(one).items():
                self._client.set_model_version_tag(one.name, mine.version, name, value)
        crowned = str(models[0].aliases.get(CHAMPION)) if models else None
        now = self._client.search_model_versions(f"name = '{one.name}'")  # with figures that may have fallen
        best = max(
            (version for version in now if ACCURACY in version.tags),
            key=lambda version: (float(version.tags[ACCURACY]), str(version.version) == crowned),
        )
        if str(best.version) != crowned:
            self._client.set_registered_model_alias(one.name, CHAMPION, best.version)
        return bool(best.version == mine.version)

    def _create(self, session: Session, one: Candidate, *, first: bool) -> ModelVersion:
        runs = list(self._search(self._experiments(), f"tags.`{MASK}` = '{one.mask}' and status = 'FINISHED'"))
        searched = next((run for run in runs if run.data.tags[KIND] == "search"), None)
        kept = (run for run in runs if run.data.tags[TRIAL] == one.trial and WEIGHTS_SHA256 in run.data.tags)
        trained = next(kept, None)
        if searched is None or trained is None:
            raise LookupError("its mask's run, or that of its first confirmation with weights, is not in MLflow")
        where = trained.info.artifact_uri
        with tempfile.TemporaryDirectory() as folder:
            _fetch(where, WEIGHTS_FILE, Path(folder))
            weights = Path(folder, WEIGHTS_FILE)
            if hashlib.sha256(weights.read_bytes()).hexdigest() != trained.data.tags[WEIGHTS_SHA256]:
                raise ValueError(f"{WEIGHTS_FILE} of its first confirmation is damaged")
            Path(folder, FOLDER).mkdir()
            model = Path(folder, FOLDER, FOLDER)
            try:
                store(Trained.load(weights), model, _about(one, searched))
            except MlflowException as error:  # about this model, not from the server
                raise ValueError(error.message) from error
            _fetch(searched.info.artifact_uri, MASK_FILE, model)
            upload(where, model.parent)
        if first:
            self._name(one)
        tags = {MASK: one.mask, RECIPE: one.recipe, TRIAL: one.trial, SWEEP_RUN: session.run, **_figures(one)}
        tags |= {WEIGHTS_SHA256: trained.data.tags[WEIGHTS_SHA256]}
        text = f"`{one.standing.trial.name}`"
        return self._client.create_model_version(
            one.name, f"{where}/{FOLDER}", trained.info.run_id, tags, description=text, await_creation_for=0
        )

    def _name(self, one: Candidate) -> None:
        cell = one.standing.cell
        tags = {"model": cell.model, "data": cell.data, "method": cell.method, "sparsity": repr(cell.sparsity)}
        text = f'`mlflow.pytorch.load_model("models:/{one.name}@{CHAMPION}")` loads the best that has been confirmed.'
        try:
            self._client.create_registered_model(one.name, tags, text)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep's, at the same time
                raise


def store(trained: Trained, folder: Path, about: dict[str, Any]) -> None:
    """Write a network as an MLflow model, which takes batches of any size and gives what the network gives.

    Raises:
        ValueError: the exported network gives something else.
        Exception: whatever building the network or `torch.export` raises.
    """
    network, origin = trained.build(), trained.origin
    inputs = TensorSpec(np.dtype("float32"), (-1, *origin.shape))
    outputs = TensorSpec(np.dtype("float32"), (-1, origin.classes))
    with _quiet():
        mlflow.pytorch.save_model(
            network,
            folder,
            serialization_format="pt2",
            signature=ModelSignature(Schema([inputs]), Schema([outputs])),
            input_example=np.zeros((2, *origin.shape), np.float32),
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],  # else MLflow goes looking for them
            metadata=about | {"inputs": {"shape": list(origin.shape), "mean": origin.mean, "std": origin.std}},
        )
        _compare(network, mlflow.pytorch.load_model(str(folder)), origin.shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch.export prints, logs and warns of when it cannot take a model."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@torch.no_grad()
def _compare(network: nn.Module, stored: nn.Module, shape: tuple[int, int, int]) -> None:
    draws = torch.Generator().manual_seed(0)
    for size in BATCHES:
        inputs = torch.randn(size, *shape, generator=draws)
        if not torch.allclose(stored(inputs), network(inputs), rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ValueError(f"exported by torch.export, it gives something else on a batch of {size}")


def _fetch(where: str, file: str, folder: Path) -> None:
    get_artifact_repository(where).download_artifacts(file, str(folder))  # type: ignore[no-untyped-call]


def _about(one: Candidate, searched: Run) -> dict[str, Any]:
    """What a version says of itself."""
    metrics = searched.data.metrics
    return {
        "mask": one.mask,
        "settings": dict(one.settings),
        "certificate": {name: value for name, value in metrics.items() if name.startswith(CERTIFICATE)},
        "sparsity": metrics["sparsity"],
        "recipe": one.recipe,
        "trial": one.trial,
    }


def _figures(one: Candidate) -> dict[str, str]:
    found = one.standing
    numbers = {ACCURACY: found.validation, "validation_error": found.error, "test_accuracy": found.test}
    return {name: repr(value) for name, value in numbers.items() if value is not None} | {
        CONFIRMATIONS: str(found.runs)
    }


def _line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
