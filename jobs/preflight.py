"""What a sweep needs is looked at before it starts: servers, keys, passwords, disks. Nothing is left behind."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from jobs.errors import UserError
from jobs.local import check as check_server
from jobs.settings import Settings

S3_REMEDY = "check the bucket, the keys (AWS_SHARED_CREDENTIALS_FILE or AWS_ACCESS_KEY_ID) and AWS_ENDPOINT_URL"
REFUSED = "HTTP status 401"
FREE_BYTES = 200 * 10**6  # less is used up by the first masks and logs


def preflight(settings: Settings, experiment: str) -> None:
    """Refuse settings under which the sweeps of an experiment would fail.

    Raises:
        UserError: names the variable, its value (never a secret) and the remedy.
    """
    check_server(settings)
    _home(settings)
    if settings.tracking_uri:
        _version(settings.tracking_uri)
    if settings.store:
        _scores(settings)
    if settings.studies:
        from jobs.storage import check as check_studies

        check_studies(settings.studies)
    if settings.tracking_uri:
        _artifacts(settings.tracking_uri, experiment)


def _home(settings: Settings) -> None:
    """Refuse a folder that cannot be made or written, or that has no room."""
    folder = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"COPS_HOME = '{settings.home}' cannot be written: {error.strerror}; name another folder"
        ) from None
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise UserError(
            f"COPS_HOME = '{settings.home}': its disk is full, {free / 1e6:.0f} MB are free of the "
            f"{FREE_BYTES / 1e6:.0f} that a sweep needs; make room (`cops gc` may help) or name a folder elsewhere"
        )


def _version(uri: str) -> None:
    """Refuse a server that lets us not in, is no MLflow, or one of another major version than the library here."""
    from jobs.tracking import Runs

    found = Runs(uri).server_version()
    if found == REFUSED:
        raise UserError(
            f"MLFLOW_TRACKING_URI = '{uri}' asks for a user and a password, and does not take ours: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if not re.match(r"\d+\.\d+", found):
        raise UserError(
            f"MLFLOW_TRACKING_URI = '{uri}': what answers there is no MLflow server, which would say its version at "
            "/version; give the address of one, or unset it"
        )
    ours = version("mlflow")
    if found.partition(".")[0] != ours.partition(".")[0]:
        raise UserError(
            f"MLFLOW_TRACKING_URI = '{uri}': that server is MLflow {found}, this is {ours}; "
            "their major versions must be the same: upgrade the older one"
        )


def _scores(settings: Settings) -> None:
    from jobs.filestore import FileStore  # pyarrow takes a second to import

    store = FileStore(settings.store_url, "")
    try:
        store.check()
    except OSError as error:
        remedy = "make it writable, or name another folder" if store.local else S3_REMEDY
        raise UserError(
            f"COPS_STORE = '{settings.store}': score vectors cannot be kept there: {error}; {remedy}"
        ) from None


def _artifacts(uri: str, experiment: str) -> None:
    """Refuse a server whose place for files cannot be written from here."""
    from jobs.tracking import Runs, StoreError, check_store

    with _impatient():
        where = Runs(uri).artifact_root(experiment)
        try:
            check_store(where)
        except StoreError as error:
            remedy = S3_REMEDY if where.startswith("s3:") else "make it writable for this user, or name another server"
            raise UserError(
                f"MLFLOW_TRACKING_URI = '{uri}': it keeps the files of runs at {where}, which cannot be used: "
                f"{error}; {remedy}"
            ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    """MLflow's client gives up early, as long as nothing has been started."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
