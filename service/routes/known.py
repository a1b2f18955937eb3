"""What a sweep may be made of: models, data sets, scores, and the sweep file's schema."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from cops import SCORES
from jobs.explain import schema, summary
from jobs.models import MODELS
from jobs.workloads import DATA, GIVEN
from service.parts import Parts
from service.problems import responses


class Known(BaseModel):
    """A model, data set or score that a sweep may name."""

    name: str = Field(examples=["resnet20"])
    about: str = Field(description="what it is")
    options: dict[str, Any] = Field(
        description="by name, with their defaults; null for none", examples=[{"width": 1.0}]
    )


class KnownNames(BaseModel):
    """What a sweep may name, and what there are masks of."""

    shipped: list[Known]
    with_masks: list[str] = Field(description="as sweep files had it", examples=[["convnet", "resnet20(width=0.5)"]])


def routes(parts: Parts) -> APIRouter:
    """The operations."""
    router = APIRouter(prefix="/v1", tags=["known"], dependencies=[Depends(parts.auth.need("read"))])
    text = schema()

    @router.get("/models", responses=responses())
    def models() -> KnownNames:
        """Networks."""
        return KnownNames(shipped=_known(MODELS, GIVEN), with_masks=parts.catalog.names().models)

    @router.get("/data", responses=responses())
    def data() -> KnownNames:
        """Data sets."""
        return KnownNames(shipped=_known(DATA, GIVEN), with_masks=parts.catalog.names().data)

    @router.get("/scores", responses=responses())
    def scores() -> list[Known]:
        """Pruning scores, as targets, controls and baselines."""
        return _known(SCORES, ("model", "batches"))

    @router.get("/schema", response_class=Response, responses={200: _SCHEMA, **responses()})
    def sweep_schema() -> Response:
        """The JSON schema of a sweep file, for editors."""
        return Response(text, media_type="application/schema+json")

    return router


_SCHEMA: dict[str, Any] = {"content": {"application/schema+json": {"schema": {"type": "object"}}}}


def _known(functions: Mapping[str, Callable[..., Any]], given: tuple[str, ...]) -> list[Known]:
    return [Known(name=name, about=summary(one), options=_options(one, given)) for name, one in functions.items()]


def _options(function: Callable[..., Any], given: tuple[str, ...]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: None if one.default is one.empty else one.default for one in parameters if one.name not in given}
