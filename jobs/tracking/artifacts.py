"""Files of runs, straight to and from where MLflow keeps them: through its client each would take a request more.

A file is there whole or not at all: an S3 server takes it only with the right checksum, and a local one gets its name
last. A store that is away is waited for.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from cops import Mask
from jobs.network import Trained
from jobs.patience import patiently
from jobs.tracking import s3
from jobs.tracking.entities import LAYERS_FILE, MASK_FILE, WEIGHTS_FILE, DamagedFileError, StoreError


def save_mask(where: str, mask: Mask, layer_density: dict[str, float]) -> str:
    """Keep a mask, and what it keeps of each layer, among the files of a run, which are at `where`.

    Returns:
        SHA-256 of the mask file, 64 hex digits.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MASK_FILE)
        mask.save(path)
        Path(folder, LAYERS_FILE).write_text(json.dumps({"layer_density": layer_density}))
        upload(where, Path(folder))
        return sha256(path)


def save_weights(where: str, trained: Trained) -> str:
    """Keep a trained network among the files of a run, which are at `where`; the file's SHA-256."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, WEIGHTS_FILE)
        trained.save(file)
        upload(where, Path(folder))
        return sha256(file)


def upload(where: str, folder: Path) -> None:
    """Keep all files of a folder among those of a run, which are at `where`; waits for a store that is away.

    Raises:
        OSError, botocore.exceptions.ClientError: the store refuses them, or stays away.
    """
    store = _store(where)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if isinstance(store, LocalArtifactRepository):
        for path in files:
            _copy(path, Path(store.artifact_dir, path.relative_to(folder)))
    elif isinstance(store, S3ArtifactRepository):
        url = urlparse(where)
        for path in files:
            s3.put(path, sha256(path), url.netloc, f"{url.path.strip('/')}/{path.relative_to(folder).as_posix()}")
    else:
        _other(store, folder)


def check(where: str) -> None:
    """Write a small file under `where`, and remove it.

    Raises:
        StoreError: that cannot be done.
    """
    store, name = _store(where), f"check.{secrets.token_hex(8)}"
    if isinstance(store, LocalArtifactRepository):
        folder = Path(store.artifact_dir)
        folder = next(one for one in (folder, *folder.parents) if one.exists())
        try:
            Path(folder, name).write_text("cops")
        except OSError as error:
            raise StoreError(f"'{folder}' cannot be written: {error.strerror}") from None
        finally:
            with suppress(OSError):
                Path(folder, name).unlink(missing_ok=True)
    elif isinstance(store, S3ArtifactRepository):
        url = urlparse(where)
        s3.check(url.netloc, f"{url.path.strip('/')}/{name}")


def download(where: str, name: str, folder: Path, digest: str | None = None) -> Path:
    """Fetch a file of a run, whose files are at `where`, into a folder; its path. `digest` is its SHA-256, if known.

    Raises:
        DamagedFileError: the file is another one.
        OSError, mlflow.exceptions.MlflowException, botocore.exceptions.ClientError: it cannot be had.
    """
    path = Path(_store(where).download_artifacts(name, str(folder)))  # type: ignore[no-untyped-call]
    if digest is not None and (found := sha256(path)) != digest:
        raise DamagedFileError(
            f"{where}/{name} is damaged: its SHA-256 is {found}, stored was {digest}; "
            "delete its run in MLflow, and the sweep that found it makes it anew"
        )
    return path


def presigned(where: str, name: str, seconds: int) -> str | None:
    """An address of a file among those of a run, which are at `where`, for some time; None if that is not in S3.

    Raises:
        ImportError: there is no boto3, which comes with the extra `s3`.
    """
    url = urlparse(where)
    if url.scheme != "s3":
        return None
    return s3.presigned(url.netloc, f"{url.path.strip('/')}/{name}", seconds)


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _store(where: str) -> ArtifactRepository:
    return get_artifact_repository(where)


def _copy(path: Path, to: Path) -> None:
    """Copy a file, which gets its name when it is on the disk."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.{secrets.token_hex(8)}.part")
    try:
        with path.open("rb") as read, part.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


@patiently(lambda error: isinstance(error, OSError))
def _other(store: ArtifactRepository, folder: Path) -> None:
    """Store by MLflow's own means, in a store of which we know nothing."""
    store.log_artifacts(str(folder))  # type: ignore[no-untyped-call]
