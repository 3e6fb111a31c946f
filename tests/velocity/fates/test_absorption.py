"""Absorption probabilities against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.fates._absorption import solve_absorption
from muport.velocity.fates._fate_probabilities import fate_probabilities
from muport.velocity.fates._transition_matrix import cell_kernel


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 60), up=st.floats(0.2, 0.8), lazy=st.floats(0, 0.9))
def test_waiting_changes_no_fate(chains: Any, n: int, up: float, lazy: float) -> None:
    chain = chains.walk(n, up)
    result = solve_absorption(lazy * sp.identity(n) + (1 - lazy) * chain, np.r_[0, np.full(n - 2, -1), 1])
    assert result.converged
    assert result.probabilities.sum(axis=1) == pytest.approx(1)
    assert result.probabilities[:, 1] == pytest.approx(chains.ruin(n, 0.5 if abs(up - 0.5) < 1e-4 else up), abs=1e-3)


@pytest.mark.parametrize("up", [0.5, 0.6])
def test_iteration_meets_the_closed_form(chains: Any, up: float) -> None:
    """Beyond the sizes that are factorized, on a walk too long for an iteration without a preconditioner."""
    n = 4_500
    result = solve_absorption(chains.walk(n, up), np.r_[0, np.full(n - 2, -1), 1])
    assert result.converged
    assert result.residual <= 1e-8
    assert result.n_iter > 0
    assert result.probabilities[:, 1] == pytest.approx(chains.ruin(n, up), abs=1e-4)


def test_iteration_and_factorization_agree(chains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, v, time, branch = chains.flow("bifurcation", n_cells=1500)
    kernel, ends = cell_kernel(x, v), chains.late_cells(time, branch, ["A", "B"])
    direct = solve_absorption(kernel, ends)
    monkeypatch.setattr("muport.velocity.fates._absorption._FACTORIZE_UP_TO", 0)
    iterated = solve_absorption(kernel, ends)
    assert direct.n_iter == 0 < iterated.n_iter
    assert iterated.probabilities == pytest.approx(direct.probabilities, abs=1e-6)


def test_cells_caught_elsewhere_are_flagged_and_never_nan() -> None:
    """0 goes half to the end 2 and half to the trap 1; 3 only to the trap."""
    chain = np.array([[0, 0.5, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    result = solve_absorption(chain, [-1, -1, 0, -1])
    assert result.reached.tolist() == [True, False, True, False]
    assert result.reach.tolist() == pytest.approx([0.5, 0, 1, 0])
    assert result.probabilities.ravel().tolist() == pytest.approx([1, 0, 1, 0])
    with pytest.warns(UserWarning, match="2 of 4 cells reach no terminal"):
        assert fate_probabilities(chain, [-1, -1, 0, -1]).ravel().tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("terminal", "error", "message"),
    [
        ([-1, -1, -1], ValueError, "holds no terminal cell"),
        ([0, -1], ValueError, "kernel has 3 cells"),
        ([0, 2, -1], ValueError, "1 has none"),
        (["a", "b", "c"], TypeError, "integer codes"),
        ([0.0, -1.0, 1.0], TypeError, "integer codes"),
    ],
)
def test_refuses_bad_terminals(terminal: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fate_probabilities(np.eye(3), terminal)
