"""Sweeps: start, watch, stop and resume them."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import yaml
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, StreamingResponse

from jobs import control
from jobs.errors import UserError
from jobs.explain import LEAST
from jobs.spec import Spec
from service.launcher import ClusterError
from service.parts import Parts
from service.problems import ProblemError, responses
from service.sweeps import SweepStatus
from service.tokens import Scope

YAML, JSON = ("application/yaml", "application/x-yaml", "text/yaml"), "application/json"
DEEPEST = 20
SweepId = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{32}$",
        description="id of a sweep, as the other calls answer it",
        examples=["0123456789abcdef0123456789abcdef"],
    ),
]
BODY = {
    "required": True,
    "description": "a sweep file; the cluster must have the data that it names",
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/Spec"}, "example": LEAST},
        YAML[0]: {"schema": {"type": "string"}, "example": yaml.safe_dump(LEAST, sort_keys=False)},
    },
}
LOCATION: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "of the sweep", "schema": {"type": "string"}}}}
}
LOG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "what the sweep has printed"}
}


def read_spec(text: bytes, content_type: str) -> Spec:
    """The sweep of a request's body.

    Raises:
        ProblemError: it is of another type, or not valid: in the words of the command line.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != JSON and kind not in YAML:
        raise ProblemError(415, f"Content-Type: {kind[:100] or 'none'}: send {YAML[0]} or {JSON}")
    try:
        decoded = text.decode()
        if kind in YAML:
            _check_shape(decoded)
            return Spec.parse(decoded, "sweep")
        return Spec.of(json.loads(decoded, object_pairs_hook=_once), "sweep")
    except UserError as error:
        raise ProblemError(422, str(error)) from None
    except yaml.YAMLError as error:
        raise ProblemError(422, f"sweep is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:  # of JSON, or UTF-8
        raise ProblemError(422, f"sweep cannot be read: {error}") from None


def routes(parts: Parts) -> APIRouter:
    """The operations."""
    router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])
    reader, submitter = Depends(parts.auth.need("read")), Depends(parts.auth.need("submit"))
    steering = parts.steering

    @router.post(
        "",
        status_code=202,
        responses={**LOCATION, **responses(408, 409, 413, 415)},
        openapi_extra={"requestBody": BODY},
    )
    async def submit(request: Request, response: Response, scope: Annotated[Scope, submitter]) -> SweepStatus:
        """Start a sweep in the cluster, or let it go on where it ended: the same file is the same sweep."""
        body = await request.body()
        spec = await run_in_threadpool(read_spec, body, request.headers.get("Content-Type", ""))
        found = await run_in_threadpool(steering.submit, spec, scope)
        response.headers["Location"] = f"/v1/sweeps/{found.id}"
        return found

    @router.get("", responses=responses(), dependencies=[reader])
    def sweeps() -> list[SweepStatus]:
        """All sweeps, those begun last first."""
        return steering.every()

    @router.get("/{sweep_id}", responses=responses(404), dependencies=[reader])
    def sweep(sweep_id: SweepId) -> SweepStatus:
        """How a sweep stands: trials by state, the best so far, the time to go."""
        return steering.one(sweep_id)

    @router.get(
        "/{sweep_id}/logs",
        response_class=PlainTextResponse,
        responses={**LOG, **responses(404)},
        dependencies=[reader],
    )
    async def logs(
        sweep_id: SweepId,
        follow: Annotated[bool, Query(description="go on until the sweep ends")] = False,
    ) -> Response:
        """What a sweep has printed, while it runs and after."""
        lines = await run_in_threadpool(steering.follow, sweep_id) if follow else None
        if lines is None:
            return PlainTextResponse(await run_in_threadpool(steering.log, sweep_id))
        return StreamingResponse(_lines(lines), media_type="text/plain; charset=utf-8")

    @router.post("/{sweep_id}/{wish}", status_code=202, responses=responses(404, 409))
    def steer(
        sweep_id: SweepId,
        wish: Annotated[
            Literal["stop", "cancel", "resume"],
            Path(description="stop: running trials end, no more start; cancel: they are ended; resume: go on"),
        ],
        scope: Annotated[Scope, submitter],
    ) -> SweepStatus:
        """Stop, cancel or resume a sweep."""
        if wish == "resume":
            return steering.resume(sweep_id, scope)
        return steering.wish(sweep_id, control.STOP if wish == "stop" else control.CANCEL)

    return router


def _check_shape(text: str) -> None:
    """Refuse YAML that takes long to read: nested deeply, or with aliases, by which a few lines stand for millions."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"sweep: nested more than {DEEPEST} deep: no sweep file is")
        if isinstance(event, yaml.AliasEvent):
            raise UserError("sweep: aliases (*name) are not taken here: write out what they stand for")


async def _lines(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """What a job prints; where the cluster goes in the middle of it, that is the end."""
    try:
        async for text in lines:
            yield text
    except ClusterError:
        yield "\n[the cluster does not answer any more]\n"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise UserError(f"sweep: key {twice!r} stands twice in one place: keep one")
    return found
