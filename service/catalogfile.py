"""The catalog's file: its tables, its connections, and what happens when it is damaged."""

import fcntl
import logging
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from jobs.errors import UserError

log = logging.getLogger(__name__)

APPLICATION = 0x434F5053  # "COPS", in the file's header
VERSION = 3  # of the tables, and of what `summarise` makes of runs: another one, and the file is made anew
BUSY_SECONDS = 30.0
MAPPED_BYTES = 2**30  # a question may look at all masks of a sparsity
SQLITE = "", "-wal", "-shm"  # its files

# `rank_*` are metrics with -1 for unknown, which a row value can be compared with. Every order ends in (id, recipe).
_PLACE = "model, data, samples, level"
_FILTERED = "target, controls, layout, seed, confirmations"
TABLES = f"""
CREATE TABLE runs (run TEXT PRIMARY KEY, mask TEXT NOT NULL, recipe TEXT NOT NULL, record TEXT NOT NULL);
CREATE INDEX runs_of_mask ON runs (mask, recipe);
CREATE TABLE deleted (run TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE masks (
    id TEXT NOT NULL, recipe TEXT NOT NULL, model TEXT NOT NULL, data TEXT NOT NULL, method TEXT NOT NULL,
    target TEXT NOT NULL, controls TEXT NOT NULL, layout TEXT NOT NULL, seed INTEGER NOT NULL,
    samples INTEGER NOT NULL, level INTEGER NOT NULL, sparsity REAL NOT NULL,
    confirmations INTEGER NOT NULL, confirmed INTEGER NOT NULL,
    rank_validation REAL NOT NULL, rank_test REAL NOT NULL, rank_flops REAL NOT NULL, json BLOB NOT NULL
);
CREATE UNIQUE INDEX by_id ON masks (id, recipe);
CREATE INDEX by_names ON masks (model, data, method, layout);
CREATE INDEX best_validation ON masks ({_PLACE}, confirmed, rank_validation, id, recipe, {_FILTERED});
CREATE INDEX best_test ON masks ({_PLACE}, confirmed, rank_test, id, recipe, {_FILTERED});
CREATE INDEX by_validation ON masks (rank_validation, id, recipe, {_PLACE}, {_FILTERED});
CREATE INDEX by_test ON masks (rank_test, id, recipe, {_PLACE}, {_FILTERED});
CREATE INDEX by_sparsity ON masks (sparsity, id, recipe, {_PLACE}, {_FILTERED});
CREATE INDEX by_flops ON masks (rank_flops, id, recipe, {_PLACE}, {_FILTERED});
CREATE INDEX by_confirmations ON masks (confirmations, id, recipe, {_PLACE}, target, controls, layout, seed);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

Identity = tuple[int, int]  # of a file, whatever its name


class DamagedError(Exception):
    """The catalog's file was damaged. An empty one is in its place, to be filled from MLflow."""


class CatalogFile:
    """Connections to the SQLite file at `path`, for any number of threads and processes.

    A file of another version is removed, one that cannot be read is put aside as `.damaged`; both are said in the log.

    Raises:
        UserError: the path is another program's database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: deque[tuple[Identity, sqlite3.Connection]] = deque()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._fault() is not None:
                self._renew(None)
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(f"COPS_CATALOG = '{path}' cannot be used: {error}; name another file") from None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question.

        Raises:
            DamagedError: the file is not what it was; an empty one has taken its place.
        """
        identity, connection = self._take()
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            connection.close()
            if type(error) is not sqlite3.DatabaseError and "no such table" not in str(error):
                raise  # the file is not to blame
            self._renew(identity)
            raise DamagedError(f"the catalog '{self.path}' was damaged ({error}): it is made anew") from error
        except BaseException:
            connection.close()
            raise
        self._idle.append((identity, connection))

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: all that is written, or nothing.

        Raises:
            DamagedError: as `reading`.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the catalog against other processes and threads that would bring it up to date; readers go on."""
        with _beside(self.path, ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def replace(self, other: "CatalogFile") -> None:
        """Take over the content of another file, at once for all who read."""
        with self.reading() as target, other.reading() as source:
            source.backup(target)

    def close(self) -> None:
        """Close all connections that are not in use."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].close()

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a file and what is kept beside it."""
        for suffix in (*SQLITE, ".lock", ".renew"):
            _beside(path, suffix).unlink(missing_ok=True)

    def _identity(self) -> Identity | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _take(self) -> tuple[Identity, sqlite3.Connection]:
        """An idle connection to the file that has the name now, or a new one."""
        here = self._identity()
        if here is None:
            self._renew(None)
            here = self._identity()
            assert here is not None  # noqa: S101  # just made
        with suppress(IndexError):
            while True:
                identity, connection = self._idle.pop()
                if identity == here:
                    return here, connection
                connection.close()
        return here, self._connect()

    def _connect(self) -> sqlite3.Connection:
        # Any thread may use it, one at a time.
        connection = sqlite3.connect(self.path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.DatabaseError):  # the next statement says so again
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a lost end is read from MLflow again
            connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
        return connection

    def _fault(self) -> str | None:
        """Why the file cannot be used as it is.

        Raises:
            UserError: it is another program's database.
        """
        if not self.path.exists() or self.path.stat().st_size == 0:
            return "is new"
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", BUSY_SECONDS, uri=True)) as file:
                application = file.execute("PRAGMA application_id").fetchone()[0]
                version = file.execute("PRAGMA user_version").fetchone()[0]
                if application != APPLICATION:
                    if file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                        return "is new"
                    raise UserError(f"COPS_CATALOG = '{self.path}' is another program's database: name another file")
                if version != VERSION:
                    return f"is of version {version}, not {VERSION}"
                (health,) = file.execute("PRAGMA quick_check(1)").fetchone()
                return None if health == "ok" else f"is damaged ({health})"
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            return f"is damaged ({error})"

    def _renew(self, faulty: Identity | None) -> None:
        """Put an empty catalog in place of a file that cannot be used: `faulty`, or what is found to be."""
        with _beside(self.path, ".renew").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fault = self._fault()
            if faulty is not None and faulty == self._identity():
                fault = "is damaged"
            if fault is None:
                return
            if fault != "is new":
                log.warning("catalog '%s' %s: it is made anew from MLflow", self.path, fault)
            if fault.startswith("is damaged"):
                self.path.replace(_beside(self.path, ".damaged"))
            for suffix in SQLITE:
                _beside(self.path, suffix).unlink(missing_ok=True)
            with closing(self._connect()) as connection:
                connection.executescript(f"BEGIN; {TABLES} COMMIT;")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
