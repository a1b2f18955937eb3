"""A load on an HTTP server of this machine: connections that ask one thing after the other, as fast as it answers.

It speaks just enough HTTP/1.1 for answers with a length: a full client would take more of the cores than the server.
`python -m tests.benchmarks.load PORT CONNECTIONS SECONDS` reads what to ask from stdin and prints the result as JSON.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Self

from tests.conftest import ROOT

Question = tuple[str, str]  # path; body, which is JSON and makes it a POST, or nothing


@dataclass(frozen=True)
class Load:
    """What came of it: answers per second, the times that they took, in ms, and how many were not 200."""

    rate: float
    p50: float
    p99: float
    errors: int

    @classmethod
    def put(cls, port: int, questions: list[Question], connections: int, seconds: float) -> Self:
        """Put it on, from a process of its own."""
        command = [sys.executable, "-m", "tests.benchmarks.load", str(port), str(connections), str(seconds)]
        told = json.dumps(questions)
        done = subprocess.run(command, cwd=ROOT, input=told, text=True, capture_output=True, check=True)
        return cls(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], took: list[float], until: float, failed: list[str]) -> None:
        self._requests, self._took, self._until, self._failed = requests, took, until, failed
        self._buffer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        now = time.perf_counter()
        self._took.append(now - self._asked)
        if not head.startswith(b"HTTP/1.1 200"):
            self._failed.append(head.partition(b"\r\n")[0].decode())
        self._buffer = b""
        if now < self._until:
            self._ask()
        else:
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._failed.append(f"closed: {exc}")
            self.over.set_result(None)


async def load(port: int, questions: list[Question], connections: int, seconds: float) -> Load:
    """Put it on from this process; the connections take turns at the questions."""
    requests = cycle([_request(port, *question) for question in questions])
    took: list[float] = []
    failed: list[str] = []
    started = time.perf_counter()

    def connection() -> _Connection:
        return _Connection(requests, took, started + seconds, failed)

    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(connection, "127.0.0.1", port) for _ in range(connections)]
    await asyncio.gather(*(protocol.over for _, protocol in opened))
    for line, count in Counter(failed).items():
        print(f"{count} times {line}", file=sys.stderr)
    cuts = statistics.quantiles(took, n=100)
    return Load(len(took) / (time.perf_counter() - started), 1000 * cuts[49], 1000 * cuts[98], len(failed))


def _request(port: int, path: str, body: str) -> bytes:
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: keep-alive"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", body]).encode()


def main() -> None:
    """Print the result as JSON."""
    port, connections, seconds = sys.argv[1:]
    found = asyncio.run(load(int(port), json.load(sys.stdin), int(connections), float(seconds)))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
