"""Threads: over independent tasks, and none inside small matrices, where they would only wait for each other."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["each", "one_by_one", "single_threaded", "single_threaded_torch"]

_LARGE = 20_000  # cells from which threads pay


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep libraries to one thread: batches of small matrices and short searches take longer on two than on one.

    Nor can the number of threads then change a sum, and with it a result.
    """
    with _pools(len(sys.modules)).limit(limits=1), single_threaded_torch():
        yield


@contextmanager
def single_threaded_torch(when: bool = True) -> Iterator[None]:
    """Keep torch alone to one thread, which costs no time to ask for; also in threads that begin meanwhile.

    The linear algebra that is built into torch listens to torch only, not to threadpoolctl.
    """
    import torch

    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each[Task, Result](
    function: Callable[[Task], Result], tasks: Iterable[Task], n_cells: int | None = None
) -> list[Result]:
    """Apply a function to independent tasks, on all cores if it pays; results in the order of the tasks.

    Parameters
    ----------
    function
        Releases the interpreter's lock in its long calls, as faiss, NumPy and torch do.
    tasks
        What to apply it to.
    n_cells
        Cells in all tasks, where a task is short unless it holds many. None: tasks are long.
    """
    listed = list(tasks)
    workers = min(len(listed), _cores())
    if workers < 2 or (n_cells is not None and n_cells < _LARGE):
        return one_by_one(function, listed)
    with single_threaded_torch(), ThreadPoolExecutor(workers, initializer=_one_thread_each) as pool:
        return list(pool.map(function, listed))


def one_by_one[Task, Result](function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """The same on one thread."""
    return [function(task) for task in tasks]


@lru_cache(maxsize=1)
def _pools(n_modules: int) -> ThreadpoolController:
    """Pools of threads of the libraries loaded: sought anew, in milliseconds, only where modules came since."""
    return ThreadpoolController()


def _cores() -> int:
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else cores


def _one_thread_each() -> None:
    # OpenMP keeps its number of threads per calling thread: a new one starts with the default
    import faiss

    faiss.omp_set_num_threads(1)
