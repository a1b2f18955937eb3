"""Objects in an S3 server, by boto3, which the extra `s3` brings."""

import base64
import os
from functools import cache
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from jobs.patience import patiently
from jobs.tracking.entities import DamagedFileError, StoreError

BUSY = (408, 429)  # HTTP statuses that pass, as do all from 500 on
STARTING = ("NoSuchBucket", "InvalidAccessKeyId")  # said by a server that has not read its own state yet


def check(bucket: str, key: str) -> None:
    """Write a small object and remove it.

    Raises:
        StoreError: that cannot be done.
    """
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise StoreError("boto3 is not installed: pip install 'cops-sweep[s3]'") from None
    place = {"Bucket": bucket, "Key": key}
    try:
        _client().head_bucket(Bucket=bucket)  # some servers make a bucket of any name that is written to
        _client().put_object(**place, Body=b"cops")
        _client().delete_object(**place)
    except ClientError as error:
        code = {"404": "there is no such bucket", "403": "the keys are refused"}
        said = error.response["Error"]["Code"]
        raise StoreError(f"bucket '{bucket}': {code.get(said, said)}") from None
    except BotoCoreError as error:
        raise StoreError(str(error)) from None


def presigned(bucket: str, key: str, seconds: int) -> str:
    """An address by which anyone may fetch an object for some time."""
    url: str = _client().generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=seconds)
    return url


def _passing(error: BaseException) -> bool:
    """Whether an S3 server that is away, starting or busy explains an error."""
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError

    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status in BUSY or error.response["Error"]["Code"] in STARTING
    return isinstance(error, (HTTPClientError, NoConnectionError, DamagedFileError))


@patiently(_passing)
def put(path: Path, sha256: str, bucket: str, key: str) -> None:
    """Store an object: the server refuses it unless the checksum is right, and says the checksum of what it stored.

    Raises:
        OSError, botocore.exceptions.ClientError: the server refuses it, or stays away.
    """
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    extra = S3ArtifactRepository.get_s3_file_upload_extra_args() or {}  # type: ignore[no-untyped-call]
    if kind := guess_type(path.name)[0]:
        extra = {"ContentType": kind} | extra
    with path.open("rb") as file:
        answer = _client().put_object(Bucket=bucket, Key=key, Body=file, ChecksumSHA256=digest, **extra)
    if answer.get("ChecksumSHA256") != digest:
        raise DamagedFileError(f"the S3 server did not confirm the checksum of s3://{bucket}/{key}")


@cache
def _client() -> Any:
    """A client of the S3 server that MLflow uses; whoever calls it tries again."""
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1})
    return boto3.Session().client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"), config=patience)
