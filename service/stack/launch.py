"""`python -m service.stack.launch PART`: what the supervisor runs. It becomes the part when what that needs answers."""

import os
import sys
import time

from jobs.errors import UserError
from service.stack import postgres
from service.stack.environment import part_environment
from service.stack.parts import PARTS
from service.stack.processes import end_leftovers
from service.stack.settings import StackSettings

WAIT_SECONDS = 0.3


def main(name: str) -> None:
    """Become the part.

    Raises:
        UserError: it cannot be started.
    """
    settings, part = StackSettings.read(), PARTS[name]
    end_leftovers(settings, name)  # a server that was killed may leave children that hold its ports
    for needed in part.needs:
        _wait(needed, settings)
    command = part.command(settings)
    environment = part_environment(settings, name)
    print("starting", *command, flush=True)
    os.chdir("/")
    if name == "postgres":
        postgres.become_unprivileged()
    os.execve(command[0], command, environment)  # noqa: S606  # fixed command, no shell


def _wait(name: str, settings: StackSettings) -> None:
    said = ""
    while True:
        try:
            PARTS[name].answers(settings)
        except OSError as error:
            if str(error) != said:
                said = str(error)
                print(f"waiting for {name}: {said}", flush=True)
            time.sleep(WAIT_SECONDS)
        else:
            return


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
