from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from muport.velocity.timecourse._couplings import DayPlan
from muport.velocity.timecourse._populations import Coupling
from muport.velocity.timecourse._transition_tables import Annotation, transition_table


def coupling(plan: np.ndarray) -> Coupling:
    n, m = plan.shape
    names = [pd.Index([f"{side}{i}" for i in range(k)]) for side, k in (("s", n), ("t", m))]
    return Coupling((DayPlan(sp.csr_matrix(plan.astype(np.float32)), True),), (0.0, 1.0), *names)


def shares(n: int, fraction: float) -> Coupling:
    """n cells of each day, of which the first half of the later ones get `fraction` of every cell's mass."""
    row = np.repeat([2 * fraction, 2 * (1 - fraction)], n // 2) / n**2
    return coupling(np.tile(row, (n, 1)))


def test_fractions_are_those_of_the_plan():
    plan = np.array([[0.4, 0.1], [0.1, 0.4]])
    sides = (Annotation(np.array([0, 1]), ("a", "b")), Annotation(np.array([1, 0]), ("c", "d")))
    table = transition_table(coupling(plan), *sides, n_bootstrap=0, level=0.9, random_state=0)
    assert table[["source", "target"]].to_numpy().tolist() == [["a", "c"], ["a", "d"], ["b", "c"], ["b", "d"]]
    assert table["fraction"].to_numpy() == pytest.approx([0.2, 0.8, 0.8, 0.2], rel=1e-5)
    assert table["lower"].isna().all()


def test_cells_without_a_value_are_left_out():
    plan = np.full((2, 4), 1 / 8)
    sides = (Annotation(np.array([0, -1]), ("a",)), Annotation(np.array([0, 1, -1, -1]), ("c", "d")))
    table = transition_table(coupling(plan), *sides, n_bootstrap=20, level=0.9, random_state=0)
    assert table["fraction"].tolist() == pytest.approx([0.5, 0.5])
    assert table["n_source"].tolist() == [1, 1]


def test_intervals_cover_the_fraction_of_new_cells():
    """Later cells have a value with probability .3; 90 % intervals contain .3 in about 90 % of draws."""
    rng, inside = np.random.default_rng(0), []
    for seed in range(100):
        code = (rng.random(60) < 0.7).astype(np.int64)
        target = Annotation(code, ("rare", "common"))
        plan = coupling(np.full((10, 60), 1 / 600))
        table = transition_table(plan, Annotation(np.zeros(10, np.int64), ("a",)), target, 200, 0.9, seed)
        inside.append(table["lower"][0] <= 0.3 <= table["upper"][0])
    assert 0.8 <= np.mean(inside) <= 0.98


def test_samples_that_differ_widen_the_intervals():
    code = np.repeat([0, 0, 1, 1], 50)
    sample = np.repeat(np.arange(4), 50)
    source, plan = Annotation(np.zeros(10, np.int64), ("a",)), coupling(np.full((10, 200), 1 / 2000))
    width = {}
    for name, groups in {"cells": None, "samples": sample}.items():
        table = transition_table(plan, source, Annotation(code, ("c", "d"), groups), 200, 0.9, 0)
        width[name] = table["upper"][0] - table["lower"][0]
    assert width["samples"] > 3 * width["cells"]


def test_the_seed_decides():
    source, target = Annotation(np.repeat([0, 1], 20), ("a", "b")), Annotation(np.arange(40) % 2, ("c", "d"))
    tables = [transition_table(shares(40, 0.5), source, target, 30, 0.9, seed) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])
