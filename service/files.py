"""Files of runs, which never change: fetched once from the artifact store, kept in a folder that may be removed."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.tracking import DamagedFileError

KEPT_BYTES = 2_000_000_000
Fetch = Callable[[str, str, Path], Path]  # run, name, folder -> path


@dataclass(frozen=True)
class Kept:
    """A file on this machine, and its SHA-256."""

    path: Path
    sha256: str


class Files:
    """Files of runs.

    Args:
        folder: shared by any number of processes.
        fetch: gets a run's file from where it is stored.
    """

    def __init__(self, folder: Path, fetch: Fetch) -> None:
        self._folder, self._fetch = folder, fetch

    def get(self, run: str, name: str, sha256: str | None = None) -> Kept:
        """A file of a run.

        Args:
            run: that holds it.
            name: of the file.
            sha256: that it should have, if that is known.

        Raises:
            DamagedFileError: it has another one.
            Exception: what `fetch` raises.
        """
        # The checksum is part of the name: what was checked once is found with it.
        for path in self._folder.glob(f"{run}-{name}-{sha256 or '*'}"):
            with suppress(OSError):
                os.utime(path, (time.time(), path.stat().st_mtime))
                return Kept(path, path.name.rpartition("-")[2])
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            found = self._fetch(run, name, Path(scratch))
            with found.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 not in (None, digest):
                raise DamagedFileError(f"{name} of run {run} is damaged: its SHA-256 is {digest}, not {sha256}")
            path = self._folder / f"{run}-{name}-{digest}"
            found.replace(path)
        self._clear()
        return Kept(path, digest)

    def _clear(self) -> None:
        """Remove what was not asked for longest, where there is too much; who reads it goes on reading."""
        found = []
        for path in self._folder.iterdir():
            with suppress(OSError):
                status = path.stat()
                if path.is_file():
                    found.append((status.st_atime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if total <= KEPT_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= size
