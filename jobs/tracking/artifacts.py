"""Files of runs, straight to and from where MLflow keeps them: through its client each would take a request more."""

import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cops import Mask
from jobs.tracking.entities import LAYERS_FILE, MASK_FILE


def save_mask(where: str, mask: Mask, layer_density: dict[str, float]) -> None:
    """Keep a mask, and what it keeps of each layer, among the files of a run, which are at `where`."""
    with tempfile.TemporaryDirectory() as folder:
        mask.save(Path(folder, MASK_FILE))
        Path(folder, LAYERS_FILE).write_text(json.dumps({"layer_density": layer_density}))
        upload(where, Path(folder))


def upload(where: str, folder: Path) -> None:
    """Keep all files of a folder among those of a run, which are at `where`."""
    get_artifact_repository(where).log_artifacts(str(folder))  # type: ignore[no-untyped-call]


def presigned(where: str, name: str, seconds: int) -> str | None:
    """An address of a file among those of a run, which are at `where`, for some time; None if that is not in S3.

    Raises:
        ImportError: there is no boto3, which comes with the extra `stack`.
    """
    place = urlsplit(where)
    if place.scheme != "s3":
        return None
    import boto3

    key = f"{place.path.strip('/')}/{name}"
    client = boto3.client("s3")
    url: str = client.generate_presigned_url("get_object", {"Bucket": place.netloc, "Key": key}, ExpiresIn=seconds)
    return url
