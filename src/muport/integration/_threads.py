"""Threads: over groups of cells, and none inside small matrices, where they would only wait for each other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["each", "single_threaded"]

_LARGE = 20_000  # cells from which threads over groups pay


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep libraries to one thread: batches of small matrices and short searches take longer on two than on one.

    Nor can the number of threads then change a sum, and with it a result.
    """
    with threadpool_limits(1):
        yield


def each[Task, Result](function: Callable[[Task], Result], tasks: Iterable[Task], n_cells: int) -> list[Result]:
    """Apply a function to independent tasks, on all cores if they hold many cells; results in the order of the tasks.

    Parameters
    ----------
    function
        Releases the interpreter's lock in its long calls, as faiss and NumPy do.
    tasks
        What to apply it to.
    n_cells
        Cells in all tasks.
    """
    listed = list(tasks)
    workers = min(len(listed), _cores())
    if workers < 2 or n_cells < _LARGE:
        return [function(task) for task in listed]
    with ThreadPoolExecutor(workers, initializer=_one_thread_each) as pool:
        return list(pool.map(function, listed))


def _cores() -> int:
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else cores


def _one_thread_each() -> None:
    # OpenMP keeps its number of threads per calling thread: a new one starts with the default
    import faiss

    faiss.omp_set_num_threads(1)
