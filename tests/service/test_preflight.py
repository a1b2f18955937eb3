"""What would make a sweep fail is told before it starts, in one line, by the real servers."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest

from jobs.errors import UserError
from jobs.preflight import preflight
from jobs.settings import Settings
from jobs.tracking import DamagedFileError, Runs, artifacts, s3
from service.stack import secret
from service.stack.settings import BUCKET
from tests.conftest import SMOKE, free_port
from tests.service.conftest import Stack


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """The keys are read when the client is made."""
    s3._client.cache_clear()
    yield
    s3._client.cache_clear()


def refusal() -> str:
    with pytest.raises(UserError) as told:
        preflight(Settings.read(), "preflight")
    return str(told.value)


@contextmanager
def answering(paths: dict[str, str]) -> Iterator[str]:
    """A server that is no MLflow, or another one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = paths.get(self.path)
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_stack_is_fit_and_stays_as_it_was(stack: Stack) -> None:
    before = stack.objects().keys()
    preflight(Settings.read(), "preflight")
    assert {name for name in stack.objects().keys() - before if not name.endswith("/")} == set()


def test_wrong_keys_are_refused_and_leave_nothing(stack: Stack, tmp_path: Path) -> None:
    before = stack.objects(), [run.info.run_id for run in stack.runs()]
    keys = tmp_path / "keys"
    keys.write_text("[default]\naws_access_key_id = cops\naws_secret_access_key = s3cr3t\n")
    own = dict(os.environ) | {"AWS_SHARED_CREDENTIALS_FILE": str(keys)}
    done = stack.run(sys.executable, "-m", "jobs", str(SMOKE), **own)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"COPS_STORE = 's3://{BUCKET}/scores'" in done.stderr
    assert "AWS_SHARED_CREDENTIALS_FILE" in done.stderr
    assert "s3cr3t" not in done.stderr
    assert (stack.objects(), [run.info.run_id for run in stack.runs()]) == before


@pytest.mark.parametrize("missing", [False, True])
def test_keys_that_the_artifact_store_refuses(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    keys = tmp_path / "keys"
    if not missing:
        keys.write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = s3cr3t\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("COPS_STORE", tmp_path.as_uri())
    said = refusal()
    assert "MLFLOW_TRACKING_URI" in said
    assert ("credentials" if missing else "keys are refused") in said
    assert "s3cr3t" not in said


def test_a_missing_bucket(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPS_STORE", "s3://nowhere/scores")
    assert "COPS_STORE = 's3://nowhere/scores'" in refusal()
    assert "there is no bucket 'nowhere'" in refusal()
    monkeypatch.setenv("COPS_STORE", tmp_path.as_uri())
    client = Runs(stack.settings.mlflow_url)._client
    name = "elsewhere"
    client.create_experiment(name, artifact_location="s3://gone/mlflow")
    with pytest.raises(UserError, match="bucket 'gone': there is no such bucket"):
        preflight(Settings.read(), name)
    assert {one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]} == {BUCKET}


def test_a_wrong_password_or_database(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"127.0.0.1:{stack.settings.stack_postgres_port}"
    monkeypatch.setenv("COPS_STUDIES", f"postgresql+psycopg2://cops:s3cr3t@{where}/studies")
    said = refusal()
    assert "password authentication failed" in said
    assert f"COPS_STUDIES = 'postgresql+psycopg2://cops:***@{where}/studies'" in said
    word = secret.password(stack.settings)
    monkeypatch.setenv("COPS_STUDIES", f"postgresql+psycopg2://cops:{word}@{where}/nowhere")
    said = refusal()
    assert 'database "nowhere" does not exist' in said
    assert word not in said


def test_another_server_than_mlflow(monkeypatch: pytest.MonkeyPatch, stack: Stack) -> None:
    with answering({"/health": "OK"}) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert f"MLFLOW_TRACKING_URI = '{uri}': what answers there is no MLflow" in refusal()
    with answering({"/health": "OK", "/version": "2.22.0"}) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "that server is MLflow 2.22.0, this is 3." in refusal()
    with answering({"/health": "OK", "/version": "<html>welcome</html>"}) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "is no MLflow" in refusal()


def test_a_folder_that_cannot_be_written(tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPS_STORE", "file:///proc/scores")
    assert "COPS_STORE = 'file:///proc/scores': score vectors cannot be kept there" in refusal()


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, if this user may mount it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes rights that are not given here")
    try:
        with pytest.raises(UserError, match=r"its disk is full, \d MB are free"):
            preflight(Settings(home=disk / "home", mlflow_port=free_port(), MLFLOW_TRACKING_URI=None), "preflight")
        assert not list(disk.iterdir())
        (disk / "filler").write_bytes(bytes(3 * 2**20))
        source, where = tmp_path / "files", disk / "artifacts"
        source.mkdir()
        (source / "mask.cops").write_bytes(bytes(2 * 2**20))
        with pytest.raises(OSError, match="No space left"):
            artifacts.upload(where.as_uri(), source)
        assert not [path for path in where.rglob("*") if path.is_file()]
    finally:
        subprocess.run([str(umount), str(disk)], check=True)


def test_a_damaged_mask_is_told(tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    (source / "mask.cops").write_bytes(b"mask")
    digest = artifacts.sha256(source / "mask.cops")
    where = tmp_path / "run"
    artifacts.upload(where.as_uri(), source)
    (tmp_path / "got").mkdir()
    assert artifacts.download(where.as_uri(), "mask.cops", tmp_path / "got", digest).read_bytes() == b"mask"
    assert [path.name for path in where.iterdir()] == ["mask.cops"]
    (where / "mask.cops").write_bytes(b"mast")
    with pytest.raises(DamagedFileError, match=r"mask\.cops is damaged"):
        artifacts.download(where.as_uri(), "mask.cops", tmp_path / "got", digest)
