"""The clients: one waits, one awaits; both run the same operations."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_retries import Retry, RetryTransport
from platformdirs import user_cache_path

from service.client import operations
from service.client.cache import Cache
from service.client.errors import ApiError
from service.client.operations import Request, Steps

P = ParamSpec("P")
T = TypeVar("T")
RETRIES = Retry(total=4, backoff_factor=0.5, max_backoff_wait=20)  # of what can be asked twice: not of POST
SECONDS = 30.0


class _Both:
    """What the two clients share: where the API is, and what was fetched before."""

    def __init__(self, url: str | None = None, token: str | None = None, cache: Path | None = None) -> None:
        self.url = (url or os.environ.get("COPS_API_URL") or _here()).rstrip("/")
        token = token or os.environ.get("COPS_API_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._cache = Cache(cache or user_cache_path("cops") / "files")

    def _options(self) -> dict[str, Any]:
        return {"base_url": self.url, "headers": self._headers, "timeout": SECONDS, "follow_redirects": False}

    def _unreachable(self, error: httpx.TransportError) -> ApiError:
        return ApiError(
            f"no API answers at {self.url} ({error}): start one with `cops serve` or `cops up`, or set COPS_API_URL"
        )


def _here() -> str:
    """Where `cops serve` listens."""
    return f"http://127.0.0.1:{os.environ.get('COPS_API_PORT', '8050')}"


def _waiting(operation: Callable[Concatenate[Cache, P], Steps[T]]) -> Callable[Concatenate["Client", P], T]:
    @wraps(operation)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        steps = operation(self._cache, *args, **kwargs)
        try:
            request = next(steps)
            while True:
                request = steps.send(self._send(request))
        except StopIteration as end:
            result: T = end.value
            return result

    return call


def _awaiting(
    operation: Callable[Concatenate[Cache, P], Steps[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    @wraps(operation)
    async def call(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        steps = operation(self._cache, *args, **kwargs)
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._send(request))
        except StopIteration as end:
            result: T = end.value
            return result

    return call


class Client(_Both):
    """Asks the API; what fails for a moment is tried again, and files are fetched once.

        client = Client()
        client.best("convnet", "digits", 0.95).apply(model)

    Args:
        url: the API's address; without it COPS_API_URL, else this machine's.
        token: without it COPS_API_TOKEN; none on loopback.
        cache: folder for files; without it the user's cache folder.
    """

    def __init__(self, url: str | None = None, token: str | None = None, cache: Path | None = None) -> None:
        super().__init__(url, token, cache)
        self._http = httpx.Client(transport=RetryTransport(retry=RETRIES), **self._options())

    best = _waiting(operations.best)
    masks = _waiting(operations.masks)
    frontier = _waiting(operations.frontier)
    mask = _waiting(operations.mask)
    layers = _waiting(operations.layers)
    similarity = _waiting(operations.similarity)
    mask_file = _waiting(operations.mask_file)
    weights_file = _waiting(operations.weights_file)
    submit = _waiting(operations.submit)
    sweeps = _waiting(operations.sweeps)
    sweep = _waiting(operations.sweep)
    stop = _waiting(operations.stop)
    cancel = _waiting(operations.cancel)
    resume = _waiting(operations.resume)

    def logs(self, sweep_id: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of a sweep's log; with `follow` until it ends.

        Raises:
            ApiError: as `sweep`.
        """
        path, query = f"/v1/sweeps/{sweep_id}/logs", {"follow": str(follow).lower()}
        try:
            with self._http.stream("GET", path, params=query, timeout=None if follow else SECONDS) as response:
                if response.is_error:
                    response.read()
                    raise ApiError.of(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, request: Request) -> httpx.Response:
        try:
            response = self._http.request(**_arguments(request))
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise ApiError.of(response)
        return response

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Both):
    """`Client` for asyncio: the same methods, to be awaited."""

    def __init__(self, url: str | None = None, token: str | None = None, cache: Path | None = None) -> None:
        super().__init__(url, token, cache)
        self._http = httpx.AsyncClient(transport=RetryTransport(retry=RETRIES), **self._options())

    best = _awaiting(operations.best)
    masks = _awaiting(operations.masks)
    frontier = _awaiting(operations.frontier)
    mask = _awaiting(operations.mask)
    layers = _awaiting(operations.layers)
    similarity = _awaiting(operations.similarity)
    mask_file = _awaiting(operations.mask_file)
    weights_file = _awaiting(operations.weights_file)
    submit = _awaiting(operations.submit)
    sweeps = _awaiting(operations.sweeps)
    sweep = _awaiting(operations.sweep)
    stop = _awaiting(operations.stop)
    cancel = _awaiting(operations.cancel)
    resume = _awaiting(operations.resume)

    async def logs(self, sweep_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """As `Client.logs`."""
        path, query = f"/v1/sweeps/{sweep_id}/logs", {"follow": str(follow).lower()}
        try:
            async with self._http.stream("GET", path, params=query, timeout=None if follow else SECONDS) as response:
                if response.is_error:
                    await response.aread()
                    raise ApiError.of(response)
                async for line in response.aiter_lines():
                    yield line
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, request: Request) -> httpx.Response:
        try:
            response = await self._http.request(**_arguments(request))
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise ApiError.of(response)
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _arguments(request: Request) -> dict[str, Any]:
    """Of `httpx.Client.request`."""
    headers = {"Content-Type": request.content_type} if request.content_type else {}
    # httpx takes a query for a replacement of the address's own: none must stay none.
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "content": request.body,
        "headers": headers,
    }
