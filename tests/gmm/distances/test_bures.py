"""Bures distances against closed forms, the eigenvalues of S T and POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.distances._bures import bures_squared


def close(found: torch.Tensor, wanted: torch.Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=rtol, atol=atol)


def covariances(seed: int, number: int, d: int, rank: int | None = None) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(number, d, rank or d + 2)) * rng.uniform(0.1, 3, size=(number, d, 1))
    return torch.from_numpy(factor @ factor.swapaxes(1, 2))


def by_eigenvalues(s: np.ndarray, t: np.ndarray) -> float:
    cross = np.sqrt(np.linalg.eigvals(s @ t).real.clip(0)).sum()  # the same eigenvalues as S^1/2 T S^1/2
    return float(np.trace(s) + np.trace(t) - 2 * cross)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_all_pairs_are_the_oracles(d):
    a, b = covariances(0, 3, d), covariances(1, 4, d)
    found = bures_squared(a, b).numpy()
    wanted = [[by_eigenvalues(s, t) for t in b.numpy()] for s in a.numpy()]
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)
    zero = np.zeros(d)
    pot = [[ot.gaussian.bures_wasserstein_distance(zero, zero, s, t) ** 2 for t in b.numpy()] for s in a.numpy()]
    np.testing.assert_allclose(found, pot, rtol=1e-6, atol=1e-6)


def test_one_list_is_the_upper_triangle_twice():
    a = covariances(2, 5, 4)
    found = bures_squared(a)
    close(found, found.T, rtol=0, atol=0)
    assert (found.diagonal() == 0).all()
    close(found, bures_squared(a, a), rtol=1e-9, atol=1e-9)


def test_blocks_and_threads_change_nothing(monkeypatch):
    a, b = covariances(3, 6, 3), covariances(4, 5, 3)
    whole = bures_squared(a, b)
    monkeypatch.setattr("muport.gmm.distances._bures._BLOCK", 18)
    monkeypatch.setattr("muport._parallel.count_cores", lambda: 3)
    close(bures_squared(a, b), whole, rtol=0, atol=0)


def test_diagonals_are_full_matrices():
    rng = np.random.default_rng(5)
    a, b = (torch.from_numpy(rng.uniform(0, 4, size=(n, 6))) for n in (3, 2))
    found = bures_squared(a, b)
    close(found, bures_squared(torch.diag_embed(a), torch.diag_embed(b)), rtol=1e-9, atol=1e-9)


def test_singular_covariances():
    a, b = covariances(6, 2, 5, rank=1), covariances(7, 3, 5, rank=2)
    found = bures_squared(a, b)
    wanted = [[by_eigenvalues(s, t) for t in b.numpy()] for s in a.numpy()]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6)
    flat = bures_squared(torch.zeros(1, 5, 5, dtype=torch.float64), b)
    close(flat[0], b.diagonal(dim1=1, dim2=2).sum(-1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_metric_axioms(seed, d, scale):
    distance = bures_squared(scale * covariances(seed, 3, d)).sqrt()
    assert (distance[0, 1] <= distance[0, 2] + distance[2, 1] + 1e-9 * distance.max()).all()
    assert (distance[~torch.eye(3, dtype=torch.bool)] > 0).all()
