"""Threads: one per independent task, and none inside operations on small matrices, which threads make slower."""

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

__all__ = ["parallel_map", "serial_map", "single_threaded", "single_threaded_torch"]

_PARALLEL_FROM = 20_000  # number of cells from which threads save time


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit all libraries to one thread: batches of small matrices and short searches are slower on several.

    The number of threads then cannot change the order of a sum, and so it cannot change a result.
    """
    with _find_thread_pools(len(sys.modules)).limit(limits=1), single_threaded_torch():
        yield


@contextmanager
def single_threaded_torch(when: bool = True) -> Iterator[None]:
    """Limit torch to one thread, also in threads that start inside the context. This takes no time.

    threadpoolctl does not control the linear algebra that is built into torch; only torch does.

    Parameters
    ----------
    when
        False leaves the number of threads as it is.
    """
    import torch

    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parallel_map[Task, Result](
    function: Callable[[Task], Result], tasks: Iterable[Task], n_cells: int | None = None
) -> list[Result]:
    """Apply a function to independent tasks, on all cores if this is faster.

    Parameters
    ----------
    function
        It should release the global interpreter lock in its long calls, as faiss, NumPy and torch do.
    tasks
        Arguments of the function.
    n_cells
        Number of cells in all tasks: below 20,000 cells the tasks run on one thread. None: tasks are always long.

    Returns
    -------
    Results in the order of the tasks.
    """
    listed = list(tasks)
    workers = min(len(listed), _n_cores())
    if workers < 2 or (n_cells is not None and n_cells < _PARALLEL_FROM):
        return serial_map(function, listed)
    with single_threaded_torch(), ThreadPoolExecutor(workers, initializer=_limit_faiss_to_one_thread) as pool:
        return list(pool.map(function, listed))


def serial_map[Task, Result](function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Apply a function to tasks on this thread, with the interface of `parallel_map`."""
    return [function(task) for task in tasks]


@lru_cache(maxsize=1)
def _find_thread_pools(n_modules: int) -> ThreadpoolController:
    """Find the thread pools of the loaded libraries; repeated only after further modules were imported."""
    return ThreadpoolController()


def _n_cores() -> int:
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else cores


def _limit_faiss_to_one_thread() -> None:
    # OpenMP keeps a number of threads for each calling thread, and a new thread starts with the default.
    import faiss

    faiss.omp_set_num_threads(1)
