"""What `cops up` and `cops env` print."""

import shlex

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.errors import UserError
from service.stack.environment import UNSET, client_environment
from service.stack.settings import StackSettings
from service.stack.supervise import status


def print_table(settings: StackSettings) -> None:
    """Where the parts listen, and what to do next."""
    table = Table("part", "address", "process", box=box.SIMPLE)
    for one in status(settings):
        table.add_row(one.part.title, one.part.address(settings), str(one.pid))
    console = Console()
    console.print(table)
    console.print(f"logs: {settings.logs}", soft_wrap=True)
    console.print('to use them: eval "$(cops env)", then `python -m jobs SWEEP.yaml` or', soft_wrap=True)
    console.print("ray job submit --working-dir . -- python -m jobs SWEEP.yaml", soft_wrap=True)


def exports(settings: StackSettings) -> str:
    """Shell commands that set the environment of a user of the stack.

    Raises:
        UserError: there is no stack.
    """
    if not settings.ray_token.exists():
        raise UserError(f"COPS_HOME = '{settings.home}' holds no stack: start it with `cops up`")
    unset = f"unset {' '.join(UNSET)}"
    return "\n".join(
        [unset, *(f"export {name}={shlex.quote(value)}" for name, value in client_environment(settings).items())]
    )
