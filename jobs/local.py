"""The embedded default: an MLflow server on SQLite over one folder of this machine, on loopback.

Whoever needs the server holds a shared lock on the folder; the first starts it, the last one out stops it. A server
left behind by a killed process is found again by the next.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from jobs.errors import UserError
from jobs.settings import Settings

HOST = "127.0.0.1"
READY_SECONDS = 120
STOP_SECONDS = 10


@contextmanager
def mlflow_server(settings: Settings) -> Iterator[str]:
    """Address of the MLflow server to use: the one that settings name, else the embedded one, for as long as needed.

    Raises:
        UserError: the port is taken by another program, the folder cannot be written, or the server does not start;
            nothing is left running.
    """
    if settings.tracking_uri:
        yield settings.tracking_uri
        return
    check(settings)
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / "users.lock").touch()
    except OSError as error:
        raise UserError(
            f"COPS_HOME = '{settings.home}' cannot be written: {error.strerror}; name another folder"
        ) from None
    child = None
    with (settings.home / "users.lock").open("w") as users:
        with _exclusive(settings.home / "start.lock"):
            if not _running(settings):
                child = _start(settings)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield _address(settings.mlflow_port)
        finally:
            with _exclusive(settings.home / "start.lock"), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(settings, child)


def check(settings: Settings) -> None:
    """Refuse, before anything is started or written, settings under which no MLflow server can be used.

    Raises:
        UserError: the named server does not answer, or the embedded one's port is another program's.
    """
    if settings.tracking_uri:
        if not _answers(settings.tracking_uri):
            raise UserError(
                f"no MLflow server answers at MLFLOW_TRACKING_URI = '{settings.tracking_uri}': start it, or unset it"
            )
        return
    port = _living(settings)
    if port == settings.mlflow_port:  # it serves, or is being started by another process
        return
    if port is not None and _answers(_address(port)):
        raise UserError(
            f"COPS_MLFLOW_PORT = {settings.mlflow_port}: the MLflow server of COPS_HOME = '{settings.home}' runs on "
            f"port {port} already; set COPS_MLFLOW_PORT={port} to share it, or end what uses it"
        )
    require_free_port("COPS_MLFLOW_PORT", settings.mlflow_port)


def require_free_port(name: str, port: int) -> None:
    """Raise UserError if another program listens on `port` of loopback; `name` is the variable that sets it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"port {port} is in use by another program: end it, or set {name} to a free port") from None


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _address(port: int) -> str:
    return f"http://{HOST}:{port}"


def _pid_file(settings: Settings) -> Path:
    return settings.home / "mlflow.pid"


def _record(settings: Settings) -> list[str]:
    """Process id and port of the server that this or an earlier process started."""
    return _pid_file(settings).read_text().split()


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310  # settings allow http(s) alone
            return bool(answer.status == 200)
    except OSError:
        return False


def _living(settings: Settings) -> int | None:
    """Port of the server that this or an earlier process started, if its process lives."""
    try:
        pid, port = map(int, _record(settings))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return port


def _running(settings: Settings) -> bool:
    """Whether that server lives and answers on our port."""
    return _living(settings) == settings.mlflow_port and _answers(_address(settings.mlflow_port))


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    require_free_port("COPS_MLFLOW_PORT", settings.mlflow_port)
    artifacts = settings.home / "artifacts"
    artifacts.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.mlflow_port)]
    command += ["--backend-store-uri", f"sqlite:///{settings.home / 'mlflow.db'}", "--workers", "1"]
    # Workers write mask files themselves, without a detour through the server.
    command += ["--no-serve-artifacts", "--default-artifact-root", artifacts.as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = settings.home / "mlflow.log"
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603  # fixed command, no shell
            command, stdout=output, stderr=output, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        _pid_file(settings).write_text(f"{child.pid} {settings.mlflow_port}")
        deadline = time.monotonic() + READY_SECONDS
        while not _running(settings):
            if child.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the embedded MLflow server did not start: see {log}")
            time.sleep(0.1)
    except BaseException:
        _stop(settings, child)
        raise
    return child


def _stop(settings: Settings, child: subprocess.Popen[bytes] | None) -> None:
    """End the server and its workers, which share a process group; `child` if this process started it."""
    with suppress(OSError, ValueError):
        pid = int(_record(settings)[0])
        os.killpg(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if child is not None:
                child.poll()  # reaps it, else it would linger as a zombie
            os.kill(pid, 0)
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
    _pid_file(settings).unlink(missing_ok=True)
