"""Threads: one per independent task, and none inside operations on small matrices, which threads make slower."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock, local
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from threadpoolctl import LibController

__all__ = ["count_cores", "parallel_map", "serial_map", "single_threaded", "single_threaded_torch"]

_PARALLEL_FROM = 20_000  # number of cells from which threads save time


#: Library -> its controller, and the number of threads that the user gave it.
type _Numbers = dict[str, tuple[LibController, int]]


class _ThreadLimits(local):
    """The number of contexts that a thread is in, and the libraries that have a number of threads for each thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.numbers: _Numbers = {}


class _SharedLimits:
    """The number of threads inside a context, and the libraries that have one number of threads for the process.

    Contexts of several threads may overlap. If each restored what it had found, the last one would restore the limit
    of the first. So the limits end with the last context, in whichever thread that is.
    """

    def __init__(self) -> None:
        self.lock, self.depth = Lock(), 0
        #: torch's own number; None if torch was not imported
        self.torch: int | None = None
        self.numbers: _Numbers = {}

    def forget_other_threads(self) -> None:
        """Begin anew in a forked process, in which only the thread that forked exists."""
        self.lock, self.depth = Lock(), min(_thread.depth, 1)


_thread, _shared = _ThreadLimits(), _SharedLimits()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget_other_threads)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit all libraries to one thread: batches of small matrices and short searches are slower on several.

    The number of threads then cannot change the order of a sum, and so it cannot change a result.
    """
    with single_threaded_torch():
        pools = _find_thread_pools(len(sys.modules)).lib_controllers
        with _shared.lock:
            for pool in pools:
                # OpenMP has a number for each thread, linear algebra has one for the process
                numbers = _thread.numbers if pool.user_api == "openmp" else _shared.numbers
                numbers.setdefault(pool.filepath, (pool, pool.get_num_threads()))
                pool.set_num_threads(1)
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
    if not when:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    # what runs without torch does not wait two seconds for its import
    torch = sys.modules.get("torch")
    with _shared.lock:
        if not _shared.depth:
            _shared.torch = None if torch is None else torch.get_num_threads()
        if not _thread.depth:
            # torch's number is one of the process, but it also changes that of OpenMP in this thread
            for pool in _find_thread_pools(len(sys.modules)).lib_controllers:
                if pool.user_api == "openmp":
                    _thread.numbers[pool.filepath] = pool, pool.get_num_threads()
            _shared.depth += 1
            if torch is not None:
                torch.set_num_threads(1)
        _thread.depth += 1


def _leave() -> None:
    with _shared.lock:
        _thread.depth -= 1
        if _thread.depth:
            return
        _shared.depth -= 1
        if not _shared.depth:
            _restore(_shared.numbers)
            if _shared.torch is not None:
                sys.modules["torch"].set_num_threads(_shared.torch)
        _restore(_thread.numbers)


def _restore(numbers: _Numbers) -> None:
    for pool, number in numbers.values():
        pool.set_num_threads(number)
    numbers.clear()


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
    workers = min(len(listed), count_cores())
    if workers < 2 or (n_cells is not None and n_cells < _PARALLEL_FROM):
        return serial_map(function, listed)
    with single_threaded_torch(), ThreadPoolExecutor(workers, initializer=_limit_worker) as pool:
        return list(pool.map(function, listed))


def serial_map[Task, Result](function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Apply a function to tasks on this thread, with the interface of `parallel_map`."""
    return [function(task) for task in tasks]


@lru_cache(maxsize=1)
def _find_thread_pools(n_modules: int) -> ThreadpoolController:
    """Find the thread pools of the loaded libraries; repeated only after further modules were imported."""
    return ThreadpoolController()


def count_cores() -> int:
    """Return the number of cores that this process may use; ``OMP_NUM_THREADS`` limits it."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else cores


def _limit_worker() -> None:
    """Limit a new thread for its life. It counts as inside a context, so that no context in it raises the numbers."""
    # OpenMP keeps a number of threads for each calling thread, and a new thread starts with the default.
    import faiss

    faiss.omp_set_num_threads(1)
    _thread.depth = 1
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
