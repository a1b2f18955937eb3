"""The console commands `cops catalog ...`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from jobs.errors import UserError
from jobs.settings import Settings
from service.show import Json, print_json

if TYPE_CHECKING:
    from jobs.tracking import Runs
    from service.catalog import Catalog

app = typer.Typer(help="The catalog of masks, which the API answers from.", no_args_is_help=True)


@app.command()
def rebuild(as_json: Json = False) -> None:
    """Make the catalog from nothing, from what MLflow knows; the API goes on answering from the old one meanwhile."""
    with _opened() as (catalog, runs):
        from service import sync

        began = time.monotonic()
        count = sync.rebuild(catalog, runs)
        seconds = time.monotonic() - began
        masks = catalog.count()
    if as_json:
        print_json({"masks": masks, "runs": count, "seconds": seconds})
        return
    print(f"{masks} masks from {count} runs in {seconds:.1f} s ({count / seconds:.0f} runs/s)")


@app.command()
def check(as_json: Json = False) -> None:
    """Compare the catalog, once it has read the news, with MLflow; print what differs; exit code 1 if anything does."""
    with _opened() as (catalog, runs):
        from service import sync

        sync.news(catalog, runs)
        sync.deletions(catalog, runs)
        found = sync.differences(catalog, runs)
        masks = catalog.count()
    if as_json:
        print_json({"masks": masks, "differences": found})
        raise typer.Exit(int(bool(found)))
    print("\n".join(found) or f"the catalog and MLflow agree on {masks} masks")
    if found:
        print(f"{len(found)} masks differ: cops catalog rebuild")
        raise typer.Exit(1)


@contextmanager
def _opened() -> Iterator[tuple["Catalog", "Runs"]]:
    """The catalog and the MLflow that this process's environment names."""
    from jobs import local
    from jobs.tracking import Runs, TrackingError
    from service.catalog import Catalog

    settings = Settings.read()
    local.check(settings)
    with local.mlflow_server(settings) as uri, Catalog(settings.catalog_file) as catalog:
        try:
            yield catalog, Runs(uri)
        except TrackingError as error:
            raise UserError(f"MLflow at {uri} does not answer as it should: {error}") from None
