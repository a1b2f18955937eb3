"""What can be seen of the API from outside: request ids, a log of JSON lines, metrics for Prometheus."""

import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems

ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")  # of requests, that callers may choose
UNLOGGED = {"/healthz", "/readyz", "/metrics"}  # asked all the time; unless they fail
CLOSED = 499  # nginx's word for a caller who left
log = logging.getLogger("cops.api")


class Gauges(Protocol):
    """What the metrics show beside requests."""

    def masks(self) -> int:
        """Number of masks known."""

    def age(self) -> float:
        """Seconds since the catalog was in step with MLflow."""

    def sweeps(self) -> dict[str, int]:
        """Number of sweeps by state."""


class Metrics:
    """Of one process: behind a balancer each replica has its own."""

    def __init__(self, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("cops_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "cops_request_seconds", "From a request to the end of its answer.", ("route",), registry=self._registry
        )
        masks = Gauge("cops_catalog_masks", "Masks known.", registry=self._registry)
        masks.set_function(lambda: float(gauges.masks()))
        age = Gauge("cops_catalog_age_seconds", "Since the catalog was in step with MLflow.", registry=self._registry)
        age.set_function(gauges.age)
        self._sweeps = Gauge("cops_sweeps", "Sweeps known.", ("state",), registry=self._registry)
        self._gauges = gauges
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Add a request; the labels are few, so what counts for them is looked up once."""
        found = self._children.get((method, route, status))
        if found is None:
            found = self._requests.labels(method, route, status), self._seconds.labels(route)
            self._children[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        self._sweeps.clear()
        for state, number in self._gauges.sweeps().items():
            self._sweeps.labels(state).set(number)
        return generate_latest(self._registry)


class Observe:
    """Pure ASGI: gives each request an id, logs and counts it, and answers what nobody foresaw."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8).encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, told)
        except ClientDisconnect:
            status = CLOSED
        except Exception as error:
            state["error"] = "".join(traceback.format_exception(error))
            if status:  # too late to say so: the connection breaks off
                status = 500
                raise
            await _apologise(told, state["request_id"])
        finally:
            self._note(scope, status or CLOSED, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        template = getattr(route, "path", None) or "none"
        method = scope["method"] if template != "none" else "any"  # strangers must not make new series
        self._metrics.count(method, template, status, seconds)
        if template in UNLOGGED and status < 400:
            return
        state = scope["state"]
        line = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 2),
            "client": scope["client"][0] if scope.get("client") else None,
        }
        more = {name: state[name] for name in ("token", "error") if name in state}
        log.log(logging.ERROR if status == 500 else logging.INFO, "request", extra={"fields": line | more})


async def _apologise(send: Send, request_id: str) -> None:
    content = problems.body(500, "the server failed; its log has the request's id", request_id)
    headers = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, what, and the fields of a request. Queries and headers are not logged."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_json(names: Iterable[str] = ("cops", "service", "uvicorn")) -> None:
    """Let the API's loggers write JSON lines, in UTC, to the standard error stream."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonLines()
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True  # ours says more
