"""How many threads work, and that their number changes no number."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["available_cores", "map_in_threads", "one_thread_each", "with_threads"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    """Call a function for each item, in one thread per core, and return its results in order."""
    with one_thread_each(), ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, items))


def one_thread_each() -> AbstractContextManager[None]:
    """Give every worker one thread: faster than sharing, and the same numbers for any number of workers."""
    return with_threads(1)


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Let libraries work with so many threads, whatever the environment says: sums depend on their number.

    Beside others at work, threads of NumPy's that wait for each other cost more than they gain.

    Parameters
    ----------
    count : int
        1 or more.
    """
    with _numpy_threads().limit(limits=count, user_api="blas"):
        if "torch" not in sys.modules:  # nothing here would work with it
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@cache
def _numpy_threads() -> ThreadpoolController:
    """What counts the threads of NumPy's library of linear algebra; it takes a moment to find."""
    return ThreadpoolController()
