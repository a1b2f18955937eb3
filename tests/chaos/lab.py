"""The compose file's services on hosts of their own, from wheels: as they would run on machines, but for docker.

PostgreSQL and MLflow share a host; S3, Ray's head and each of its workers have their own; sweeps come from another.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.hosts import Host, Network
from tests.conftest import ROOT
from tests.infra import services
from tests.infra.manifests import BIN

NAMES = [("store", "postgres", "mlflow"), ("s3",), ("head",), ("client",), ("worker1",), ("worker2",), ("worker3",)]
DASHBOARD = "http://head:8265"
SECONDS = 180.0  # for a service to be well
# As a container that is started again when it ends: nothing of it is left then.
AGAIN = 'while :; do unshare --pid --fork --kill-child --mount-proc "$@"; sleep 1; done'


class Lab:
    """All hosts and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._services = services.filled()
        self._network = Network(NAMES, folder)
        self.hosts: dict[str, Host] = {}
        self.store, self.s3, self.client = (self.on(name) for name in ("store", "s3", "client"))
        data = folder / "postgres"
        data.mkdir()
        self.start("s3", self.s3)
        self.start("postgres", self.store, data)
        self.well("postgres", self.store)
        self.start("mlflow", self.store)
        self.well("mlflow", self.store)  # one after the other, as in compose: two cores are soon too few
        self.well("s3", self.s3)
        self.head()
        for name in ("worker1", "worker2"):
            self.worker(name)
        self.ready(2)

    def on(self, name: str) -> Host:
        """Switch a host on."""
        self.hosts[name] = self._network.host(name)
        return self.hosts[name]

    def head(self) -> None:
        """Switch the head's host on, with a Ray head that knows nothing of an earlier one."""
        host = self.on("head")
        self.start("head", host)
        self.well("head", host)

    def worker(self, name: str) -> None:
        """Switch a worker's host on, which joins the head."""
        self.start("worker", self.on(name))

    def start(self, name: str, host: Host, data: Path | None = None) -> None:
        """Start a service on a host."""
        environment = services.environment(self._services[name])
        command = services.postgres(data, environment) if data else services.command(self._services[name])
        if name in ("head", "worker"):
            command = ["bash", "-c", AGAIN, "again", *command, *["--num-cpus=1"] * (name == "worker")]
        host.start(*command, environment=environment)

    def well(self, name: str, host: Host) -> None:
        """Wait until a service is well on a host, by its health check."""
        test, environment = services.health(self._services[name]), services.environment(self._services[name])
        deadline = time.monotonic() + SECONDS
        while host.run(*test, environment=environment, check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is not well: see {host.log}")
            time.sleep(0.5)

    def ready(self, workers: int) -> None:
        """Wait until the head has so many living workers."""
        line: list[str | Path] = [
            BIN / "ray",
            "list",
            "nodes",
            "--address",
            DASHBOARD,
            "--filter",
            "state=ALIVE",
            "--format",
            "json",
        ]
        deadline = time.monotonic() + SECONDS
        while True:
            done = self.client.run(*line, environment=self.secrets("head"), check=False)
            if done.stdout.count('"is_head_node": false') >= workers:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers do not join: {done.stdout}{done.stderr}")

    def secrets(self, name: str) -> dict[str, str]:
        """The environment of a service."""
        return services.environment(self._services[name])

    def submit(self, sweep: Path) -> Any:
        """Submit a sweep as a job with the checkout as its working directory, from the client; its process there.

        The client knows Ray's token, and no other secret. The file is put on the head first.
        """
        to = f"/var/tmp/{sweep.name}"
        self.hosts["head"].run("sh", "-c", f"cat > {to} <<'END'\n{sweep.read_text()}\nEND")
        every = self.secrets("head")
        known = {name: every[name] for name in ("PATH", "HOME", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        line: list[str | Path] = [BIN / "ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ROOT]
        return self.client.start(*line, "--", "python", "-m", "jobs", to, environment=known)

    def processes(self, host: Host, name: str) -> list[psutil.Process]:
        """Processes of a host by their program's name."""
        where = Path(f"/proc/{host.first}/ns/net").readlink()
        named = [one for one in psutil.process_iter(["name"]) if one.info["name"] == name]
        return [one for one in named if Path(f"/proc/{one.pid}/ns/net").readlink() == where]


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A lab, whose secrets are in the environment meanwhile."""
    built = Lab(folder)
    before = dict(os.environ)
    os.environ.update({name: text for name, text in built.secrets("head").items() if name not in before})
    try:
        yield built
    finally:
        os.environ.clear()
        os.environ.update(before)
        for host in built.hosts.values():
            host.off()
