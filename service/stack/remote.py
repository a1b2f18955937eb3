"""Calls to supervisord, over its Unix socket. Its own client does not close what it opens."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy, Transport

SECONDS = 10.0  # for an answer


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


class _Transport(Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        kept = self._connection[1] or _Connection(self._path)
        self._connection = host, kept
        return kept


@contextmanager
def supervisor(path: Path) -> Iterator[Any]:
    """The calls of supervisord (its manual lists them), as methods; they raise OSError or xmlrpc.client.Error."""
    with ServerProxy("http://localhost", transport=_Transport(path)) as server:
        yield server.supervisor
