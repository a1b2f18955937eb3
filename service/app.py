"""The API: which mask is best, and its file. It reads what the sweeps left in MLflow and keeps no state."""

import tempfile
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Response

from jobs.tracking import Tracker
from service.masks import MaskSummary, Metric, best, summarise

SAME_SPARSITY = 1e-9

MaskId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id of a mask, as the other calls answer it")]
Name = Query(pattern=r"^[\w.:-]{1,200}$", description="as in the sweep file", examples=["convnet", "digits"])
Sparsity = Annotated[float, Query(gt=0, lt=1, description="fraction of the weights removed")]


def create_app(tracking_uri: str) -> FastAPI:
    """The API over the MLflow server at `tracking_uri`."""
    app = FastAPI(title="COPS", description="Masks that prune networks before training, and how good they are.")
    tracker = Tracker(tracking_uri)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/v1/masks")
    def masks(model: Annotated[str | None, Name] = None, data: Annotated[str | None, Name] = None) -> list[MaskSummary]:
        """All masks, or those of one model or data set; best first."""
        return summarise(tracker.records(model=model, data=data))

    @app.get("/v1/masks/best", responses={404: {"description": "no such mask"}})
    def best_mask(
        model: Annotated[str, Name],
        data: Annotated[str, Name],
        sparsity: Sparsity,
        target: Annotated[str | None, Query(description="only masks of this target, e.g. snip or snip+synflow")] = None,
        control: Annotated[str | None, Query(description="only masks with this control, e.g. grasp")] = None,
        metric: Metric = "validation_accuracy",
    ) -> MaskSummary:
        """The best mask of a model at a sparsity. Masks confirmed with fresh seeds come before those that are not."""
        here = summarise(tracker.records(model=model, data=data))
        found = [
            mask
            for mask in here
            if abs(mask.sparsity - sparsity) < SAME_SPARSITY
            and target in (None, "+".join(mask.target))
            and (control is None or control in mask.controls)
        ]
        winner = best(found, metric)
        if winner is None:
            known = ", ".join(f"{one:g}" for one in sorted({mask.sparsity for mask in here})) or "none"
            raise HTTPException(
                404,
                f"no mask for model={model} data={data} sparsity={sparsity:g} target={target or 'any'} "
                f"control={control or 'any'} with a {metric}; sparsities with masks: {known}",
            )
        return winner

    @app.get("/v1/masks/{mask_id}", responses={404: {"description": "no such mask"}})
    def mask(mask_id: MaskId) -> MaskSummary:
        """A mask by its id."""
        found = best(summarise(tracker.records(mask=mask_id)), "validation_accuracy")
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
            content = tracker.mask_file(mask(mask_id).file_run, FilePath(folder)).read_bytes()
        name = f'attachment; filename="{mask_id}.cops"'
        return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": name})

    return app
