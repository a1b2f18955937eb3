"""Threads for whole chunks of work instead of single tensor operations.

A torch operation on many threads ends when its slowest thread does. A solve makes hundreds of them, and on a
busy machine each waits for the scheduler: solves took 30 times as long on two threads as on one.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")
_workers: ContextVar[int] = ContextVar("workers", default=1)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Run tensor operations on the calling thread; `spread` may use as many threads as torch had before."""
    before = torch.get_num_threads()
    token = _workers.set(max(before, _workers.get()))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _workers.reset(token)


def spread(work: Callable[[Sequence[Part]], list[Result]], parts: Sequence[Part]) -> list[Result]:
    """Apply `work` to interleaved shares of `parts`, a share a thread; results in the order of `parts`."""
    count = min(_workers.get(), len(parts))
    if count <= 1:
        return work(parts)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        shares = list(pool.map(work, [parts[i::count] for i in range(count)]))
    return [shares[i % count][i // count] for i in range(len(parts))]
