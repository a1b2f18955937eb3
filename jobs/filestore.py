"""Files in a folder or an object store that are whole or not there: one per key, under its SHA-256.

A file holds 32 bytes of SHA-256 and, behind them, what they are of. It appears whole or not at all, and a damaged one
counts as missing. An object store that is away is waited for.
"""

import hashlib
import re
import secrets
from contextlib import suppress

from pyarrow import fs

from jobs.errors import UserError
from jobs.patience import Call, patiently

DIGEST = 32
PATIENCE_SECONDS = 120.0  # of outage; then whoever asked goes on without the store


class FileStore:
    """Bytes by content key, 32 hex digits.

    Args:
        url: a folder, as `file:///...`, or an object store, as `s3://bucket/prefix`.
        suffix: of the files' names, which tells them from others there.

    Raises:
        UserError: the URL names no store that can be used.
    """

    def __init__(self, url: str, suffix: str) -> None:
        self._suffix = suffix
        self._ours = re.compile(rf"[0-9a-f]{{32}}(-[0-9a-f]{{16}})?{re.escape(suffix)}")
        try:
            self._files, self._root = fs.FileSystem.from_uri(url)
        except (ValueError, OSError) as error:  # pyarrow's errors are among them
            raise UserError(f"COPS_STORE = '{url}' cannot be used: {error}; give file:///... or s3://...") from None

    def get(self, key: str) -> bytes | None:
        """What is kept under a key; None if it is missing or damaged.

        Raises:
            OSError: the store does not give it.
        """
        try:
            data = self._patiently(self._read)(self._path(key))
        except FileNotFoundError:
            return None
        digest, body = data[:DIGEST], data[DIGEST:]
        return body if hashlib.sha256(body).digest() == digest else None

    def put(self, key: str, body: bytes) -> None:
        """Keep something under a key.

        Raises:
            OSError: the store does not take it.
        """
        self._patiently(self._write)(self._path(key), hashlib.sha256(body).digest() + body)

    def check(self) -> None:
        """Write, read and remove a small file; an OSError if one of them cannot be done, or the bucket is missing."""
        if not self.local:  # some servers make a bucket of any name that is written to
            bucket = self._root.partition("/")[0]
            if self._files.get_file_info(bucket).type == fs.FileType.NotFound:
                raise FileNotFoundError(f"there is no bucket '{bucket}'")
        path = f"{self._root}/check.{secrets.token_hex(8)}"
        try:
            self._write(path, b"cops")
            if self._read(path) != b"cops":
                raise OSError("it does not give back what was written to it")
        finally:
            with suppress(OSError):
                self._files.delete_file(path)

    def files(self) -> list[tuple[str, int, float]]:
        """Key, bytes and time of writing, in seconds since 1970, of each file that is ours by its name.

        What a killed writer left has a longer key, that of nothing.
        """
        listed = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        ours = [one for one in listed if one.is_file and self._ours.fullmatch(one.base_name)]
        return [(one.base_name.removesuffix(self._suffix), one.size, one.mtime_ns / 1e9) for one in ours]

    def remove(self, key: str) -> None:
        """Forget what is kept under a key.

        Raises:
            OSError: there is no such file, or it cannot be removed.
        """
        self._files.delete_file(self._path(key))

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return isinstance(self._files, fs.LocalFileSystem)

    def _read(self, path: str) -> bytes:
        with self._files.open_input_stream(path) as file:
            data: bytes = file.read()
            return data

    def _write(self, path: str, data: bytes) -> None:
        if not self.local:  # an object appears whole by itself
            with self._files.open_output_stream(path) as file:
                file.write(data)
            return
        self._files.create_dir(self._root, recursive=True)
        part = f"{path.removesuffix(self._suffix)}-{secrets.token_hex(8)}{self._suffix}"
        try:
            with self._files.open_output_stream(part) as file:
                file.write(data)
            self._files.move(part, path)
        except OSError:
            with suppress(OSError):
                self._files.delete_file(part)
            raise

    def _patiently(self, call: Call) -> Call:
        """A server that is away comes back; a folder that cannot be written stays so."""
        return call if self.local else patiently(_passing, PATIENCE_SECONDS)(call)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}{self._suffix}"


def _passing(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
