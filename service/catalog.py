"""The catalog: which masks there are and which is best, answered at once however many runs there are.

It is derived from MLflow (service/sync.py), and can be thrown away at any time.
"""

import base64
import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Literal, Self

from jobs.errors import UserError
from service import facts
from service.catalogfile import CatalogFile
from service.masks import MaskSummary, Metric

Sort = Literal["validation_accuracy", "test_accuracy", "sparsity", "flops_share", "confirmations"]
Order = Literal[
    "validation_accuracy",
    "-validation_accuracy",
    "test_accuracy",
    "-test_accuracy",
    "sparsity",
    "-sparsity",
    "flops_share",
    "-flops_share",
    "confirmations",
    "-confirmations",
]
RANKS: dict[Sort, tuple[str, str]] = {  # column and index
    "validation_accuracy": ("rank_validation", "by_validation"),
    "test_accuracy": ("rank_test", "by_test"),
    "sparsity": ("sparsity", "by_sparsity"),
    "flops_share": ("rank_flops", "by_flops"),
    "confirmations": ("confirmations", "by_confirmations"),
}
BEST = {"validation_accuracy": "best_validation", "test_accuracy": "best_test"}
MOST = 1000  # masks of one page
ANY_LEVEL = -1


@dataclass(frozen=True)
class Wanted:
    """Which masks are asked for; what is None, or 0, asks nothing, but for `samples`.

    Args:
        sparsity: `best` answers the nearest at or above it, by at most `tolerance`; else it asks nothing.
        sparsity_min: at least this much, and at most `sparsity_max`.
        target: scores of the target, joined by +, in the sweep file's order.
        control: one of the mask's control scores.
        metric: by which masks are compared; one for which it is not known is no candidate.
        min_confirmations: at least so many.
        samples: most samples that they were found and trained on; None for all samples: others cannot be compared.
    """

    model: str | None = None
    data: str | None = None
    sparsity: float | None = None
    tolerance: float = 0.0
    sparsity_min: float | None = None
    sparsity_max: float | None = None
    target: str | None = None
    control: str | None = None
    layout: str | None = None
    seed: int | None = None
    metric: Metric = "validation_accuracy"
    min_confirmations: int = 0
    samples: int | None = None


@dataclass(frozen=True)
class Names:
    """What the masks of the catalog are of, each sorted."""

    models: list[str]
    data: list[str]
    methods: list[str]
    layouts: list[str]


@dataclass(frozen=True)
class Synced:
    """How far the catalog agrees with MLflow: as of `at`, with what ended up to `until`; milliseconds since 1970."""

    at: int
    until: int


class Catalog:
    """Answers questions about masks from the file at `path`; threads and processes may share it.

    Every call raises DamagedError if the file turns out to be damaged; the next finds an empty one.

    Raises:
        UserError: the file is another program's, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.file = CatalogFile(path)

    @property
    def synced(self) -> Synced | None:
        """How far it agrees with MLflow; None if it has not been filled yet, and no answer means anything."""
        with self.file.reading() as connection:
            at, until = facts.state(connection, "at"), facts.state(connection, "until")
        return None if at is None or until is None else Synced(at, until)

    def best_json(self, wanted: Wanted) -> bytes | None:
        """The best mask, as JSON: of the nearest sparsity, confirmed before unconfirmed, by metric, by id."""
        with self.file.reading() as connection:
            at = ANY_LEVEL
            if wanted.sparsity is not None:
                at = facts.level(wanted.sparsity)
                if wanted.tolerance > 0:
                    highest = facts.level(wanted.sparsity + wanted.tolerance)
                    nearest = _next_level(connection, wanted, at)
                    if nearest is None or nearest > highest:
                        return None
                    at = nearest
            return _best(connection, wanted, at)

    def best(self, wanted: Wanted) -> MaskSummary | None:
        """The same as a summary."""
        found = self.best_json(wanted)
        return None if found is None else _summary(found)

    def page_json(
        self, wanted: Wanted, order: Order = "-validation_accuracy", after: str | None = None, limit: int = 100
    ) -> tuple[list[bytes], str | None]:
        """Up to `limit` masks in an order, each as JSON, from a cursor on; the next page's cursor, None at the end.

        `metric` and `sparsity` of `wanted` ask nothing here. In an order by a metric, masks for which it is not known
        count as lowest; equal ones are ordered by id.

        Raises:
            UserError: the cursor is none of this order.
        """
        sort: Sort = order.removeprefix("-")  # type: ignore[assignment]
        column, index = RANKS[sort]
        where, values = _where(wanted, metric=False)
        if after is not None:
            where.append(f"({column}, id, recipe) {'<' if order[0] == '-' else '>'} (?, ?, ?)")
            values += _read_cursor(after, order)
        rows_wanted = max(1, min(limit, MOST))
        down = "DESC" if order[0] == "-" else "ASC"
        query = (
            f"SELECT json, {column}, id, recipe FROM masks INDEXED BY {index} WHERE {' AND '.join(where)} "  # noqa: S608  # ours
            f"ORDER BY {column} {down}, id {down}, recipe {down} LIMIT ?"
        )
        with self.file.reading() as connection:
            rows = connection.execute(query, (*values, rows_wanted + 1)).fetchall()
        more = len(rows) > rows_wanted
        rows = rows[:rows_wanted]
        return [row[0] for row in rows], _cursor(order, rows[-1][1:]) if more else None

    def page(
        self, wanted: Wanted, order: Order = "-validation_accuracy", after: str | None = None, limit: int = 100
    ) -> tuple[list[MaskSummary], str | None]:
        """The same as summaries."""
        found, cursor = self.page_json(wanted, order, after, limit)
        return [_summary(one) for one in found], cursor

    def frontier(self, wanted: Wanted) -> list[MaskSummary]:
        """The best mask of each sparsity, less those than which another is both sparser and better; sparsest last."""
        with self.file.reading() as connection:
            levels = _levels(connection, wanted)
            bests = [_summary(found) for at in levels if (found := _best(connection, wanted, at))]
        kept: list[MaskSummary] = []
        for mask in reversed(bests):
            if not kept or getattr(mask, wanted.metric) > getattr(kept[-1], wanted.metric):
                kept.append(mask)
        return kept[::-1]

    def sparsities(self, wanted: Wanted) -> list[float]:
        """Sparsities with such masks, ascending."""
        with self.file.reading() as connection:
            return [at / facts.NANO for at in _levels(connection, wanted)]

    def get_json(self, mask: str) -> bytes | None:
        """A mask by its id, as JSON; by the recipe under which it is best, confirmed before unconfirmed."""
        query = "SELECT json FROM masks WHERE id = ? ORDER BY confirmed DESC, rank_validation DESC, recipe DESC LIMIT 1"
        with self.file.reading() as connection:
            row = connection.execute(query, (mask,)).fetchone()
        return None if row is None else bytes(row[0])

    def get(self, mask: str) -> MaskSummary | None:
        """The same as a summary."""
        found = self.get_json(mask)
        return None if found is None else _summary(found)

    def every(self) -> list[MaskSummary]:
        """All masks, each by each recipe, on whichever samples."""
        with self.file.reading() as connection:
            return [_summary(text) for (text,) in connection.execute("SELECT json FROM masks")]

    def count(self) -> int:
        """How many masks there are, each by each recipe."""
        with self.file.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM masks").fetchone()[0])

    def names(self) -> Names:
        """What there are masks of."""
        with self.file.reading() as connection:
            rows = connection.execute("SELECT DISTINCT model, data, method, layout FROM masks").fetchall()
        models, data, methods, layouts = (
            (sorted(set(column)) for column in zip(*rows, strict=True)) if rows else ([],) * 4
        )
        return Names(models, data, methods, layouts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _summary(text: bytes) -> MaskSummary:
    return MaskSummary(**json.loads(text))


def _where(wanted: Wanted, *, metric: bool) -> tuple[list[str], list[Any]]:
    """Terms of a query and their values, for all but `sparsity`."""
    low, high = wanted.sparsity_min, wanted.sparsity_max
    terms: list[tuple[str, Any]] = [
        ("model = ?", wanted.model),
        ("data = ?", wanted.data),
        ("samples = ?", facts.samples(wanted.samples)),
        ("level >= ?", None if low is None else facts.level(low)),
        ("level <= ?", None if high is None else facts.level(high)),
        ("target = ?", wanted.target),
        ("instr(controls, ?)", None if wanted.control is None else f",{wanted.control},"),
        ("layout = ?", wanted.layout),
        ("seed = ?", wanted.seed),
        ("confirmations >= ?", wanted.min_confirmations or None),
    ]
    given = [(term, value) for term, value in terms if value is not None]
    if metric:
        given.append((f"{RANKS[wanted.metric][0]} > ?", facts.UNKNOWN))
    return [term for term, _ in given], [value for _, value in given]


def _from(wanted: Wanted) -> str:
    """The table, by the index in whose order the best comes first; not one for other questions than the API's."""
    named = wanted.model is not None and wanted.data is not None
    return f"masks INDEXED BY {BEST[wanted.metric]}" if named else "masks"


def _best(connection: Connection, wanted: Wanted, at: int) -> bytes | None:
    where, values = _where(wanted, metric=True)
    if at != ANY_LEVEL:
        where.append("level = ?")
        values.append(at)
    rank = RANKS[wanted.metric][0]
    query = (
        f"SELECT json FROM {_from(wanted)} WHERE {' AND '.join(where)} "  # noqa: S608  # ours
        f"ORDER BY confirmed DESC, {rank} DESC, id DESC, recipe DESC LIMIT 1"
    )
    row = connection.execute(query, values).fetchone()
    return None if row is None else bytes(row[0])


def _next_level(connection: Connection, wanted: Wanted, lowest: int) -> int | None:
    where, values = _where(wanted, metric=True)
    query = f"SELECT level FROM {_from(wanted)} WHERE {' AND '.join([*where, 'level >= ?'])} ORDER BY level LIMIT 1"  # noqa: S608  # ours
    row = connection.execute(query, (*values, lowest)).fetchone()
    return None if row is None else int(row[0])


def _levels(connection: Connection, wanted: Wanted) -> list[int]:
    found: list[int] = []
    while (at := _next_level(connection, wanted, found[-1] + 1 if found else 0)) is not None:
        found.append(at)
    return found


def _cursor(order: Order, position: tuple[float, str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, *position]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, order: Order) -> list[Any]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        named, value, mask, recipe = json.loads(text)
        fits = named == order and isinstance(value, float | int) and isfinite(value)
        mask.encode(), recipe.encode()
        if not fits:
            raise ValueError
        return [float(value), mask, recipe]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(
            f"cursor = '{cursor[:100]}' is none of sort = '{order}': take the next page's address as it was "
            "answered, or leave the cursor out to start anew"
        ) from None
