"""Transition matrices of flows whose direction is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.fates._transition_matrix import as_transition_matrix, cell_kernel


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 60), d=st.integers(1, 5), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_kernel_rows_are_probabilities(seed: int, n: int, d: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(n, d)), scale * rng.normal(size=(n, d))
    x[: n // 3] = x[0]  # doubles
    kernel = cell_kernel(x, v, time=rng.random(n))
    assert kernel.shape == (n, n)
    assert (kernel.data >= 0).all()
    assert np.isfinite(kernel.data).all()
    assert np.asarray(kernel.sum(axis=1)).ravel() == pytest.approx(1)
    assert kernel.diagonal().max() == 0


def test_kernel_moves_with_the_flow_whatever_the_units(chains: Any) -> None:
    x, v, _, _ = chains.flow("linear", n_cells=600)
    kernel = cell_kernel(x, v)
    moved = np.asarray(kernel @ x) - x
    along = (moved * v).sum(axis=1) / (np.linalg.norm(moved, axis=1) * np.linalg.norm(v, axis=1))
    assert np.median(along) > 0.5
    # powers of two, so that no rounding differs
    assert abs(cell_kernel(64 * x, v / 4) - kernel).max() < 1e-5
    assert abs(cell_kernel(x, v, step=1e-6) - kernel).max() > 0.1


def test_kernel_default_step_is_half_the_local_distance() -> None:
    x = np.arange(100.0)[:, None]
    # the 15th neighbour is 8 cells away in the middle
    assert abs(cell_kernel(x, np.full_like(x, 2.0)) - cell_kernel(x, np.full_like(x, 2.0), step=2.0)).max() < 1e-6


def test_balance_levels_the_columns_within_rows_of_one(chains: Any) -> None:
    x, v, time, _ = chains.flow("cycle", noise=0.5, n_cells=1000)
    spread = [np.asarray(cell_kernel(x, v, balance=b).sum(axis=0)).ravel().std() for b in (0, 0.5, 0.95)]
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]


def test_time_orients_but_forbids_nothing(chains: Any) -> None:
    x, v, time, _ = chains.flow("linear", n_cells=800)
    plain = cell_kernel(x, v, balance=0)
    oriented = cell_kernel(x, v, time=time, balance=0)

    def backward(kernel: sp.csr_matrix) -> float:
        entries = kernel.tocoo()
        return float(entries.data[time[entries.col] < time[entries.row]].sum())

    assert oriented.nnz == plain.nnz
    assert oriented.data.min() > 0
    assert backward(oriented) < 0.8 * backward(plain)
    assert abs(cell_kernel(x, v, time=np.zeros(800), balance=0) - plain).max() < 1e-12


def test_same_input_same_kernel(chains: Any) -> None:
    x, v, _, _ = chains.flow("linear", n_cells=500)
    one, two = cell_kernel(x, v), cell_kernel(x, v)
    assert np.array_equal(one.data, two.data)
    assert np.array_equal(one.indices, two.indices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, v: (x, v[:-1]), "velocity has shape"),
        (lambda x, v: (x, 0 * v), "zero in every cell"),
        (lambda x, v: (x, v * np.nan), "velocity has a NaN"),
        (lambda x, v: (x[:1], v[:1]), "one cell"),
    ],
)
def test_kernel_refuses_bad_flows(change: Any, message: str) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=message):
        cell_kernel(*change(x, np.ones_like(x)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"k": 0}, "k=0 must"),
        ({"step": -1.0}, "step=-1.0 must"),
        ({"step": np.nan}, "step=nan must"),
        ({"balance": 1.0}, "balance=1.0 must"),
        ({"time": np.zeros(3)}, "time must be 20 finite numbers"),
        ({"time": np.full(20, np.nan)}, "time must be 20 finite numbers"),
    ],
)
def test_kernel_refuses_bad_options(option: dict[str, Any], message: str) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=message):
        cell_kernel(x, np.ones_like(x), **option)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (np.ones((2, 3)), "must be square"),
        (np.array([[0.5, 0.5], [0.5, 0.4]]), "row 1 sums to 0.9"),
        (np.array([[1.5, -0.5], [0, 1]]), "negative, NaN"),
        (np.array([[np.nan, 1], [0, 1]]), "negative, NaN"),
    ],
)
def test_refuses_what_is_no_chain(chain: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_transition_matrix(chain)


def test_repeated_entries_of_a_kernel_mean_their_sum():
    repeated = sp.csr_matrix((np.array([2.0, -1.0, 1.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    assert repeated.nnz == 3
    np.testing.assert_array_equal(as_transition_matrix(repeated).toarray(), [[0, 1], [1, 0]])
