"""What the API says when it refuses or fails: problem details (RFC 9457), one form for every error."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from jobs.tracking import DamagedFileError, TrackingError
from service.catalogfile import DamagedError
from service.launcher import ClusterError

MEDIA_TYPE = "application/problem+json"
WHY = {
    400: "the request cannot be read",
    401: "a token is needed",
    403: "the token, or this server, does not allow it",
    404: "there is no such thing",
    406: "this server has it in another form only",
    408: "the body came too slowly",
    409: "it cannot be done in this state",
    413: "the body is too large",
    415: "the body is of another type than those taken",
    422: "a parameter or the sweep file is not valid",
    429: "too many requests",
    502: "a stored file is damaged",
    503: "a part that is needed does not answer",
}


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field("about:blank", description="no more is meant than the status says")
    title: str = Field(description="of the status", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(
        description="what is wrong, and what to do",
        examples=["no mask 0123456789abcdef0123456789abcdef: list them with /v1/masks"],
    )
    request_id: str = Field(description="by which the server's log knows the request", examples=["4f3c2a1b9d8e7f60"])
    link: str | None = Field(
        None, description="where to look", examples=["/v1/sweeps/0123456789abcdef0123456789abcdef"]
    )


class ProblemError(Exception):
    """The request ends with this status.

    Args:
        detail: what is wrong, and what to do.
        headers: of the answer.
        link: where to look.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, link: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.link = status, detail, headers, link


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of an operation's description: the errors that it may end with; some that any may are added."""
    return {
        status: {
            "description": WHY[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status in sorted({*statuses, 400, 401, 403, 422, 429, 503})
    }


def body(status: int, detail: str, request_id: str, link: str | None = None) -> bytes:
    """The JSON of a problem."""
    found = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    more = {"request_id": request_id} | ({"link": link} if link else {})
    return json.dumps(found | more).encode()


def install(app: FastAPI) -> None:
    """Answer every error with a problem. What nobody foresaw is answered where it is logged, in `observe`."""

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return _response(request, error.status, error.detail, error.headers, error.link)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _response(request, 422, "; ".join(_complaint(one) for one in error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        detail = error.detail
        if detail == HTTPStatus(error.status_code).phrase:  # Starlette's own
            detail = f"{request.method} {request.url.path}: see /docs for what there is"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one of the operations that share a path
            template = getattr(request.scope.get("route"), "path", "")
            if operations := request.app.openapi()["paths"].get(template):
                headers["Allow"] = ", ".join(sorted(map(str.upper, operations)))
        return _response(request, error.status_code, detail, headers)

    @app.exception_handler(ClusterError)
    async def no_cluster(request: Request, error: ClusterError) -> Response:
        request.state.error = str(error)
        return _response(request, 503, "Ray's server of jobs does not answer, or refuses", {"Retry-After": "5"})

    @app.exception_handler(DamagedFileError)
    async def damaged(request: Request, error: DamagedFileError) -> Response:
        return _response(request, 502, f"{error}: restore it, or run its sweep again")

    @app.exception_handler(DamagedError)
    async def no_catalog(request: Request, error: DamagedError) -> Response:
        request.state.error = str(error)
        return _response(request, 503, "the catalog is being made anew: ask again", {"Retry-After": "5"})

    @app.exception_handler(TrackingError)
    async def no_tracking(request: Request, error: TrackingError) -> Response:
        request.state.error = f"MLflow: {error}"
        return _response(request, 503, "MLflow does not answer, or refuses: try again soon", {"Retry-After": "5"})


def _response(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None, link: str | None = None
) -> Response:
    content = body(status, detail, request.state.request_id, link)
    return Response(content, status, dict(headers or {}), MEDIA_TYPE)


def _complaint(error: Mapping[str, Any]) -> str:
    """`sparsity = '1.5': Input should be less than 1`."""
    _, *path = error["loc"]  # query, path or body
    name = ".".join(map(str, path)) or str(error["loc"][0])
    if error["type"] == "missing":
        return f"{name} is missing: add it"
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {name}: see /docs"
    return f"{name} = {str(error['input'])[:100]!r}: {error['msg'].removeprefix('Value error, ')}"
