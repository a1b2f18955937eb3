"""Processes of the stack, found by a variable of their environment: also those whose parent was killed."""

from contextlib import suppress

import psutil

from service.stack.environment import MARK, mark
from service.stack.parts import PARTS
from service.stack.settings import StackSettings

SECONDS = 5.0  # for killed processes to go


def of_part(settings: StackSettings, name: str) -> set[psutil.Process]:
    """All living processes of a part."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark(settings, name):
                # Those that gave themselves a title overwrote the environment that others see.
                found |= {process, *process.children(recursive=True)}
        except psutil.Error:  # it has gone, is a zombie or another user's
            continue
    return found


def end_leftovers(settings: StackSettings, *names: str) -> int:
    """Kill what is left of parts whose first process has ended or lost its supervisor; how many there were."""
    found = set().union(*(of_part(settings, name) for name in names or PARTS))
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=SECONDS)
    return len(found)


def memory(settings: StackSettings, name: str) -> int:
    """Bytes of memory of a part's processes; pages that several of them use are shared out among them."""
    total = 0
    for process in of_part(settings, name):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total
