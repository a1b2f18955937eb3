"""What brings the catalog into agreement with MLflow, and what says whether it is."""

import time
from collections.abc import Iterator

from jobs.tracking import Record, Runs
from service import facts
from service.catalog import Catalog
from service.catalogfile import CatalogFile
from service.masks import summarise

OVERLAP_MS = 15_000  # between readings of news: workers' clocks differ, and the end of a run may be told late


def news(catalog: Catalog, runs: Runs, overlap_ms: int = OVERLAP_MS) -> None:
    """Take in the runs that ended since the last time, less an overlap; all runs if there was none.

    Raises:
        TrackingError: MLflow does not answer; what was read before is kept.
    """
    file, began = catalog.file, _now()
    with file.exclusive():
        with file.reading() as connection:
            until = facts.state(connection, "until")
        if until is None:
            _rebuild(file, runs)
            return
        for page in runs.ended(max(0, until - overlap_ms)):
            _add(file, page)
            until = max([until, *(min(record.ended, began) for record in page)])  # a worker's clock may run ahead
        with file.writing() as connection:
            facts.set_state(connection, until=until, at=began)


def deletions(catalog: Catalog, runs: Runs) -> None:
    """Forget the runs that were deleted, and take in again those that were restored.

    Raises:
        TrackingError: as `news`.
    """
    file = catalog.file
    with file.exclusive():
        deleted = runs.deleted()
        with file.reading() as connection:
            before, ghosts = facts.deleted(connection), facts.known(connection, deleted)
        back = [record for page in runs.those(before - deleted) for record in page]
        if ghosts or deleted != before:
            with file.writing() as connection:
                facts.remove(connection, ghosts)
                facts.add(connection, back)
                facts.set_deleted(connection, deleted)


def audit(catalog: Catalog, runs: Runs) -> Iterator[None]:
    """Compare all runs, and put right what differs; yields after every page, when other readings may take their turn.

    It alone sees runs that `mlflow gc` took, and tags that were edited.

    Raises:
        TrackingError: as `news`.
    """
    file = catalog.file
    with file.reading() as connection:
        unseen = facts.runs(connection)
    for page in runs.records():
        with file.exclusive():
            _add(file, page)
        unseen -= {record.run for record in page}
        yield
    if unseen:  # not among what was read: gone, unless restored meanwhile
        with file.exclusive():
            unseen -= {record.run for page in runs.those(unseen) for record in page}
            with file.writing() as connection:
                facts.remove(connection, unseen)


def rebuild(catalog: Catalog, runs: Runs) -> int:
    """Make a catalog from nothing beside the one there is, and put it in its place at once; how many runs it has.

    Raises:
        TrackingError: as `news`; the catalog is as it was.
    """
    with catalog.file.exclusive():
        return _rebuild(catalog.file, runs)


def differences(catalog: Catalog, runs: Runs) -> list[str]:
    """In what the catalog and MLflow disagree, one line each."""
    there = {(mask.id, mask.recipe): mask for mask in summarise(record for page in runs.records() for record in page)}
    here = {(mask.id, mask.recipe): mask for mask in catalog.every()}
    lines = []
    for key in sorted(there.keys() | here.keys()):
        name = f"mask {key[0]}, recipe {key[1]}"
        if key not in here:
            lines.append(f"{name}: in MLflow alone")
        elif key not in there:
            lines.append(f"{name}: in the catalog alone")
        elif here[key] != there[key]:
            pairs = zip(vars(here[key]).items(), vars(there[key]).values(), strict=True)
            wrong = [f"{field} is {ours!r}, in MLflow {theirs!r}" for (field, ours), theirs in pairs if ours != theirs]
            lines.append(f"{name}: {'; '.join(wrong)}")
    return lines


def _rebuild(file: CatalogFile, runs: Runs) -> int:
    path = file.path.with_name(f"{file.path.name}.new")
    CatalogFile.remove(path)  # of a rebuild that was killed
    beside = CatalogFile(path)
    try:
        began, until, count = _now(), 0, 0
        deleted = runs.deleted()  # first: who is restored meanwhile is then seen by `deletions`
        for page in runs.records():
            _add(beside, page)
            count += len(page)
            until = max([until, *(min(record.ended, began) for record in page)])
        with beside.writing() as connection:
            facts.set_deleted(connection, deleted)
            facts.set_state(connection, until=until, at=began)
        file.replace(beside)
    finally:
        beside.close()
        CatalogFile.remove(path)
    return count


def _add(file: CatalogFile, records: list[Record]) -> None:
    with file.reading() as connection:
        fresh = facts.news(connection, records)
    if fresh:
        with file.writing() as connection:
            facts.add(connection, fresh)


def _now() -> int:
    return int(time.time() * 1000)
