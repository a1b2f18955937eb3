"""Files of a data set, read by name: in a folder or a zip archive, on this machine or in S3."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pyarrow import fs

from jobs.errors import UserError
from jobs.settings import Settings

Read = Callable[[str], bytes]
CHUNK = 1 << 22  # bytes


@contextmanager
def opened(path: str, sha256: str | None, remedy: str) -> Iterator[tuple[list[str], Read]]:
    """Names of all files below `path`, sorted, with `/`; and what reads one. Threads may read at once.

    Args:
        path: a folder or a zip archive, which may be in S3: s3://bucket/key.
        sha256: of the archive; None to take any.
        remedy: what to give instead of something that does not exist.

    Raises:
        UserError: there is no such thing, it cannot be read, or the archive has another checksum.
    """
    if path.startswith("s3://"):
        files, key, info = _in_s3(path, remedy)
        if info.type == fs.FileType.Directory:
            with _folder_in_s3(path, files, key) as found:
                yield found
            return
        root = _fetched(path, files, key, info)
    else:
        root = Path(path).expanduser()
    if root.is_dir():
        every = (Path(folder, file) for folder, _, inside in os.walk(root) for file in inside)
        yield sorted(file.relative_to(root).as_posix() for file in every), lambda name: (root / name).read_bytes()
    elif root.is_file():
        if sha256 is not None and (found_sha256 := _digest(root)) != sha256:
            raise UserError(f"data set '{path}' has SHA-256 {found_sha256}, not {sha256}: it is another file")
        try:
            with zipfile.ZipFile(root) as archive:
                yield sorted(archive.namelist()), archive.read
        except zipfile.BadZipFile as error:
            raise UserError(f"data set '{path}' is no zip archive: {error}; {remedy}") from None
    else:
        raise UserError(f"data set '{path}' does not exist: {remedy}")


def _in_s3(path: str, remedy: str) -> tuple[fs.FileSystem, str, fs.FileInfo]:
    try:
        files, key = fs.FileSystem.from_uri(path)
        info = files.get_file_info(key)
    except (ValueError, OSError) as error:  # pyarrow's errors are among them
        raise UserError(f"data set '{path}' cannot be read: {error}; see AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID") from None
    if info.type == fs.FileType.NotFound:
        raise UserError(f"data set '{path}' does not exist: {remedy}")
    return files, key, info


@contextmanager
def _folder_in_s3(path: str, files: fs.FileSystem, key: str) -> Iterator[tuple[list[str], Read]]:
    try:
        listed = files.get_file_info(fs.FileSelector(key, recursive=True))
    except OSError as error:
        raise UserError(f"data set '{path}' cannot be read: {error}") from None

    def read(name: str) -> bytes:
        with files.open_input_file(f"{key}/{name}") as file:
            return bytes(file.read())

    yield sorted(one.path.removeprefix(f"{key}/") for one in listed if one.is_file), read


def _fetched(path: str, files: fs.FileSystem, key: str, info: fs.FileInfo) -> Path:
    """The object as a file of this node, fetched once: named by its SHA-256, and fetched again if it is damaged.

    Which checksum an object has, is noted by its address, size and time of writing: another object is fetched anew.
    """
    folder = Settings.read().data_folder / "s3"
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / hashlib.sha256(f"{path} {info.size} {info.mtime_ns}".encode()).hexdigest()[:32]
    with FileLock(note.with_suffix(".lock")):  # workers of a node want it at the same time
        if note.exists():
            known = folder / note.read_text(encoding="ascii")
            if known.exists() and _digest(known) == known.name:
                return known
        digest, part = hashlib.sha256(), note.with_suffix(".part")
        try:
            with files.open_input_stream(key) as source, part.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
        except OSError as error:
            raise UserError(f"data set '{path}' cannot be fetched to {folder}: {error}") from None
        known = part.replace(folder / digest.hexdigest())
        note.write_text(known.name, encoding="ascii")
        return known


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
