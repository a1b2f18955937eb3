"""How commands answer: in JSON for programs, in tables for people."""

import json
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def print_json(answer: Any) -> None:
    """Print an answer as JSON."""
    print(json.dumps(_plain(answer), indent=2))


def table(*columns: str, rows: list[list[str]], title: str | None = None) -> Table:
    """Rows under their columns; long texts are folded, but for an `id`, which people copy."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        made.add_row(*row)
    return made


def percent(value: float | None, error: float | None = None) -> str:
    """`97.2 ±0.3`, from fractions."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + (f" ±{100 * error:.1f}" if error is not None else "")


def _plain(answer: Any) -> Any:
    if is_dataclass(answer) and not isinstance(answer, type):
        return asdict(answer)
    if isinstance(answer, dict):
        return {name: _plain(one) for name, one in answer.items()}
    return [_plain(one) for one in answer] if isinstance(answer, list) else answer
