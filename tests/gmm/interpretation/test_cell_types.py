"""Cell types of components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from muport.gmm.interpretation._cell_types import component_types, sum_by_group
from muport.gmm.interpretation._component_groups import match_components
from muport.gmm.mixtures._mixtures import Mixtures


def test_types_are_weighted_by_responsibility():
    r = np.array([[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0], [0.5, 0.5, 0]])
    types = component_types(r, np.array(["B", "B", "T", None], dtype=object))
    assert types.share.to_numpy() == pytest.approx(np.array([[1, 0], [3 / 7, 4 / 7], [0, 0]]))
    assert types.mass.tolist() == [1.25, 1.75, 0]
    assert types.purity == pytest.approx([1, 4 / 7, 0])
    assert types.entropy == pytest.approx([0, stats.entropy([3, 4], base=2), 0])
    assert component_types(r, ["B"] * 4).entropy.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="3 labels"):
        component_types(r, ["B", "B", "T"])
    with pytest.raises(ValueError, match="no cell has a type"):
        component_types(r, [None] * 4)


def test_sums_by_group_follow_the_patients():
    rng = np.random.default_rng(1)
    order = rng.permuted(np.tile(np.arange(3), (4, 1)), axis=1)
    means = 20 * np.eye(4)[order] + 0.3 * rng.normal(size=(4, 3, 4))
    groups = match_components(Mixtures(np.full((4, 3), 1 / 3), means, np.ones((4, 3, 4)), "diag"))
    r, sample = rng.dirichlet(np.ones(3), 30), rng.integers(4, size=30)
    summed = sum_by_group(r, sample, groups)
    assert summed.sum(axis=1) == pytest.approx(1)
    index = [groups.group[0][order[0] == c][0] for c in range(3)]
    for i in range(30):
        assert summed[i, index] == pytest.approx(r[i, np.argsort(order[sample[i]])])
