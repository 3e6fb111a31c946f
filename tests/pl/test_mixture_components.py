"""Ellipses lie where the components are; bars are the scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from muport.pl import components, feature_ranking
from muport.pl.drawing._colors import palette


@pytest.mark.parametrize("dims", [(0, 1), (2, 0)])
def test_an_ellipse_is_the_level_set_of_its_gaussian(dims):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 3, 3))
    means, covariances = rng.normal(size=(4, 3)), root @ root.swapaxes(1, 2)
    ax = components(None, means, covariances, dims=dims, n_std=1.5)
    pick = list(dims)
    for ellipse, mean, cov in zip(ax.patches, means[:, pick], covariances[:, pick][:, :, pick], strict=True):
        edge = ellipse.get_patch_transform().transform([[1, 0], [0, 1], [-0.6, 0.8]]) - mean
        assert np.einsum("ni,ij,nj->n", edge, np.linalg.inv(cov), edge) == pytest.approx(1.5**2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"axis {dims[0] + 1}", f"axis {dims[1] + 1}")
    assert ax.get_aspect() == 1


def test_colours_are_shared_and_empty_components_left_out():
    x = np.random.default_rng(0).normal(size=(30, 2))
    kinds = np.repeat(["B", "T", None], 10)
    ax = components(x, np.eye(3)[:, :2], np.ones((3, 2)), weights=[0.7, 0, 0.3], color=["T", "B", "B"], labels=kinds)
    assert [t.get_text() for t in ax.get_legend().texts] == ["B", "T"]
    b, t = palette(2)
    assert [patch.get_edgecolor()[:3] for patch in ax.patches] == [t, b]
    assert ax.patches[0].get_linewidth() > ax.patches[1].get_linewidth()
    assert [patch.width for patch in ax.patches] == [4, 4]
    dots = ax.collections[0]
    colors = {tuple(xy): c[:3] for xy, c in zip(dots.get_offsets().tolist(), dots.get_facecolors(), strict=True)}
    assert colors[tuple(x[0])] == pytest.approx(b)
    assert colors[tuple(x[15])] == pytest.approx(t)
    assert len({tuple(c) for c in colors.values()}) == 3


def test_features_are_bars_from_the_top():
    table = pd.DataFrame({"item": ["a"] * 3 + ["b"] * 2, "feature": list("XYZXY"), "score": [3.0, -2.0, 1.0, 5.0, 4.0]})
    ax = feature_ranking(table, n=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["X", "Y"]
    assert [bar.get_width() for bar in ax.patches] == [3, -2]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    assert ax.yaxis_inverted()
    assert ax.get_title() == "a"
    _, axes = plt.subplots()
    assert feature_ranking(table, "b", axes, title="second") is axes
    assert [bar.get_width() for bar in axes.patches] == [5, 4]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"means \(1, 2\) and covariances \(1, 3\)"):
        components(None, np.zeros((1, 2)), np.zeros((1, 3)))
    for dims in ((0, 0), (0, 2)):
        with pytest.raises(ValueError, match="two different ones of the 2 axes"):
            components(None, np.zeros((1, 2)), np.ones((1, 2)), dims=dims)
    with pytest.raises(ValueError, match="color has 2 entries for 1 components"):
        components(None, np.zeros((1, 2)), np.ones((1, 2)), color=["a", "b"])
    with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
        components(None, np.zeros((1, 2)), np.ones((1, 2)), weights=[1, 1])
    with pytest.raises(ValueError, match=r"x has shape \(5, 1\)"):
        components(np.zeros((5, 1)), np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="both need the same axes"):
        components(np.zeros((5, 3)), np.zeros((1, 4)), np.ones((1, 4)))
    table = pd.DataFrame({"item": ["a"], "feature": ["X"], "score": [1.0]})
    with pytest.raises(KeyError, match="item='c' is not in the table"):
        feature_ranking(table, "c")
    with pytest.raises(KeyError, match="no column 'score'"):
        feature_ranking(table[["item", "feature"]])
    with pytest.raises(ValueError, match="nothing can be drawn"):
        feature_ranking(table.iloc[:0])


def test_a_distant_component_does_not_crush_the_others():
    means = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1000.0, 1000.0]])
    shapes = np.tile(0.01 * np.eye(2), (4, 1, 1))
    weights = [0.33, 0.33, 0.33, 0.01]
    ax = components(None, means, shapes, weights=weights)
    assert max(*np.abs(ax.get_xlim()), *np.abs(ax.get_ylim())) < 3
    assert [text.get_text() for text in ax.texts] == ["1 component outside"]
    ax = components(None, means, shapes, weights=weights, outside=0)
    assert ax.get_xlim()[1] > 1000
    assert not ax.texts
    with pytest.raises(ValueError, match="outside=2 must be a number from 0 to 0.5"):
        components(None, means, shapes, outside=2)
