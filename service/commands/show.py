"""How commands answer: in JSON for programs, in tables for people."""

import json
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def print_json(answer: Any) -> None:
    """Print an answer of the API as JSON."""
    print(json.dumps(_plain(answer), indent=2))


def print_table(*columns: str, rows: list[list[str]], title: str | None = None) -> None:
    """Print rows under their columns; all but the first are set to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def percent(value: float | None, error: float | None = None) -> str:
    """`97.2 ±0.3`, from fractions."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + (f" ±{100 * error:.1f}" if error is not None else "")


def _plain(answer: Any) -> Any:
    if is_dataclass(answer) and not isinstance(answer, type):
        return asdict(answer)
    return [_plain(one) for one in answer] if isinstance(answer, list) else answer
