"""The chain that follows the plans between measured days."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from muport.velocity.fates._coupling_kernel import coupling_kernel


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 4))
def test_half_of_the_moves_follow_the_plan(seed, k, n_days):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, n_days)
    day = rng.permutation(np.repeat(np.arange(n_days), sizes))
    members = [np.flatnonzero(day == d) for d in range(n_days)]
    plans = [
        sp.csr_matrix(rng.random(shape) * (rng.random(shape) < 0.6)) for shape in zip(sizes, sizes[1:], strict=False)
    ]
    chain = coupling_kernel(rng.normal(size=(len(day), 3)).astype(np.float32), members, plans, k).toarray()
    assert chain.sum(axis=1) == pytest.approx(1)
    assert (chain >= 0).all()
    assert not chain.diagonal().any()
    for source, plan in enumerate(plans):
        block = chain[np.ix_(members[source], members[source + 1])]
        total = plan.toarray().sum(axis=1, keepdims=True)
        # cells without descendants stay in their day
        assert block == pytest.approx(0.5 * np.divide(plan.toarray(), total, where=total > 0, out=np.zeros(plan.shape)))
    ahead = day[None, :] - day[:, None]
    assert not chain[(ahead < 0) | (ahead > 1)].any()


def test_neighbors_of_the_day_are_the_nearest():
    x = np.array([[0.0], [1.0], [5.0], [6.0], [0.0], [1.0]], np.float32)
    chain = coupling_kernel(x, [np.arange(4), np.arange(4, 6)], [sp.csr_matrix((4, 2))], 1).toarray()
    assert chain[:4, :4].argmax(axis=1).tolist() == [1, 0, 3, 2]
    assert not chain[:4, 4:].any()


def test_many_descendants_are_represented_by_a_sample_of_their_mass():
    """Half of the mass is on one descendant, the rest on 999: the chain keeps both parts, and their mean position."""
    rng = np.random.default_rng(0)
    mass = np.r_[999.0, rng.uniform(0.5, 1.5, 999)]
    x = rng.normal(size=(1002, 2)).astype(np.float32)
    chain = coupling_kernel(x, [np.arange(2), np.arange(2, 1002)], [sp.csr_matrix(np.stack([mass, mass]))], 1)
    row = chain[[0]].toarray().ravel()[2:]
    assert np.count_nonzero(row) <= 64
    assert row.sum() == pytest.approx(0.5)
    assert row[0] == pytest.approx(0.25, abs=0.01)
    assert row @ x[2:] == pytest.approx(0.5 * (mass / mass.sum()) @ x[2:], abs=0.1)
