"""The console commands `cops token ...`."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from service.settings import ApiSettings
from service.show import Json, print_json
from service.tokens import Token, TokenFile

app = typer.Typer(help="Tokens of the API; scopes: read < submit < admin.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="whose it is, or what for")],
    scope: Annotated[
        str, typer.Option(help="read, submit (start and steer sweeps) or admin (any code and data)")
    ] = "read",
    days: Annotated[float | None, typer.Option(help="until it expires; without it never")] = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept."""
    file = _file()
    text, token = file.create(name, scope, days)
    if as_json:
        print_json({"token": text} | _public(token))
        return
    print(text)
    hint = (
        f"scope {token.scope}, {_until(token)}; kept nowhere, so note it now. An API that asks for none yet does after"
    )
    typer.echo(f"{hint} its next start.", err=True)


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """List the tokens: ids, scopes and states."""
    tokens = _file().tokens()
    if as_json:
        print_json([_public(token) for token in tokens])
        return
    table = Table("id", "name", "scope", "created", "state", box=box.SIMPLE)
    for token in tokens:
        table.add_row(token.id, token.name, token.scope, _day(token.created), _until(token))
    Console().print(table)


@app.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="as `cops token list` shows it")], as_json: Json = False
) -> None:
    """Make a token useless, at once."""
    token = _file().revoke(id_)
    if as_json:
        print_json(_public(token))
        return
    print(f"revoked: {token.id} ({token.name})")


def _file() -> TokenFile:
    return TokenFile(ApiSettings.read().token_file)


def _public(token: Token) -> dict[str, Any]:
    return {name: value for name, value in asdict(token).items() if name != "sha256"}


def _until(token: Token) -> str:
    if token.revoked:
        return "revoked"
    if token.expires is None:
        return "never expires"
    return f"expires {_day(token.expires)}" if token.usable(time.time()) else f"expired {_day(token.expires)}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
