"""Threads: their number inside and after a context, and the order of results."""

import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from muport._parallel import parallel_map, single_threaded, single_threaded_torch


def threads():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr("muport._parallel.count_cores", lambda: 4)


@pytest.mark.parametrize("n_cells", [None, 10, 10**6])
def test_results_keep_the_order_of_the_tasks(four_cores, n_cells):
    assert parallel_map(lambda x: x * x, range(20), n_cells) == [x * x for x in range(20)]


def test_only_long_tasks_run_side_by_side(four_cores):
    def names(n_cells):
        return {*parallel_map(lambda _: threading.current_thread().name, range(8), n_cells)}

    assert names(10) == {threading.current_thread().name}
    assert threading.current_thread().name not in names(None) | names(10**6)


def test_threads_of_tasks_have_no_threads_of_their_own(four_cores):
    assert {*parallel_map(lambda _: torch.get_num_threads(), range(8))} == {1}


def test_the_environment_bounds_the_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert {*parallel_map(lambda _: threading.current_thread().name, range(8))} == {threading.current_thread().name}


def test_libraries_get_their_threads_back():
    np.linalg.eigh(np.eye(3))
    before = threads()
    with single_threaded():
        assert {*threads().values()} == {1}
    assert threads() == before


@pytest.mark.parametrize("when", [True, False])
def test_torch_gets_its_threads_back_also_after_an_error(when):
    def fails():
        with single_threaded_torch(when):
            seen.append(torch.get_num_threads())
            raise RuntimeError("within")

    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="within"):
            fails()
        assert [*seen, torch.get_num_threads()] == [1 if when else 3, 3]
    finally:
        torch.set_num_threads(before)
