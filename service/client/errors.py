"""What goes wrong between a client and the API, said in one line."""

from typing import Any, Self

import httpx

from jobs.errors import UserError


class ApiError(UserError):
    """The API refused, or cannot be reached.

    Args:
        message: what is wrong, in the API's words where it answered.
        status: HTTP status; 0 = no answer.
        request_id: by which the API's log knows the request.
    """

    def __init__(self, message: str, status: int = 0, request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.request_id = status, request_id

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """The error that an answer with a status of 400 or more tells (RFC 9457)."""
        problem: dict[str, Any] = {}
        if "json" in response.headers.get("Content-Type", ""):
            found = response.json()
            problem = found if isinstance(found, dict) else {}
        title = problem.get("title") or response.reason_phrase
        detail = (
            problem.get("detail") or f"{response.request.method} {response.request.url} gave {response.status_code}"
        )
        request_id = str(problem.get("request_id") or response.headers.get("X-Request-Id", ""))
        told = f" (request {request_id})" if response.status_code >= 500 and request_id else ""
        return cls(f"{title}: {detail}{told}", response.status_code, request_id)
