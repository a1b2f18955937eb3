"""Data sets in S3: the real server, and a cache that heals."""

import hashlib
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from pyarrow import fs

from jobs.errors import UserError
from jobs.images import image_folder, look
from service.stack import s3, secret
from service.stack.settings import BUCKET, INNER, StackSettings
from tests.stack import PUBLIC, free_ports


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stack's S3 server alone; this process has its address and keys."""
    first = free_ports(PUBLIC + INNER)
    home = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPS_HOME", str(home))
        patch.setenv("COPS_STACK_S3_PORT", str(first))
        patch.setenv("COPS_STACK_INNER_PORT", str(first + PUBLIC))
        settings = StackSettings.read()
        secret.make(settings)
        keys = secret.s3_keys(settings)
        for name, value in {**keys, "AWS_ENDPOINT_URL": settings.s3_url, "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        (settings.folder / "s3").mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **s3.environment(settings)}
        with (home / "log").open("w") as log:
            server = subprocess.Popen(s3.command(settings), env=environment, stdout=log, stderr=log)
        try:
            for _ in range(120):
                try:
                    s3.answers(settings)
                    break
                except OSError:
                    assert server.poll() is None, (home / "log").read_text()[-2000:]
                    time.sleep(0.25)
            yield BUCKET
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPS_DATA", str(tmp_path / "cache"))
    root, level = tmp_path / "images", 0
    for part, count in (("train", 10), ("val", 3)):
        for kind in ("ape", "bee"):
            (root / part / kind).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (4, 4), (level,) * 3).save(root / part / kind / f"{index}.png")
                level += 9
    return root


def zipped(root: Path) -> bytes:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    return path.read_bytes()


def put(bucket: str, key: str, body: bytes) -> str:
    files, path = fs.FileSystem.from_uri(f"s3://{bucket}/{key}")
    with files.open_output_stream(path) as file:
        file.write(body)
    return f"s3://{bucket}/{key}"


def cached(folder: Path) -> list[Path]:
    return sorted(path for path in (folder.parent / "cache" / "s3").iterdir() if len(path.name) == 64)


def test_an_archive_in_s3_is_fetched_once_checked_and_healed(bucket: str, folder: Path) -> None:
    body = zipped(folder)
    path = put(bucket, "data/images.zip", body)
    here = image_folder(path=str(folder), test="val")
    there = image_folder(path=path, test="val", sha256=hashlib.sha256(body).hexdigest())
    for one, two in zip(
        (*here.train, *here.validation, *here.test), (*there.train, *there.validation, *there.test), strict=True
    ):
        assert torch.equal(one, two)
    (copy,) = cached(folder)
    assert copy.name == hashlib.sha256(body).hexdigest()

    written = copy.stat().st_mtime_ns
    look(path, "val")
    assert copy.stat().st_mtime_ns == written
    copy.write_bytes(body[:-1])
    image_folder(path=path, test="val")
    assert copy.read_bytes() == body

    with pytest.raises(UserError, match=f"has SHA-256 {copy.name}, not {'0' * 64}"):
        image_folder(path=path, test="val", sha256="0" * 64)
    Image.new("RGB", (4, 4)).save(folder / "val" / "bee" / "new.png")
    put(bucket, "data/images.zip", zipped(folder))
    assert len(image_folder(path=path, test="val").test[1]) == 7
    assert len(cached(folder)) == 2


def test_a_folder_in_s3_is_as_good(bucket: str, folder: Path) -> None:
    for file in folder.rglob("*.png"):
        put(bucket, f"loose/{file.relative_to(folder)}", file.read_bytes())
    here, there = (image_folder(path=path, test="val") for path in (str(folder), f"s3://{bucket}/loose"))
    assert torch.equal(here.train[0], there.train[0])
    assert torch.equal(here.test[1], there.test[1])


def test_what_is_not_there_is_one_line(bucket: str, folder: Path) -> None:
    for path, words in (
        (f"s3://{bucket}/nothing.zip", "does not exist"),
        (put(bucket, "text.zip", b"hello"), "is no zip archive"),
        ("s3://no-such-bucket/x.zip", "data set 's3://no-such-bucket/x.zip'"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            look(path)
        assert "\n" not in str(caught.value)


def test_more_than_memory_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.images.os.sysconf", lambda name: 40 if name == "SC_PHYS_PAGES" else 4096)
    with pytest.raises(UserError, match=r"twice that while they are read.*give a smaller options.size"):
        image_folder(path=str(folder), test="val", size=64)
    assert image_folder(path=str(folder), test="val", size=8).shape == (3, 8, 8)
