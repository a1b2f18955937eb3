"""What the routes of one API process share. All of it is caches: replicas need not know of one another."""

import json
import time
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from jobs.tracking import Sweeps
from service.auth import Auth
from service.catalog import Catalog
from service.files import Files
from service.launcher import Launcher
from service.masks import MaskSummary
from service.problems import ProblemError
from service.settings import ApiSettings
from service.steering import Steering
from service.syncing import Syncing

CACHE = "api-files"


@dataclass(frozen=True)
class Parts:
    """See the module."""

    settings: ApiSettings
    runs: Sweeps
    catalog: Catalog
    syncing: Syncing
    files: Files
    auth: Auth
    steering: Steering

    @classmethod
    def over(cls, tracking_uri: str, settings: ApiSettings) -> "Parts":
        """The parts of an API over an MLflow server.

        Raises:
            UserError: the catalog cannot be written, or tokens are needed and there is none.
        """
        runs = Sweeps(tracking_uri)
        catalog = Catalog(settings.catalog_file)
        return cls(
            settings=settings,
            runs=runs,
            catalog=catalog,
            syncing=Syncing(catalog, runs),
            files=Files(settings.home / CACHE, runs.file),
            auth=Auth(settings),
            steering=Steering(runs, Launcher(settings.ray_jobs) if settings.ray_jobs else None, settings.folders),
        )

    async def fresh(self) -> None:
        """Before it is said that there is no mask, the catalog takes in what has just ended.

        Raises:
            ProblemError: it has not been made yet.
        """
        await run_in_threadpool(self.syncing.fresh)
        if self.catalog.synced is None:
            raise ProblemError(503, "the catalog is being made from MLflow: ask again", {"Retry-After": "5"})

    async def mask_json(self, mask: str) -> bytes:
        """What is known of a mask, as JSON.

        Raises:
            ProblemError: there is none of this id.
        """
        found = self.catalog.get_json(mask)
        if found is None:
            await self.fresh()
            found = self.catalog.get_json(mask)
        if found is None:
            raise ProblemError(404, f"no mask {mask}: list them with /v1/masks")
        return found

    async def mask(self, mask: str) -> MaskSummary:
        """The same as a summary."""
        return MaskSummary(**json.loads(await self.mask_json(mask)))

    def masks(self) -> int:
        """Number of masks known."""
        return self.catalog.count()

    def age(self) -> float:
        """Seconds since the catalog was in step with MLflow; infinite before it was."""
        synced = self.catalog.synced
        return float("inf") if synced is None else max(0.0, time.time() - synced.at / 1000)

    def sweeps(self) -> dict[str, int]:
        """Number of sweeps by state."""
        return self.steering.count()
