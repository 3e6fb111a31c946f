"""Features of axes and components, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.interpretation._features import axis_loadings, component_shifts, rank_features


def test_axis_loadings_are_the_slopes_of_the_axes():
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=(9, 4)), rng.normal(size=(2, 4))
    x = rng.normal(size=(5, 9))
    assert axis_loadings(w, v) == pytest.approx(v @ w.T)
    assert (x @ v) @ w.T == pytest.approx(x @ axis_loadings(w, v))
    with pytest.raises(ValueError, match=r"w \(2, 4\) and loadings \(9, 3\)"):
        axis_loadings(w, v[:, :3])


def test_ranks():
    scores = np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 5.0]])
    table = rank_features(scores, ["A", "B", "C"], ["x", "y"])
    assert table["feature"].tolist() == ["B", "C", "A", "C", "A", "B"]
    assert table["score"].tolist() == [-3, 2, 1, 5, 0, 0]
    assert table["rank"].tolist() == [1, 2, 3] * 2
    assert table["item"].tolist() == ["x"] * 3 + ["y"] * 3
    assert rank_features(scores, ["A", "B", "C"], by="up", n=1)["feature"].tolist() == ["C", "C"]
    assert rank_features(scores, ["A", "B", "C"], by="down", n=1)["feature"].tolist() == ["B", "A"]
    for bad, words in (({"by": "size"}, "by='size'"), ({"names": ["x"]}, "names has 1 entries for 2")):
        with pytest.raises(ValueError, match=words):
            rank_features(scores, ["A", "B", "C"], **bad)
    with pytest.raises(ValueError, match="do not fit 2 features"):
        rank_features(scores, ["A", "B"])


@given(st.integers(2, 6), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_shifts_are_differences_of_means(m, seed):
    rng = np.random.default_rng(seed)
    means, mass = rng.normal(size=(m, 3)), rng.uniform(0.1, 1, m)
    shift = component_shifts(means, mass)
    for k in range(m):
        rest = np.delete(np.arange(m), k)
        assert shift[k] == pytest.approx(means[k] - np.average(means[rest], axis=0, weights=mass[rest]), abs=1e-9)


def test_shifts_of_one_component():
    assert component_shifts([[5.0, 1.0]], [1.0]).tolist() == [[0, 0]]
    assert component_shifts([[5.0], [1.0]], [1.0, 0.0]).tolist() == [[0], [-4]]
    with pytest.raises(ValueError, match=r"mass \(2,\)"):
        component_shifts([[1.0]], [1.0, 1.0])
