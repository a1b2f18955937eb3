"""Hosts on this machine: each has its own network, processes, name and temporary files, as virtual machines would.

All are Linux namespaces below one that `apart` makes, which the machine itself does not see: when that ends, however it
ends, the kernel removes everything. It takes root, and nothing but util-linux and iproute2.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

PREFIX = "10.77.0."
ALONE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork"]
APART = [*ALONE, "--kill-child", "--mount-proc"]
ENTER = ["nsenter", "--net", "--mount", "--pid", "--uts", "--ipc", "--target"]
FRESH = ("/var/lib/cops", "/run", "/dev/shm", "/var/tmp")  # folders that a host has to itself, in memory
# A host's first process: it collects what others leave behind, and with it they all end.
INIT = "".join(f"mkdir -p {path} && mount -t tmpfs -o mode=1777 tmpfs {path} && " for path in FRESH)


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    try:
        done = subprocess.run(
            [*APART, "ip", "link", "add", "bridge", "type", "bridge"], capture_output=True, check=False
        )
    except FileNotFoundError as error:
        return f"hosts in network namespaces take util-linux and iproute2: {error}"
    return done.returncode * f"hosts in network namespaces take root: {done.stderr.decode().strip()}"


def apart(*arguments: str) -> dict[str, int]:
    """Run a module of ours, with arguments, where there may be hosts; the JSON that it prints last.

    It dies with this process, and all hosts with it.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*APART, sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


class Host:
    """A machine in a network, called by its name from all others.

    Args:
        folder: where what its programs say is kept.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address = name, address
        self._folder = folder
        script = f"{INIT} hostname {name} && echo ready && {{ sleep infinity & wait; }}"
        self._outer = subprocess.Popen([*APART, "bash", "-c", script], stdout=subprocess.PIPE)
        assert self._outer.stdout is not None
        assert self._outer.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        self.first = int(children.read_text())  # process
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.first))
        ip("link", "set", self.cable, "master", "bridge", "up")
        for line in (["address", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            self.run("ip", *line)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def cable(self) -> str:
        """The end of its cable in the switch."""
        return f"to-{self.name}"

    def start(
        self, *command: str | Path, environment: Mapping[str, str] | None = None, cwd: str | Path = "/"
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host, whose output goes to the host's log."""
        with self.log.open("ab") as log:
            line = [*ENTER, str(self.first), f"--wdns={cwd}", *command]
            return subprocess.Popen(line, env=environment, stdout=log, stderr=log)

    def run(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end."""
        line = [*ENTER, str(self.first), "--wdns=/", *command]
        return subprocess.run(line, env=environment, check=check, timeout=timeout, text=True, capture_output=True)

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def plug(self, *, into: str) -> None:
        """Plug its cable into a switch, or, `into=""`, out of all."""
        ip("link", "set", self.cable, *(["master", into, "up"] if into else ["down"]))

    def off(self) -> None:
        """Switch it off: no process of it gets to say goodbye."""
        self._outer.kill()
        self._outer.wait()
        os.waitpid(self.first, 0)  # an orphan falls to the first process, which is this one
        subprocess.run(["ip", "link", "delete", self.cable], check=False, capture_output=True)  # it may be gone


class Network:
    """A switch with hosts, and the process that started it, at the first address.

    Args:
        names: of all hosts there will ever be; some may share an address, e.g. servers on one machine.
        folder: for what the hosts' programs say.
    """

    def __init__(self, names: Sequence[Sequence[str]], folder: Path) -> None:
        self._folder = folder
        self._addresses = {name: f"{PREFIX}{n}" for n, same in enumerate(names, 2) for name in same}
        ip("link", "set", "lo", "up")
        ip("link", "add", "bridge", "type", "bridge")
        ip("link", "set", "bridge", "up")
        ip("address", "add", f"{PREFIX}1/24", "dev", "bridge")
        file = folder / "hosts"
        lines = [f"{address} {name}" for name, address in self._addresses.items()]
        file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        subprocess.run(["mount", "--bind", file, "/etc/hosts"], check=True)

    def host(self, name: str) -> Host:
        """Switch a host on."""
        return Host(name, self._addresses[name], self._folder)


@contextmanager
def slow(host: Host, seconds: float, loss: float) -> Iterator[None]:
    """What comes from or goes to a host takes `seconds` more, and a share `loss` of the packets is lost."""
    ip("link", "add", "slow", "type", "veth", "peer", "name", "slow-switch")
    for line in (["slow", "up"], ["slow-switch", "master", "bridge", "up"], [host.cable, "nomaster"]):
        ip("link", "set", *line)
    options = [host.cable, "slow", str(seconds), str(loss)]
    wire = subprocess.Popen([sys.executable, "-m", "tests.chaos.wire", *options], cwd=ROOT)
    try:
        yield
        assert wire.poll() is None
    finally:
        wire.kill()
        wire.wait()
        ip("link", "delete", "slow")
        host.plug(into="bridge")


def ip(*arguments: str) -> None:
    """`ip ARGUMENTS`, in this process's own network."""
    subprocess.run(["ip", *arguments], check=True)
