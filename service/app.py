"""The API: which mask is best, its files, and sweeps that find better ones. Its rooms are put together here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service import openapi, problems
from service.guard import Guard
from service.observe import Metrics, Observe
from service.parts import Parts
from service.routes import health, known, mask, masks, sweeps
from service.settings import ApiSettings

ABOUT = """Masks that prune networks before training, how good they are, and the sweeps that find them.

Every error is a problem (RFC 9457), and every answer has an `X-Request-Id`, by which the log knows it. On any address
but loopback a token is needed: `Authorization: Bearer cops_...`, of scope read; to start and steer sweeps, submit; for
sweeps that name code by import path, or data anywhere, admin."""


def create_app(tracking_uri: str, settings: ApiSettings) -> FastAPI:
    """The API over the MLflow server at `tracking_uri`.

    Raises:
        UserError: the catalog cannot be written, or tokens are needed and there is none.
    """
    parts = Parts.over(tracking_uri, settings)
    metrics = Metrics(parts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with parts.catalog, parts.syncing:
            yield

    app = FastAPIOffline(
        redoc_url=None,
        title="COPS",
        version="1",
        description=ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
    )
    for room in (masks, mask, sweeps, known):
        app.include_router(room.routes(parts))
    app.include_router(health.routes(parts, metrics))
    problems.install(app)
    app.add_middleware(Guard, local=settings.loopback)
    app.add_middleware(Observe, metrics=metrics)  # outermost
    openapi.complete(app, tokens=parts.auth.needed)
    return app
