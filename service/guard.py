"""What is refused before it reaches a route: strange hosts, other sites' pages, bodies too large or too slow."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.problems import ProblemError

BODY_BYTES = 128 * 1024  # a sweep file has a few thousand
BODY_SECONDS = 10.0
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """Pure ASGI; see the module.

    Args:
        local: whether the API listens on loopback: then a web page of another site, by a name that it lets point
            here, must not be able to ask what the user's own browser may.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            if self._local:
                _own(scope["method"], headers)
            if int(headers.get(b"content-length", b"0")) > BODY_BYTES:
                raise _too_large()
        except ProblemError as error:
            await _answer(scope, send, error)
            return
        body = b"content-length" in headers or b"transfer-encoding" in headers
        await self._app(scope, _Body(receive) if body else receive, send)


class _Body:
    """Receives a body, up to a size and a time; what is raised here is told by whoever reads it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._bytes = 0
        self._over = False
        self._deadline = time.monotonic() + BODY_SECONDS

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._over:  # what is awaited now is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise ProblemError(
                408, f"the body did not come within {BODY_SECONDS:g} s", {"Connection": "close"}
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > BODY_BYTES:
            raise _too_large()
        self._over = not message.get("more_body", False)
        return message


def _own(method: str, headers: dict[bytes, bytes]) -> None:
    host = headers.get(b"host", b"").decode("latin-1")
    if _name(f"//{host}") not in LOOPBACK_NAMES:
        raise ProblemError(
            400, f"Host: {host[:100]!r} is not a name of this machine's loopback: ask http://127.0.0.1:PORT"
        )
    origin = headers.get(b"origin", b"").decode("latin-1")
    if method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
        raise ProblemError(403, f"Origin: {origin[:100]!r}: pages of other sites may not ask that")


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _too_large() -> ProblemError:
    return ProblemError(413, f"the body is larger than {BODY_BYTES} bytes", {"Connection": "close"})


async def _answer(scope: Scope, send: Send, error: ProblemError) -> None:
    content = problems.body(error.status, error.detail, scope["state"]["request_id"])
    headers = {"Content-Type": problems.MEDIA_TYPE, "Content-Length": str(len(content)), **(error.headers or {})}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
