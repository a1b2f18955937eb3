"""The API: which mask is best, and its file. It answers from the catalog, which it keeps in agreement with MLflow."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Response

from jobs.tracking import Runs
from service.catalog import Catalog, Wanted
from service.masks import MaskSummary, Metric
from service.syncing import Syncing

MaskId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id of a mask, as the other calls answer it")]
Name = Query(pattern=r"^[\w.:-]{1,200}$", description="as in the sweep file", examples=["convnet", "digits"])
Sparsity = Annotated[float, Query(gt=0, lt=1, description="fraction of the weights removed")]


def create_app(tracking_uri: str, catalog_file: FilePath) -> FastAPI:
    """The API over the MLflow server at `tracking_uri`, with its catalog in a file."""
    runs, catalog = Runs(tracking_uri), Catalog(catalog_file)
    syncing = Syncing(catalog, runs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with catalog, syncing:
            yield

    about = "Masks that prune networks before training, and how good they are."
    app = FastAPI(title="COPS", description=about, lifespan=lifespan)

    def ready() -> None:
        """Before it says that there is no mask, the catalog takes in what has just ended."""
        syncing.fresh()
        if catalog.synced is None:
            raise HTTPException(503, f"the catalog is being made from MLflow: ask again ({syncing.problem or 'soon'})")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/v1/masks")
    def masks(model: Annotated[str | None, Name] = None, data: Annotated[str | None, Name] = None) -> list[MaskSummary]:
        """All masks, or those of one model or data set; best first."""
        found: list[MaskSummary] = []
        cursor, more = None, True
        while more:
            page, cursor = catalog.page(Wanted(model=model, data=data), after=cursor, limit=1000)
            found += page
            more = cursor is not None
        return found

    @app.get("/v1/masks/best", response_model=MaskSummary, responses={404: {"description": "no such mask"}})
    def best_mask(
        model: Annotated[str, Name],
        data: Annotated[str, Name],
        sparsity: Sparsity,
        target: Annotated[str | None, Query(description="only masks of this target, e.g. snip or snip+synflow")] = None,
        control: Annotated[str | None, Query(description="only masks with this control, e.g. grasp")] = None,
        metric: Metric = "validation_accuracy",
    ) -> Response:
        """The best mask of a model at a sparsity. Masks confirmed with fresh seeds come before those that are not."""
        wanted = Wanted(model, data, sparsity, target=target, control=control, metric=metric)
        winner = catalog.best_json(wanted)
        if winner is None:
            ready()
            winner = catalog.best_json(wanted)
        if winner is None:
            known = ", ".join(f"{one:g}" for one in catalog.sparsities(Wanted(model, data))) or "none"
            raise HTTPException(
                404,
                f"no mask for model={model} data={data} sparsity={sparsity:g} target={target or 'any'} "
                f"control={control or 'any'} with a {metric}; sparsities with masks: {known}",
            )
        return Response(winner, media_type="application/json")

    @app.get("/v1/masks/{mask_id}", responses={404: {"description": "no such mask"}})
    def mask(mask_id: MaskId) -> MaskSummary:
        """A mask by its id."""
        found = catalog.get(mask_id)
        if found is None:
            ready()
            found = catalog.get(mask_id)
        if found is None:
            raise HTTPException(404, f"no mask {mask_id}: list them with /v1/masks")
        return found

    @app.get(
        "/v1/masks/{mask_id}/file",
        response_class=Response,
        responses={
            200: {"description": "for cops.Mask.load", "content": {"application/octet-stream": {}}},
            404: {"description": "no such mask"},
        },
    )
    def mask_file(mask_id: MaskId) -> Response:
        """The mask file."""
        with tempfile.TemporaryDirectory() as folder:
            content = runs.mask_file(mask(mask_id).file_run, FilePath(folder)).read_bytes()
        name = f'attachment; filename="{mask_id}.cops"'
        return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": name})

    return app
