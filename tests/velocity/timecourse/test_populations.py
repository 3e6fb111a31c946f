from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from muport.velocity.timecourse._couplings import DayPlan
from muport.velocity.timecourse._populations import Coupling, population_mass

NAMES = pd.Index(["a", "b", "c", "d"])
LABELS = np.array(["x", "y", "x", "unknown"])
LAST = np.array([2, 3])  # the cells of the time that populations are asked for


def chain() -> Coupling:
    first = DayPlan(sp.csr_matrix(np.array([[0.5, 0.1], [0.0, 0.4]], np.float32)), converged=True)
    second = DayPlan(sp.csr_matrix(np.array([[1 / 3, 0.0, 1 / 6], [0.0, 1 / 3, 1 / 6]], np.float32)), converged=False)
    return Coupling((first, second), (0.0, 1.0, 3.0), NAMES[:2], pd.Index(["u", "v", "w"]))


def test_chains_are_products_of_plans():
    coupling, p, q = chain(), np.array([0.2, 0.8]), np.array([0.5, 0.0, 0.5])
    a, b = (plan.plan.toarray() for plan in coupling.plans)
    product = a @ np.diag([2, 2]) @ b
    assert coupling.to_sparse().toarray() == pytest.approx(product)
    assert coupling.push(p) == pytest.approx(product.T @ (2 * p))
    assert coupling.pull(q) == pytest.approx(product @ (3 * q))
    assert coupling.shape == (2, 3)
    assert not coupling.converged


def test_growth_rate_is_the_log_of_descendants_per_unit_of_time():
    rate = chain().growth_rate
    assert rate.index.tolist() == ["a", "b"]
    assert rate.to_numpy() == pytest.approx(np.log([1.2, 0.8]) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("population", "expected"),
    [
        ("x", [1, 0]),
        (["x", "unknown"], [0.5, 0.5]),
        (np.array([True, True, False, True]), [0, 1]),
        ([1, 0, 1, 3], [0.25, 0.75]),
        (pd.Series([3.0, 1.0, 0.0, 0.0], index=["d", "c", "b", "a"]), [0.25, 0.75]),
    ],
)
def test_populations_are_labels_masks_or_masses(population, expected):
    assert population_mass(population, LAST, NAMES, LABELS, 2.0).tolist() == expected


@pytest.mark.parametrize(
    ("population", "labels", "error", "words"),
    [
        ("z", LABELS, KeyError, "'z' is not a label.*'unknown', 'x', 'y'"),
        ("x", None, ValueError, "labels_key"),
        ("y", LABELS, ValueError, "no cell at time 2"),
        ([1, 1, -1, 1], LABELS, ValueError, "1 masses are negative.*-1 of cell 'c'"),
        ([1, 1, np.nan, 1], LABELS, ValueError, "not finite"),
        ([1, 1], LABELS, ValueError, r"shape \(2,\).*4 cells"),
        (pd.Series([1.0], index=["a"]), LABELS, ValueError, "population"),
        ({"a": 1}, LABELS, TypeError, "dict"),
        (pd.Index(["1", "2"]), LABELS, TypeError, r"Index of names: .* mask adata.obs_names.isin\(names\)"),
        (np.array(["1", "2", "1", "2"]), LABELS, TypeError, "of names"),
    ],
)
def test_bad_populations_are_refused(population, labels, error, words):
    with pytest.raises(error, match=words):
        population_mass(population, LAST, NAMES, labels, 2.0)
