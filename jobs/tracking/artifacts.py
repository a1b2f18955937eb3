"""Files of runs, straight to and from where MLflow keeps them: through its client each would take a request more.

A file is there whole or not at all: an S3 server takes it only with the right checksum, and a local one gets its name
last. A store that is away is waited for.
"""

import base64
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, urlparse

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from cops import Mask
from jobs.patience import patiently
from jobs.tracking.entities import LAYERS_FILE, MASK_FILE

BUSY = (408, 429)  # HTTP statuses that pass, as do all from 500 on
STARTING = ("NoSuchBucket", "InvalidAccessKeyId")  # said by a server that has not read its own state yet


class StoreError(Exception):
    """Files cannot be kept."""


class DamagedFileError(Exception):
    """A file is not what was stored."""


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
            _put(path, url.netloc, f"{url.path.strip('/')}/{path.relative_to(folder).as_posix()}")
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
        _check_bucket(urlparse(where), name)


def _check_bucket(url: ParseResult, name: str) -> None:
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise StoreError("boto3 is not installed: pip install 'cops-sweep[s3]'") from None
    place = {"Bucket": url.netloc, "Key": f"{url.path.strip('/')}/{name}"}
    try:
        _s3().head_bucket(Bucket=url.netloc)  # some servers make a bucket of any name that is written to
        _s3().put_object(**place, Body=b"cops")
        _s3().delete_object(**place)
    except ClientError as error:
        code = {"404": "there is no such bucket", "403": "the keys are refused"}
        said = error.response["Error"]["Code"]
        raise StoreError(f"bucket '{url.netloc}': {code.get(said, said)}") from None
    except BotoCoreError as error:
        raise StoreError(str(error)) from None


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


def _passing(error: BaseException) -> bool:
    """Whether an S3 server that is away, starting or busy explains an error."""
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError

    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status in BUSY or error.response["Error"]["Code"] in STARTING
    return isinstance(error, (HTTPClientError, NoConnectionError, DamagedFileError))


@patiently(_passing)
def _put(path: Path, bucket: str, key: str) -> None:
    """Store an object: the server refuses it unless the checksum is right, and says the checksum of what it stored."""
    digest = base64.b64encode(bytes.fromhex(sha256(path))).decode()
    extra = S3ArtifactRepository.get_s3_file_upload_extra_args() or {}  # type: ignore[no-untyped-call]
    if kind := guess_type(path.name)[0]:
        extra = {"ContentType": kind} | extra
    with path.open("rb") as file:
        answer = _s3().put_object(Bucket=bucket, Key=key, Body=file, ChecksumSHA256=digest, **extra)
    if answer.get("ChecksumSHA256") != digest:
        raise DamagedFileError(f"the S3 server did not confirm the checksum of s3://{bucket}/{key}")


@cache
def _s3() -> Any:
    """A client of the S3 server that MLflow uses; whoever calls it tries again."""
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1})
    return boto3.Session().client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"), config=patience)


@patiently(lambda error: isinstance(error, OSError))
def _other(store: ArtifactRepository, folder: Path) -> None:
    """Store by MLflow's own means, in a store of which we know nothing."""
    store.log_artifacts(str(folder))  # type: ignore[no-untyped-call]
