"""Fate probabilities and committors against closed forms, and on flows whose branches are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from muport.velocity.fates._fate_probabilities import committor, fate_probabilities
from muport.velocity.fates._transition_matrix import cell_kernel


@pytest.mark.parametrize("up", [0.5, 0.55, 0.3])
@pytest.mark.parametrize("n", [5, 40])
def test_committor_is_the_gamblers_ruin(chains: Any, n: int, up: float) -> None:
    assert committor(chains.walk(n, up), [0], [n - 1]) == pytest.approx(chains.ruin(n, up), abs=1e-10)


def test_reports_that_the_iteration_did_not_converge(chains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muport.velocity.fates._absorption._FACTORIZE_UP_TO", 0)
    x, v, time, _ = chains.flow("linear", n_cells=500)
    with pytest.warns(UserWarning, match="did not converge"):
        q = committor(cell_kernel(x, v), time < 0.1, time > 0.9, max_iter=1)
    assert np.isfinite(q).all()
    assert q.min() >= 0
    assert q.max() <= 1


def test_three_fates_against_powers_of_the_chain() -> None:
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.ones(12), 12)
    chain[:3] = np.eye(12)[:3]
    far = np.linalg.matrix_power(chain, 10_000)[:, :3]
    codes = np.r_[2, 0, 1, np.full(9, -1)]
    assert fate_probabilities(chain, codes)[:, [2, 0, 1]] == pytest.approx(far, abs=1e-9)


@pytest.mark.parametrize("noise", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_bifurcation_is_calibrated(chains: Any, noise: float, seed: int) -> None:
    x, v, time, branch = chains.flow("bifurcation", seed, noise=noise)
    q = fate_probabilities(cell_kernel(x, v), chains.late_cells(time, branch, ["A", "B"]))
    assert q.sum(axis=1) == pytest.approx(1)
    assert q[time < 0.1].mean(axis=0) == pytest.approx(0.5, abs=0.05)
    for fate, name in enumerate("AB"):
        assert q[(branch == name) & (time > 0.6), fate].mean() > 0.98


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_unequal_branches_get_the_shares_of_the_data(chains: Any, share: float) -> None:
    x, v, time, branch = chains.forked(share, 2000, 3)
    held = np.mean(branch[branch != "trunk"] == "A")
    q = fate_probabilities(cell_kernel(x, v), chains.late_cells(time, branch, ["A", "B"]))
    assert q[time < 0.1, 0].mean() == pytest.approx(held, abs=0.05)
    for fate, name in enumerate("AB"):
        assert q[(branch == name) & (time > 0.6), fate].mean() > 0.98


@pytest.mark.parametrize(
    ("source", "sink", "message"),
    [
        ([], [1], "source holds no cell"),
        ([0], [3], "between 0 and 2"),
        ([0], [0], "share 1 cells"),
        ([True, False], [2], r"source has shape \(2,\)"),
        ([0.5], [1], "booleans, or positions"),
    ],
)
def test_refuses_bad_sources(source: list[Any], sink: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        committor(np.eye(3), source, sink)


def test_the_callers_matrix_is_left_alone() -> None:
    chain = sp.csr_matrix(np.array([[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]]))
    chain.data[0] = 0.5
    before = chain.copy()
    stored = sp.csr_matrix((np.array([0.0, 1.0, 1.0]), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    fate_probabilities(chain, [-1, 0, 1])
    fate_probabilities(stored, [-1, 0])
    assert (chain != before).nnz == 0
    assert stored.nnz == 3
