"""What a client asks, step by step: a generator yields requests, is sent the answers, and returns what they say.

`Client` waits for the answers, `AsyncClient` awaits them; what to ask and how to read it is written once, here.
"""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter
from torch import nn

from cops import Mask
from service.client.cache import Cache, checksum
from service.client.errors import ApiError
from service.masks import MaskSummary, Metric
from service.sweeps import SweepStatus

T = TypeVar("T")
PAGE = 200  # masks of one request
_MASK, _MASKS = TypeAdapter(MaskSummary), TypeAdapter(list[MaskSummary])
_SWEEP, _SWEEPS = TypeAdapter(SweepStatus), TypeAdapter(list[SweepStatus])


@dataclass(frozen=True)
class Request:
    """What to send: `path` below the API's address, or a whole address that it gave."""

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    body: bytes | None = None
    content_type: str | None = None


Steps = Generator[Request, httpx.Response, T]


@dataclass(frozen=True)
class Found:
    """A mask, and what is known of it."""

    summary: MaskSummary
    mask: Mask

    def apply(self, model: nn.Module) -> nn.Module:
        """Set the weights that the mask removes to zero, in place; see `cops.Mask.apply`."""
        return self.mask.apply(model)


def best(
    cache: Cache,
    model: str,
    data: str,
    sparsity: float,
    *,
    tolerance: float = 0.0,
    target: str | None = None,
    control: str | None = None,
    layout: str | None = None,
    seed: int | None = None,
    samples: int | None = None,
    metric: Metric = "validation_accuracy",
    min_confirmations: int = 0,
) -> Steps[Found]:
    """The best mask of a model at a sparsity, ready to be applied.

    `model`, `data`, `target` ("snip+synflow" for several), `control` and `layout` are as in the sweep file. `sparsity`
    is the fraction of the weights removed: the nearest at or above it is taken, within `tolerance`. `seed` is that of
    the initial weights. `samples` asks for masks of sweeps with so few, instead of those with all. Masks confirmed with
    fresh seeds come first, then those with the best `metric`.

    Raises:
        ApiError: there is none (status 404), the API refuses or cannot be reached, or the file came damaged.
    """
    query = {name: value for name, value in locals().items() if name != "cache"}
    summary = _MASK.validate_json((yield _get("/v1/masks/best", query)).content)
    return Found(summary, Mask.load((yield from _mask_file(cache, summary))))


def masks(
    _: Cache,
    *,
    model: str | None = None,
    data: str | None = None,
    target: str | None = None,
    control: str | None = None,
    layout: str | None = None,
    samples: int | None = None,
    sparsity_min: float | None = None,
    sparsity_max: float | None = None,
    min_confirmations: int | None = None,
    sort: str | None = None,
    limit: int = 100,
) -> Steps[list[MaskSummary]]:
    """The first masks of those that fit, at most `limit`; best validation accuracy first unless `sort` says other.

    `samples` is as for `best`.

    Raises:
        ApiError: the API refuses or cannot be reached.
    """
    query = {name: value for name, value in locals().items() if name not in ("_", "limit")}
    request: Request | None = _get("/v1/masks", query | {"limit": min(limit, PAGE)})
    found: list[MaskSummary] = []
    while request is not None and len(found) < limit:
        response = yield request
        found += _MASKS.validate_json(response.content)
        following = response.links.get("next")
        request = Request("GET", following["url"]) if following else None
    return found[:limit]


def frontier(
    _: Cache,
    model: str,
    data: str,
    *,
    layout: str | None = None,
    samples: int | None = None,
    metric: Metric = "validation_accuracy",
    min_confirmations: int | None = None,
) -> Steps[list[MaskSummary]]:
    """Masks that no other of the model is at least as sparse and as accurate as; least sparse first.

    `samples` is as for `best`.

    Raises:
        ApiError: the API refuses or cannot be reached.
    """
    query = {name: value for name, value in locals().items() if name != "_"}
    return _MASKS.validate_json((yield _get("/v1/frontier", query)).content)


def mask(_: Cache, mask_id: str) -> Steps[MaskSummary]:
    """What is known of a mask.

    Raises:
        ApiError: there is none of this id (status 404), the API refuses or cannot be reached.
    """
    return _MASK.validate_json((yield _get(f"/v1/masks/{mask_id}")).content)


def layers(_: Cache, mask_id: str) -> Steps[dict[str, float]]:
    """Fraction that a mask keeps of each parameter, by name.

    Raises:
        ApiError: as `mask`.
    """
    densities: dict[str, float] = (yield _get(f"/v1/masks/{mask_id}/layers")).json()
    return densities


def similarity(_: Cache, mask_id: str, other: str) -> Steps[float]:
    """Weights kept by both masks / kept by either, in [0, 1].

    Raises:
        ApiError: as `mask`; also for masks of different networks.
    """
    return float((yield _get(f"/v1/masks/{mask_id}/similarity/{other}")).json()["similarity"])


def mask_file(cache: Cache, mask_id: str) -> Steps[Path]:
    """Path of a mask's file on this machine, for `cops.Mask.load`.

    Raises:
        ApiError: as `mask`; also for a file that came damaged.
    """
    return (yield from _mask_file(cache, (yield from mask(cache, mask_id))))


def weights_file(cache: Cache, mask_id: str) -> Steps[Path]:
    """Path of the state of the network that was trained under a mask, in safetensors; removed weights are zero.

    Raises:
        ApiError: as `mask_file`; also where no trained network was kept (status 404).
    """
    summary = yield from mask(cache, mask_id)
    return (yield from _file(cache, f"/v1/masks/{mask_id}/weights", summary.weights_sha256))


def submit(_: Cache, sweep: Path | str | Mapping[str, Any]) -> Steps[SweepStatus]:
    """Start a sweep in the cluster, or let it go on where it ended.

    Args:
        sweep: path of a sweep file, or its keys and values.

    Raises:
        ApiError: the API refuses the file (status 422), it runs already (409), or there is no cluster (503).
        OSError: the file cannot be read.
    """
    yaml = not isinstance(sweep, Mapping)
    body = Path(sweep).read_bytes() if not isinstance(sweep, Mapping) else json.dumps(dict(sweep)).encode()
    kind = "application/yaml" if yaml else "application/json"
    return _SWEEP.validate_json((yield Request("POST", "/v1/sweeps", body=body, content_type=kind)).content)


def sweeps(_: Cache) -> Steps[list[SweepStatus]]:
    """All sweeps, newest first.

    Raises:
        ApiError: the API refuses or cannot be reached.
    """
    return _SWEEPS.validate_json((yield _get("/v1/sweeps")).content)


def sweep(_: Cache, sweep_id: str) -> Steps[SweepStatus]:
    """How a sweep stands.

    Raises:
        ApiError: there is none of this id (status 404), the API refuses or cannot be reached.
    """
    return _SWEEP.validate_json((yield _get(f"/v1/sweeps/{sweep_id}")).content)


def stop(_: Cache, sweep_id: str) -> Steps[SweepStatus]:
    """Let the running trials of a sweep end, and start no more; see `resume`.

    Raises:
        ApiError: as `sweep`.
    """
    return (yield from _wish(sweep_id, "stop"))


def cancel(_: Cache, sweep_id: str) -> Steps[SweepStatus]:
    """End a sweep and its running trials; see `resume`.

    Raises:
        ApiError: as `sweep`.
    """
    return (yield from _wish(sweep_id, "cancel"))


def resume(_: Cache, sweep_id: str) -> Steps[SweepStatus]:
    """Let a sweep go on where it ended.

    Raises:
        ApiError: as `submit`.
    """
    return (yield from _wish(sweep_id, "resume"))


def _wish(sweep_id: str, what: str) -> Steps[SweepStatus]:
    return _SWEEP.validate_json((yield Request("POST", f"/v1/sweeps/{sweep_id}/{what}")).content)


def _get(path: str, query: Mapping[str, Any] | None = None) -> Request:
    return Request("GET", path, {name: value for name, value in (query or {}).items() if value is not None})


def _mask_file(cache: Cache, summary: MaskSummary) -> Steps[Path]:
    return (yield from _file(cache, f"/v1/masks/{summary.id}/file", summary.file_sha256))


def _file(cache: Cache, path: str, sha256: str | None) -> Steps[Path]:
    """Path of a file, from the cache or, checked, from the API, which names its checksum in the ETag, too."""
    if sha256 is not None and (kept := cache.get(sha256)) is not None:
        return kept
    response = yield Request("GET", path)
    wanted = sha256 or response.headers.get("ETag", "").strip('"')
    if checksum(response.content) != wanted:
        raise ApiError(f"{path} came damaged: its SHA-256 is {checksum(response.content)}, not {wanted}; try again")
    return cache.put(response.content)
