"""Whether the API lives and can answer, and its metrics."""

import asyncio
from collections.abc import Callable
from urllib.request import urlopen

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from service.launcher import ClusterError
from service.observe import Metrics
from service.parts import Parts
from service.problems import ProblemError, responses

PART_SECONDS = 3.0  # for a part to answer
OLD_SECONDS = 60.0  # a catalog that is not brought up to date


class Health(BaseModel):
    """That the process answers."""

    status: str = Field("ok", examples=["ok"])


class Ready(BaseModel):
    """That all parts answer."""

    parts: dict[str, str] = Field(examples=[{"catalog": "ok", "mlflow": "ok", "ray": "ok"}])


def routes(parts: Parts, metrics: Metrics) -> APIRouter:
    """The operations."""
    router = APIRouter(tags=["health"])
    mlflow = f"{parts.runs.uri}/health"

    def catalog_answers() -> None:
        if parts.age() > OLD_SECONDS:
            raise OSError(f"not brought up to date for {parts.age():.0f} s")

    def mlflow_answers() -> None:
        with urlopen(mlflow, timeout=PART_SECONDS):  # noqa: S310  # settings allow http(s) alone
            return

    checks: dict[str, Callable[[], None]] = {"catalog": catalog_answers, "mlflow": mlflow_answers}
    if parts.settings.ray_jobs:
        checks["ray"] = parts.steering.check

    @router.get("/healthz")
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health()

    @router.get("/readyz", responses={503: responses()[503]})
    async def readyz() -> Ready:
        """Whether all that it needs answers, too; else which part does not."""
        told = await asyncio.gather(*(_told(check) for check in checks.values()))
        found = dict(zip(checks, told, strict=True))
        bad = [f"{name}: {said}" for name, said in found.items() if said != "ok"]
        if bad:
            raise ProblemError(503, "; ".join(bad))
        return Ready(parts=found)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses()},
        dependencies=[Depends(parts.auth.need("read"))],
    )
    def prometheus() -> Response:
        """For Prometheus; of this process alone."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _told(check: Callable[[], None]) -> str:
    try:
        async with asyncio.timeout(PART_SECONDS):
            await run_in_threadpool(check)
    except TimeoutError:
        return "does not answer"
    except (OSError, ClusterError) as error:
        return str(error)
    return "ok"
