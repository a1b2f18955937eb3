"""One mask: its file, its layers, what it shares with another, and the network trained under it."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from cops import Mask
from jobs.tracking import LAYERS_FILE, MASK_FILE, WEIGHTS_FILE
from service.files import Kept
from service.masks import MaskSummary
from service.parts import Parts
from service.problems import ProblemError, responses

URL_SECONDS = 900
FOREVER = "public, max-age=31536000, immutable"
BINARY = "application/octet-stream"
MaskId = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{32}$",
        description="id of a mask, as the other calls answer it",
        examples=["0123456789abcdef0123456789abcdef"],
    ),
]


class Similarity(BaseModel):
    """Of two masks."""

    similarity: float = Field(description="kept by both / kept by either, in [0, 1]", examples=[0.42])


class FileUrl(BaseModel):
    """Where a mask's file can be fetched without asking this server."""

    url: str
    expires_seconds: int = Field(examples=[URL_SECONDS])
    sha256: str | None = Field(description="of the file, if it is known")


def routes(parts: Parts) -> APIRouter:
    """The operations."""
    router = APIRouter(prefix="/v1/masks/{mask_id}", tags=["masks"], dependencies=[Depends(parts.auth.need("read"))])

    async def known(mask_id: MaskId) -> MaskSummary:
        return await parts.mask(mask_id)

    Found = Annotated[MaskSummary, Depends(known)]

    @router.get("", response_model=MaskSummary, responses=responses(404))
    async def mask(mask_id: MaskId) -> Response:
        """What is known of a mask, by the recipe under which it is best."""
        return Response(await parts.mask_json(mask_id), media_type="application/json")

    @router.get("/layers", response_model=dict[str, float], responses=responses(404, 502))
    def layers(found: Found) -> Response:
        """Fraction kept of each parameter, by name."""
        text = _file(parts, found.file_run, LAYERS_FILE, None).path.read_text()
        return Response(json.dumps(json.loads(text)["layer_density"]), media_type="application/json")

    @router.get("/similarity/{other_id}", responses=responses(404, 409, 502))
    async def similarity(mask_id: MaskId, other_id: MaskId) -> Similarity:
        """What two masks of one network have in common."""
        pair = await parts.mask(mask_id), await parts.mask(other_id)

        def compare() -> float:
            one, other = (Mask.load(_file(parts, it.file_run, MASK_FILE, it.file_sha256).path) for it in pair)
            return one.similarity(other)

        try:
            return Similarity(similarity=await run_in_threadpool(compare))
        except ValueError as error:
            raise ProblemError(409, str(error)) from None

    @router.head("/file", include_in_schema=False)
    @router.get("/file", response_class=Response, responses=_file_responses("for cops.Mask.load"))
    def mask_file(found: Found, request: Request) -> Response:
        """The mask's file, which never changes. Ranges and If-None-Match are understood."""
        return _sent(parts, request, found.file_run, MASK_FILE, found.file_sha256, f"{found.id}.cops")

    @router.head("/weights", include_in_schema=False)
    @router.get("/weights", response_class=Response, responses=_file_responses("in safetensors"))
    def weights(found: Found, request: Request) -> Response:
        """The state of the network trained under the mask; removed weights are zero. As `file`."""
        if found.weights_run is None:
            raise ProblemError(404, f"no trained network was kept of mask {found.id}: confirmed winners have one")
        return _sent(parts, request, found.weights_run, WEIGHTS_FILE, found.weights_sha256, f"{found.id}.safetensors")

    @router.get("/url", responses=responses(404))
    def url(found: Found) -> FileUrl:
        """An address in S3 from which anyone may fetch the mask's file for a quarter of an hour."""
        try:
            signed = parts.runs.url(found.file_run, MASK_FILE, URL_SECONDS)
        except ImportError:
            raise ProblemError(404, "this server has no S3 client: pip install 'cops-sweep[stack]'") from None
        if signed is None:
            raise ProblemError(404, f"files are not in S3 here: take /v1/masks/{found.id}/file")
        return FileUrl(url=signed, expires_seconds=URL_SECONDS, sha256=found.file_sha256)

    return router


def _file_responses(what: str) -> dict[int | str, dict[str, Any]]:
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    tag = {"ETag": {"description": "the file's SHA-256", "schema": {"type": "string"}}}
    return {
        200: {"description": what, "content": binary, "headers": tag},
        206: {"description": "the range that was asked for", "content": binary, "headers": tag},
        304: {"description": "you have it already", "headers": tag},
        416: {"description": "there is no such range", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **responses(404, 502),
    }


def _file(parts: Parts, run: str, name: str, sha256: str | None) -> Kept:
    try:
        return parts.files.get(run, name, sha256)
    except OSError:
        raise ProblemError(
            503, f"{name} of run {run} cannot be read from the store: try again soon", {"Retry-After": "5"}
        ) from None


def _sent(parts: Parts, request: Request, run: str, name: str, sha256: str | None, filename: str) -> Response:
    asked = request.headers.get("If-None-Match", "")
    if sha256 is not None and _has(asked, sha256):
        return Response(status_code=304, headers=_headers(sha256))
    file = _file(parts, run, name, sha256)
    headers = _headers(file.sha256)
    if _has(asked, file.sha256):
        return Response(status_code=304, headers=headers)
    return FileResponse(file.path, headers=headers, media_type="application/octet-stream", filename=filename)


def _headers(sha256: str) -> dict[str, str]:
    return {"ETag": f'"{sha256}"', "Cache-Control": FOREVER}


def _has(asked: str, sha256: str) -> bool:
    tags = {one.strip().removeprefix("W/").strip('"') for one in asked.split(",")}
    return bool(tags & {sha256, "*"})
