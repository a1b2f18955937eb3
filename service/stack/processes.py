"""Processes of the stack, found by a variable of their environment: also those whose parent was killed."""

from collections.abc import Iterator

import psutil

from service.stack.parts import MARK, PARTS, mark
from service.stack.settings import StackSettings

SECONDS = 5.0  # for killed processes to go


def of_part(settings: StackSettings, name: str) -> Iterator[psutil.Process]:
    """All living processes of a part."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark(settings, name):
                yield process
        except psutil.Error:  # it has gone, is a zombie or another user's
            continue


def end_leftovers(settings: StackSettings, *names: str) -> int:
    """Kill what is left of parts whose first process has ended or lost its supervisor; how many there were."""
    found = [process for name in names or PARTS for process in of_part(settings, name)]
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=SECONDS)
    return len(found)


def memory(settings: StackSettings, name: str) -> int:
    """Bytes of memory of a part's processes, where shared pages are shared out among them."""
    total = 0
    for process in of_part(settings, name):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
