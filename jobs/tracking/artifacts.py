"""Files of runs, straight to and from where MLflow keeps them: through its client each would take a request more."""

import hashlib
import json
import tempfile
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cops import Mask
from jobs.network import Trained
from jobs.tracking.entities import LAYERS_FILE, MASK_FILE, WEIGHTS_FILE


def save_mask(where: str, mask: Mask, layer_density: dict[str, float]) -> None:
    """Keep a mask, and what it keeps of each layer, among the files of a run, which are at `where`."""
    with tempfile.TemporaryDirectory() as folder:
        mask.save(Path(folder, MASK_FILE))
        Path(folder, LAYERS_FILE).write_text(json.dumps({"layer_density": layer_density}))
        upload(where, Path(folder))


def save_weights(where: str, trained: Trained) -> str:
    """Keep a trained network among the files of a run, which are at `where`; the file's SHA-256."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, WEIGHTS_FILE)
        trained.save(file)
        upload(where, Path(folder))
        return hashlib.sha256(file.read_bytes()).hexdigest()


def upload(where: str, folder: Path) -> None:
    """Keep all files of a folder among those of a run, which are at `where`."""
    get_artifact_repository(where).log_artifacts(str(folder))  # type: ignore[no-untyped-call]
