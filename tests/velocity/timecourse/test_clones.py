"""Clones in the coupling: cells follow their clones, and those of their neighbors."""

import numpy as np
import scipy.sparse as sp

from muport.velocity.timecourse._clones import clonal_affinity
from muport.velocity.timecourse._couplings import couple_days
from muport.velocity.timecourse._days import Days


def crossing(n=60, seed=0):
    """Two groups whose cells end on the other side; every second cell has a clone of its group."""
    rng = np.random.default_rng(seed)
    group = np.tile(np.repeat([0, 1], n // 2), 2)
    time = np.repeat([0.0, 1.0], n)
    side = np.where(time == 0, 1, -1) * np.where(group == 0, 1, -1)
    x = np.stack([time, side * 0.5], axis=1) + rng.normal(0, 0.3, (2 * n, 2))
    member = np.zeros((2 * n, 2))
    marked = np.arange(2 * n) % 2 == 0
    member[marked, group[marked]] = 1
    return x.astype(np.float32), time, group, sp.csr_array(member), marked


def kept_in_group(plan, group, rows):
    n = plan.plan.shape[0]
    same = group[:n, None] == group[n:][None]
    mass = plan.plan.toarray()
    return (mass * same)[rows].sum() / mass[rows].sum()


def test_cells_follow_their_clones_and_cells_without_a_clone_follow_their_neighbors():
    x, time, group, clones, marked = crossing()
    without = couple_days(Days(x, time), 0, 1)
    with_clones = couple_days(Days(x, time, clones=clones), 0, 1)
    assert with_clones.converged
    for rows in (marked[:60], ~marked[:60]):
        assert kept_in_group(without, group, rows) < 0.2
        assert kept_in_group(with_clones, group, rows) > 0.8


def test_clones_that_meet_nowhere_change_nothing():
    x, time, _, clones, _ = crossing()
    apart = sp.csr_array(sp.hstack([clones.multiply((time == 0)[:, None]), clones.multiply((time == 1)[:, None])]))
    plain, with_clones = (couple_days(Days(x, time, clones=c), 0, 1).plan for c in (None, apart))
    assert abs(plain - with_clones).max() < 1e-7
    assert clonal_affinity(x[:60], x[60:], apart[:60], apart[60:]) is None
