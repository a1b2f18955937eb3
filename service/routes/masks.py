"""Masks: which is best, and which there are."""

from dataclasses import fields
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from jobs.errors import UserError
from service.catalog import Order, Wanted
from service.masks import MaskSummary, Metric
from service.parts import Parts
from service.problems import ProblemError, responses

JSON = "application/json"
Text = Annotated[str, Field(min_length=1, max_length=500)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Filters(BaseModel):
    """Which masks are asked for."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Text | None = Field(None, description="as in the sweep file", examples=["convnet"])
    data: Text | None = Field(None, description="as in the sweep file", examples=["digits"])
    target: Text | None = Field(None, description="the target's scores, joined by +", examples=["snip+synflow"])
    control: Text | None = Field(None, description="one of the control scores", examples=["grasp"])
    layout: Text | None = Field(None, description="unstructured, filter or n:m", examples=["unstructured"])
    seed: int | None = Field(None, ge=0, le=2**40, description="of the initial weights", examples=[0])
    samples: int | None = Field(
        None, ge=16, le=10**9, description="of sweeps with so few `samples`, for trying out, instead of those with all"
    )
    metric: Metric = Field("validation_accuracy", description="by which masks are compared")
    min_confirmations: int = Field(0, ge=0, le=10**9, description="runs with fresh seeds, at least")


class BestFilters(Filters):
    """Of which masks the best is asked for."""

    model: Text = Field(description="as in the sweep file", examples=["convnet"])
    data: Text = Field(description="as in the sweep file", examples=["digits"])
    sparsity: float = Field(gt=0, lt=1, description="fraction of the weights removed", examples=[0.95])
    tolerance: Fraction = Field(0, description="the nearest at or above `sparsity` may be so much sparser")


class FrontierFilters(Filters):
    """Of which masks the frontier is asked for."""

    model: Text = Field(description="as in the sweep file", examples=["convnet"])
    data: Text = Field(description="as in the sweep file", examples=["digits"])


class ListFilters(Filters):
    """Which masks are listed, and how."""

    sparsity_min: Fraction | None = Field(None, description="at least so sparse")
    sparsity_max: Fraction | None = Field(None, description="at most so sparse")
    sort: Order = Field("-validation_accuracy", description="by what, from high to low with -")
    limit: int = Field(100, ge=1, le=1000, description="masks of a page")
    cursor: str | None = Field(None, max_length=1000, description="from the address of the next page")


def wanted(query: Filters) -> Wanted:
    """The catalog's question."""
    known = {field.name for field in fields(Wanted)}
    return Wanted(**{name: value for name, value in query if name in known})


def routes(parts: Parts) -> APIRouter:
    """The operations."""
    router = APIRouter(prefix="/v1", tags=["masks"], dependencies=[Depends(parts.auth.need("read"))])
    catalog = parts.catalog

    @router.get("/masks/best", response_model=MaskSummary, responses=responses(404))
    async def best_mask(query: Annotated[BestFilters, Query()]) -> Response:
        """The best mask of a model at a sparsity. Masks confirmed with fresh seeds come before those that are not."""
        asked = wanted(query)
        found = catalog.best_json(asked)
        if found is None:
            await parts.fresh()
            found = catalog.best_json(asked)
        if found is None:
            there = catalog.sparsities(Wanted(query.model, query.data, samples=query.samples))
            known = ", ".join(f"{one:g}" for one in there) or "none"
            given = " ".join(f"{name}={value}" for name, value in query if value is not None)
            raise ProblemError(404, f"no mask for {given}; of that model and data, sparsities with masks: {known}")
        return Response(found, media_type=JSON)

    @router.get(
        "/masks",
        response_model=list[MaskSummary],
        responses={
            200: {
                "headers": {
                    "Link": {
                        "description": 'the next page, if there is one: `<...>; rel="next"` (RFC 8288)',
                        "schema": {"type": "string"},
                    }
                }
            },
            **responses(),
        },
    )
    async def masks(query: Annotated[ListFilters, Query()], request: Request) -> Response:
        """Masks, each by each recipe that it was trained by, a page at a time."""
        if catalog.synced is None:
            await parts.fresh()
        try:
            found, cursor = catalog.page_json(wanted(query), query.sort, query.cursor, query.limit)
        except UserError as error:
            raise ProblemError(422, str(error)) from None
        headers = {}
        if cursor is not None:
            following = urlencode({**request.query_params, "cursor": cursor})
            headers["Link"] = f'<{request.url.path}?{following}>; rel="next"'
        return Response(b"[" + b",".join(found) + b"]", media_type=JSON, headers=headers)

    @router.get("/frontier", response_model=list[MaskSummary], responses=responses())
    async def frontier(query: Annotated[FrontierFilters, Query()]) -> Response:
        """Masks of a model that no other is both as sparse and more accurate than, the sparsest last."""
        if catalog.synced is None:
            await parts.fresh()
        return Response(to_json(catalog.frontier(wanted(query))), media_type=JSON)

    return router
