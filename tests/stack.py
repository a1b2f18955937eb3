"""A stack of its own, as a user starts it, and parts of it held down."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch
from xmlrpc.client import Fault

import psutil

from service.stack.processes import end_leftovers, of_part
from service.stack.remote import supervisor
from service.stack.settings import ADMIN_GRPC, INNER, StackSettings
from service.stack.supervise import down, wait
from tests.conftest import ROOT

COPS = [sys.executable, "-m", "service.cli"]
PUBLIC = 6  # ports for users


def free_ports(count: int) -> int:
    """First of `count` free ports in a row, below those that the system hands out."""
    for first in range(20_000 + os.getpid() % 1000 * 10, 32_000, count):
        try:
            for port in [*range(first, first + count), first + PUBLIC + ADMIN_GRPC]:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")


@contextmanager
def started(home: Path) -> Iterator[tuple[StackSettings, dict[str, str], str]]:
    """A stack in an empty folder: its settings, the environment of its owner, and what `cops up` printed."""
    clean = {name: value for name, value in os.environ.items() if not re.match("COPS_|MLFLOW_|RAY_|AWS_|PG", name)}
    first = free_ports(PUBLIC + INNER)
    names = ("postgres", "s3", "mlflow", "ray", "dashboard", "api", "inner")
    ports = {f"COPS_STACK_{name.upper()}_PORT": str(first + number) for number, name in enumerate(names)}
    environment = clean | {"COPS_HOME": str(home), **ports}
    with patch.dict(os.environ, environment, clear=True):
        settings = StackSettings.read()
    try:
        done = subprocess.run(
            [*COPS, "up"], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield settings, environment, done.stdout
    finally:
        down(settings)
        end_leftovers(settings)
        if settings.database.is_relative_to("/var/lib/cops"):
            shutil.rmtree(settings.database, ignore_errors=True)
        shutil.rmtree(settings.ray_folder, ignore_errors=True)


@contextmanager
def held_down(settings: StackSettings, name: str) -> Iterator[None]:
    """Kill -9 all processes of a part and keep it down for as long as the body takes; then it comes back."""
    try:
        while _state(settings, name) != "STOPPED":  # else it would be started again
            for process in of_part(settings, name):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            with suppress(Fault), supervisor(settings.socket) as call:  # refused before it has been started again
                call.stopProcess(name, False)
            time.sleep(0.05)
        yield
    finally:
        with supervisor(settings.socket) as call:
            call.startProcess(name, False)
        wait(settings, 90)


def _state(settings: StackSettings, name: str) -> str:
    with supervisor(settings.socket) as call:
        return str(call.getProcessInfo(name)["statename"])


def outage(settings: StackSettings, name: str, seconds: float) -> None:
    """Kill a part, and let it come back after so many seconds."""
    with held_down(settings, name):
        time.sleep(seconds)
