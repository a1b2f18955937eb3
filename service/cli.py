"""The console command `cops`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.errors import UserError
from service.commands import catalog, gc, masks, stack, sweeps, token

app = typer.Typer(help="COPS: sweeps that find the best mask of a network.", no_args_is_help=True)
for group in (sweeps, masks, stack, gc):
    app.add_typer(group.app)
app.add_typer(catalog.app, name="catalog")
app.add_typer(token.app, name="token")


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def sweep(arguments: Annotated[list[str] | None, typer.Argument(metavar="FILE [OPTIONS]")] = None) -> None:
    """Run a sweep, here or in the Ray cluster that RAY_ADDRESS names; the same as `python -m jobs`, see its --help."""
    from jobs.__main__ import main as jobs

    sys.path.insert(0, str(Path.cwd()))  # where people's own models are; `python -m` has it, too
    raise typer.Exit(jobs(arguments or []))


@app.command()
def serve() -> None:
    """Serve MLflow's UI and the API, over what the sweeps left; on loopback, unless COPS_API_HOST says other."""
    from service.serve import serve as run_serve
    from service.settings import ApiSettings

    run_serve(ApiSettings.read())


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
