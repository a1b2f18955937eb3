"""What the catalog keeps: runs as MLflow has them, and the summary of each mask, which follows from its runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from sqlite3 import Connection

from jobs.tracking import Record
from service.masks import MaskSummary, summarise

UNKNOWN = -1.0  # a metric's rank where it is not known: below all others
NANO = 1_000_000_000

Key = tuple[str, str]  # of a mask and a recipe


def level(sparsity: float) -> int:
    """A sparsity in units of 1e-9: those that differ by rounding alone are one."""
    return round(sparsity * NANO)


def samples(most: int | None) -> int:
    """Most samples that a mask was found and trained on; 0 for all."""
    return most or 0


def news(connection: Connection, records: Iterable[Record]) -> list[Record]:
    """Those among some records that the catalog does not have as they are."""
    query = "SELECT record FROM runs WHERE run = ?"
    return [one for one in records if connection.execute(query, (one.run,)).fetchone() != (_text(one),)]


def add(connection: Connection, records: Iterable[Record]) -> None:
    """Put down runs, and what they make of their masks."""
    touched: set[Key] = set()
    for record in records:
        touched |= {(record.mask, record.recipe), *_keys(connection, record.run)}
        row = record.run, record.mask, record.recipe, _text(record)
        connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", row)
    derive(connection, touched)


def remove(connection: Connection, runs: Iterable[str]) -> None:
    """Forget runs, and what they made of their masks."""
    touched: set[Key] = set()
    for run in runs:
        touched |= set(_keys(connection, run))
        connection.execute("DELETE FROM runs WHERE run = ?", (run,))
    derive(connection, touched)


def derive(connection: Connection, keys: Iterable[Key]) -> None:
    """Summarise masks anew, from their runs."""
    for key in keys:
        connection.execute("DELETE FROM masks WHERE id = ? AND recipe = ?", key)
        rows = connection.execute("SELECT record FROM runs WHERE mask = ? AND recipe = ?", key)
        put(connection, summarise(Record(**json.loads(text)) for (text,) in rows))


def put(connection: Connection, summaries: Sequence[MaskSummary]) -> None:
    """Write summaries of masks that the catalog does not have."""
    marks = ", ".join("?" * 18)
    connection.executemany(f"INSERT INTO masks VALUES ({marks})", map(_row, summaries))  # noqa: S608  # question marks


def runs(connection: Connection) -> set[str]:
    """Ids of all runs."""
    return {run for (run,) in connection.execute("SELECT run FROM runs")}


def known(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Those among some ids of runs that the catalog has."""
    return [run for run in ids if _keys(connection, run)]


def deleted(connection: Connection) -> set[str]:
    """Ids of the runs that were seen to be deleted."""
    return {run for (run,) in connection.execute("SELECT run FROM deleted")}


def set_deleted(connection: Connection, now: set[str]) -> None:
    """Put down which runs are deleted."""
    before = deleted(connection)
    connection.executemany("INSERT INTO deleted VALUES (?)", [(run,) for run in now - before])
    connection.executemany("DELETE FROM deleted WHERE run = ?", [(run,) for run in before - now])


def state(connection: Connection, name: str) -> int | None:
    """A number that the catalog remembers of its own making."""
    row = connection.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def set_state(connection: Connection, **values: int) -> None:
    """Remember numbers."""
    connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())


def _keys(connection: Connection, run: str) -> list[Key]:
    return connection.execute("SELECT mask, recipe FROM runs WHERE run = ?", (run,)).fetchall()


def _text(record: Record) -> str:
    return json.dumps(asdict(record), sort_keys=True, separators=(",", ":"))


def _rank(metric: float | None) -> float:
    return UNKNOWN if metric is None else metric


def _row(mask: MaskSummary) -> tuple[str | int | float | bytes, ...]:
    return (
        mask.id,
        mask.recipe,
        mask.model,
        mask.data,
        mask.method,
        "+".join(mask.target),
        f",{','.join(mask.controls)},",
        mask.layout,
        mask.seed,
        samples(mask.samples),
        level(mask.sparsity),
        mask.sparsity,
        mask.confirmations,
        mask.confirmations > 0,
        _rank(mask.validation_accuracy),
        _rank(mask.test_accuracy),
        _rank(mask.flops_share),
        json.dumps(asdict(mask), separators=(",", ":"), allow_nan=False).encode(),
    )
