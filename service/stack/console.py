"""What `cops up` and `cops env` print."""

import shlex

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.errors import UserError
from service.stack.environment import UNSET, client_environment
from service.stack.settings import StackSettings
from service.stack.supervise import status


def parts(settings: StackSettings) -> list[dict[str, str | int]]:
    """Where the parts listen, and their processes."""
    return [
        {"part": one.part.title, "address": one.part.address(settings), "process": one.pid} for one in status(settings)
    ]


def print_table(settings: StackSettings) -> None:
    """Where the parts listen, and what to do next."""
    table = Table("part", "address", "process", box=box.SIMPLE)
    for one in parts(settings):
        table.add_row(*map(str, one.values()))
    console = Console()
    console.print(table)
    console.print(f"logs: {settings.logs}", soft_wrap=True)
    console.print('to use them: eval "$(cops env)", then `python -m jobs SWEEP.yaml` or', soft_wrap=True)
    console.print("ray job submit --working-dir . -- python -m jobs SWEEP.yaml", soft_wrap=True)


def variables(settings: StackSettings) -> dict[str, str | None]:
    """What a user of the stack has in the environment; None for what should not be there.

    Raises:
        UserError: there is no stack.
    """
    if not settings.ray_token.exists():
        raise UserError(f"COPS_HOME = '{settings.home}' holds no stack: start it with `cops up`")
    return dict.fromkeys(UNSET) | client_environment(settings)


def exports(settings: StackSettings) -> str:
    """Shell commands that set it.

    Raises:
        UserError: as `variables`.
    """
    found = variables(settings).items()
    unset = " ".join(name for name, value in found if value is None)
    exported = [f"export {name}={shlex.quote(value)}" for name, value in found if value is not None]
    return "\n".join([f"unset {unset}", *exported])
