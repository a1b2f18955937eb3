"""What the benchmarks print."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Measures = dict[str, dict[str, Any]]  # by name: `value`, `target`, and which is `better`, "less" or "more"


def show(found: Measures, title: str, *, as_json: bool) -> None:
    """Print measures as a table, or as JSON."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("measure", "value", "target", "met", title=title)
    for name, row in found.items():
        less = row["better"] == "less"
        met = row["value"] <= row["target"] if less else row["value"] >= row["target"]
        sign = "at most" if less else "at least"
        table.add_row(name, f"{row['value']:.3g}", f"{sign} {row['target']:g}", "yes" if met else "no")
    Console().print(table)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
