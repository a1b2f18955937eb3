"""What may go wrong with a Ray cluster: real nodes, a real token, real sweeps."""

import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from jobs.cluster import answers, suffices
from jobs.errors import UserError
from jobs.spec import Resources
from tests.chaos.cluster import Nodes
from tests.conftest import ROOT, SMOKE, Home, free_port, new_home, run_command

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray would look for the head at another address


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="cops-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def start(home: Home, file: Path, address: str, **extra: str) -> subprocess.Popen[str]:
    environment = home.environment | {"RAY_ADDRESS": address, **LOOPBACK} | extra
    command = [sys.executable, "-m", "jobs", str(file)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1)


def test_what_was_lost_with_a_node_is_made_again_though_no_cpu_is_free(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial of the only worker needs data and scores that went with the worker before it."""
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")  # Ray takes a node for dead after half a minute else
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    home, file = new_home(folder / "home"), folder / "lost.yaml"
    tree = yaml.safe_load(SMOKE.read_text()) | {"name": "lost", "training": {"epochs": 8}}
    file.write_text(yaml.safe_dump(tree))
    with Nodes(folder, head=0, workers=1) as nodes:
        driver = start(home, file, nodes.address)
        assert driver.stdout is not None
        try:
            while " 0 done" in (line := driver.stdout.readline()) or " done" not in line:
                assert driver.poll() is None, driver.communicate()
            nodes.kill_node(random.Random(0))
            said, wrong = driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert driver.returncode == 0, said + wrong
    assert "trials 7/7" in said


class Head:
    """A Ray head of one CPU that asks for a token, and what a driver says that wants to join it."""

    def __init__(self, folder: Path) -> None:
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.port, self._home = free_port(), new_home(folder / "home")
        options = [
            f"--port={self.port}",
            f"--temp-dir={folder}",
            "--num-cpus=1",
            "--node-ip-address=127.0.0.1",
            "--block",
        ]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--include-dashboard=false",
            *options,
        ]
        environment = self._home.environment | self.token | LOOPBACK
        self._process = subprocess.Popen(command, env=environment, stdout=-3, stderr=-3)

    def refusal(self, file: Path = SMOKE, **own: str) -> str:
        """The only line that a driver prints; its home stays empty, for nothing has been started."""
        given = {"RAY_ADDRESS": f"127.0.0.1:{self.port}"} | self.token | own
        done = run_command(self._home, "-m", "jobs", str(file), timeout=100, **LOOPBACK, **given)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
        assert not self._home.path.exists()
        return done.stderr

    def ray(self, line: str) -> None:
        """Run a line of Python that has the head's `gcs`, as soon as it answers."""
        code = f"from ray._raylet import GcsClient; gcs = GcsClient('127.0.0.1:{self.port}'); {line}"
        subprocess.run([sys.executable, "-c", code], env=os.environ | self.token | LOOPBACK, check=True, timeout=100)

    def end(self) -> None:
        """At once: asked nicely, it takes half a minute."""
        first = psutil.Process(self._process.pid)
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(60)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="cops-", ignore_cleanup_errors=True) as folder:
        started = Head(Path(folder))
        try:
            deadline = time.monotonic() + 100
            while time.monotonic() < deadline:
                with suppress(subprocess.CalledProcessError):
                    started.ray("assert gcs.get_all_node_info()")
                    break
            yield started
        finally:
            started.end()


def test_a_wrong_token(head: Head) -> None:
    said = head.refusal(RAY_AUTH_TOKEN="0" * 32)
    assert f"RAY_ADDRESS = '127.0.0.1:{head.port}' refuses our token" in said
    assert "RAY_AUTH_TOKEN" in said
    assert "0" * 32 not in said


def test_no_token(head: Head) -> None:
    """This process has none."""
    with pytest.raises(UserError, match="refuses our token: set RAY_AUTH_MODE=token"):
        answers(f"127.0.0.1:{head.port}")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379"])
def test_a_wrong_address(address: str) -> None:
    with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS = '{address}'.*HOST:PORT"):
        answers(address)


def test_more_than_any_node_has(head: Head, tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | {"resources": {"cpu": 1, "gpu": 1}}))
    said = head.refusal(file)
    assert "resources.gpu = 1: no node of the Ray cluster has as much" in said
    assert "at most 1 CPUs and 0 GPUs" in said
    assert "ask for less" in said


def test_an_autoscaled_cluster_may_get_such_a_node() -> None:
    """KubeRay and Ray's launcher label the nodes that they start by their group."""
    small = {"Alive": True, "Resources": {"CPU": 2.0}, "Labels": {"ray.io/node-group": "cpu"}}
    said = suffices(Resources(gpu=1), [small])
    assert said is not None
    assert "waiting for the autoscaler" in said
    gone = {"Alive": False, "Resources": {"CPU": 2.0, "GPU": 1.0}, "Labels": {}}
    with pytest.raises(UserError, match="at most 2 CPUs and 0 GPUs"):
        suffices(Resources(gpu=1), [small | {"Labels": {}}, gone])
    assert suffices(Resources(gpu=1), [small, gone | {"Alive": True}]) is None


def test_another_version_of_ray(head: Head) -> None:
    """The last test here: the head says ever after that it is another version."""
    change = "import json; said = json.loads(gcs.internal_kv_get(*KEY)) | {'ray_version': '2.40.0'}; "
    change += "gcs.internal_kv_put(KEY[0], json.dumps(said).encode(), True, KEY[1])"
    head.ray("KEY = (b'CLUSTER_METADATA', b'cluster'); " + change)
    said = head.refusal()
    assert "Ray: 2.40.0" in said
    assert "submit the sweep with `ray job submit`" in said


def test_a_jobs_package_is_small(tmp_path: Path) -> None:
    """What `ray job submit --working-dir .` sends of the checkout."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < 5e6
    assert "jobs/__main__.py" in names
    assert not [
        name for name in names if name.startswith((".git/", ".venv/", "data/")) or "cache" in name.split("/")[0]
    ]
