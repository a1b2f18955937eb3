"""`cops gc`."""

import re
from typing import Annotated

import typer

from jobs.errors import UserError
from service.show import Json

app = typer.Typer()


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="remove it; without this, only say what would go")] = False,
    older_than: Annotated[str, typer.Option(help="age from which on things go: 12h, 7d")] = "7d",
    as_json: Json = False,
) -> None:
    """Remove masks, scores and checkpoints that nothing refers to any more; a dry run unless --delete is given."""
    if not re.fullmatch(r"\d+[hd]", older_than):
        raise UserError(f"--older-than = '{older_than}': should be hours or days, like 12h or 7d")
    from jobs.settings import Settings
    from service.gc import collect

    collect(
        Settings.read(), int(older_than[:-1]) * (24 if older_than[-1] == "d" else 1), delete=delete, as_json=as_json
    )
