"""The embedded MLflow server: shared by those who need it, stopped by the last, found again after a crash."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from jobs.errors import UserError
from jobs.local import check, mlflow_server
from jobs.settings import Settings
from tests.conftest import Home, free_port, new_home


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def holder(home: Home) -> subprocess.Popen[str]:
    """A process that needs the server until its standard input closes."""
    code = (
        "from jobs.local import check, mlflow_server; from jobs.settings import Settings\n"
        "with mlflow_server(Settings.read()) as uri: print(uri, flush=True); input()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=home.environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def release(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)


def test_shared_by_two_and_found_again_after_a_crash(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = holder(home)
    assert first.stdout is not None
    address = first.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{home.mlflow_port}"
    server = int((home.path / "mlflow.pid").read_text().split()[0])

    second = holder(home)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == address
    assert int((home.path / "mlflow.pid").read_text().split()[0]) == server

    first.send_signal(signal.SIGKILL)  # the one that started the server
    first.communicate(timeout=60)
    assert answers(home.mlflow_port)

    release(second)
    assert not answers(home.mlflow_port)
    assert not (home.path / "mlflow.pid").exists()


def test_two_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = holder(home)
    while not (home.path / "mlflow.pid").exists():
        time.sleep(0.05)
    second = holder(home)  # while the first still waits for its server
    assert first.stdout is not None
    assert second.stdout is not None
    assert first.stdout.readline() == second.stdout.readline() != ""
    release(first)
    assert answers(home.mlflow_port)
    release(second)
    assert not answers(home.mlflow_port)


def test_a_dead_server_is_started_again(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = holder(home)
    assert first.stdout is not None
    first.stdout.readline()
    os.killpg(int((home.path / "mlflow.pid").read_text().split()[0]), signal.SIGKILL)
    while answers(home.mlflow_port):
        time.sleep(0.05)
    second = holder(home)
    assert second.stdout is not None
    second.stdout.readline()
    assert answers(home.mlflow_port)
    release(second)
    release(first)
    assert not answers(home.mlflow_port)


def test_another_port_for_a_home_whose_server_runs_is_refused(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = holder(home)
    assert first.stdout is not None
    first.stdout.readline()
    other = Settings.model_validate({"home": home.path, "mlflow_port": free_port()})
    with pytest.raises(UserError, match=f"runs on port {home.mlflow_port} already"), mlflow_server(other):
        pass
    release(first)
    assert not answers(home.mlflow_port)


def test_interrupted_while_it_starts_leaves_nothing_running(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    starting = holder(home)
    while not (home.path / "mlflow.pid").exists():
        time.sleep(0.05)
    starting.send_signal(signal.SIGINT)
    starting.communicate(timeout=60)
    assert not (home.path / "mlflow.pid").exists()
    time.sleep(8)  # longer than it takes to start
    assert not answers(home.mlflow_port)


def test_a_named_server_is_used_and_nothing_started(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    other = holder(home)
    assert other.stdout is not None
    there = other.stdout.readline().strip()
    settings = Settings.model_validate({"home": tmp_path / "unused", "MLFLOW_TRACKING_URI": there})
    check(settings)
    with mlflow_server(settings) as address:
        assert address == there
    assert not (tmp_path / "unused").exists()
    release(other)
    with pytest.raises(UserError, match="no MLflow server answers at MLFLOW_TRACKING_URI"):
        check(settings)


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings.model_validate({"home": tmp_path / "file" / "home", "mlflow_port": free_port()})
    with pytest.raises(UserError, match=r"COPS_HOME = .* cannot be written"), mlflow_server(settings):
        pass
