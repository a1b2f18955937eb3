"""A Ray cluster of three nodes on this machine, whose processes can be killed."""

import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ray.cluster_utils import Cluster


class Nodes:
    """Three nodes of one CPU each, each with a temporary folder of its own.

    Args:
        folder: short, since Ray's socket paths may not be long.
        head: CPUs of the head.
        workers: nodes beside it, which is never killed.
    """

    def __init__(self, folder: Path, head: int = 1, workers: int = 2) -> None:
        self._folder = folder
        self._added = 0
        first = {"num_cpus": head, "include_dashboard": False, "temp_dir": str(folder / "head"), **_LOOPBACK}
        self._cluster = Cluster(initialize_head=True, head_node_args=first)
        self._nodes = [self._add() for _ in range(workers)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_node(self, draw: random.Random) -> None:
        """Kill a node's raylet, and add a fresh node in its place."""
        node = self._nodes.pop(draw.randrange(len(self._nodes)))
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._add())

    def kill_worker(self, draw: random.Random, mark: str) -> bool:
        """Kill a process that runs a trial, of those with `mark` in their environment; whether there was one."""
        found = [pid for pid in _running(mark) if "SweepTrial" in _title(pid)]
        if found:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
        return bool(found)

    def _add(self) -> Any:
        self._added += 1
        return self._cluster.add_node(num_cpus=1, temp_dir=str(self._folder / f"n{self._added}"), **_LOOPBACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()


_LOOPBACK: dict[str, Any] = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}


def _running(mark: str) -> list[int]:
    """Processes of this machine with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
