"""The combined moves: rows of probability, and moves from other positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.fates._combined_kernel import fit_combined_kernel
from muport.velocity.fates._transition_matrix import cell_kernel

N_DAY = 12


@pytest.fixture(scope="module")
def days() -> tuple[Any, ...]:
    """Cells of two days, random velocities, and couplings that lead each cell to one of the next day, or nowhere."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 2 * N_DAY, 3)).astype(np.float32)
    couplings = sp.csr_matrix(np.eye(2 * N_DAY)[[*range(N_DAY, 2 * N_DAY), *range(N_DAY, 2 * N_DAY)]])
    return x, v, np.repeat([0.0, 1.0], N_DAY), couplings


def test_all_kinds_have_equal_parts(days: tuple[Any, ...]) -> None:
    x, v, time, couplings = days
    around = cell_kernel(x, np.zeros_like(v), time=time, k=4, step=1.0)
    parts = [cell_kernel(x, v, time=time, k=4), around, couplings]
    for given_couplings, kinds in ((None, parts[:2]), (couplings, parts)):
        expected = np.mean([part.toarray() for part in kinds], axis=0)
        assert fit_combined_kernel(x, v, time, 4, given_couplings).matrix.toarray() == pytest.approx(expected)


def test_a_cell_elsewhere_has_the_descendants_of_the_nearest_cell_of_its_day(days: tuple[Any, ...]) -> None:
    x, v, time, couplings = days
    kernel = fit_combined_kernel(x, v, time, 4, couplings)
    assert kernel.moves_from(x, v).toarray() == pytest.approx(kernel.matrix.toarray())
    moved = x.copy()
    moved[0] = x[1] + 1e-4
    moves, plain = (fit_combined_kernel(x, v, time, 4, plan).moves_from(moved, v) for plan in (couplings, None))
    descent = (3 * moves - 2 * plain).toarray()
    assert descent[0, N_DAY + 1] == pytest.approx(1)
    assert descent[5, N_DAY + 5] == pytest.approx(1)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 30))
def test_rows_are_probabilities(days: tuple[Any, ...], seed: int, k: int) -> None:
    x, v, time, couplings = days
    shift = np.random.default_rng(seed).normal(size=x.shape).astype(np.float32)
    kernel = fit_combined_kernel(x, v, time, k, couplings)
    for moves in (kernel.matrix, kernel.moves_from(x + shift, v)):
        assert (moves.data >= 0).all()
        assert np.asarray(moves.sum(axis=1)).ravel() == pytest.approx(1)
