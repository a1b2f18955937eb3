"""The API's description, completed: what FastAPI does not see of it."""

from typing import Any

from fastapi import FastAPI

from jobs.spec import Spec
from service.problems import ProblemDetails

MASK = {"/v1/masks/best": "#/id", "/v1/masks": "#/0/id", "/v1/frontier": "#/0/id"}  # what answers a mask, and where
SWEEP = {"/v1/sweeps": "#/0/id"}


def complete(app: FastAPI, *, tokens: bool) -> None:
    """Add the forms of problems and sweep files, what leads to what, and whether tokens are needed."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain(), tokens)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(tree: dict[str, Any], tokens: bool) -> None:
    schemas = tree["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no answer has
        schemas.pop(name, None)
    for model in (ProblemDetails, Spec):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    _link(tree["paths"], MASK, "/v1/masks/{mask_id}", ("mask_id", "other_id"))
    _link(tree["paths"], SWEEP, "/v1/sweeps/{sweep_id}", ("sweep_id",))
    if not tokens:
        for operations in tree["paths"].values():
            for operation in operations.values():
                operation.get("security", []).append({})  # none will do as well


def _link(paths: dict[str, Any], answers: dict[str, str], prefix: str, names: tuple[str, ...]) -> None:
    """From each operation that answers an id to all that ask for one."""
    for source, place in answers.items():
        links = {}
        for path, operations in paths.items():
            if path.startswith(prefix) and "get" in operations:
                parameters = {name: f"$response.body{place}" for name in names if f"{{{name}}}" in path}
                id_ = operations["get"]["operationId"]
                links[id_] = {"operationId": id_, "parameters": parameters}
        paths[source]["get"]["responses"]["200"]["links"] = links
