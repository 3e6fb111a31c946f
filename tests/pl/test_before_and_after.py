"""Cells before and after stand side by side, below the three metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from muport.pl import before_and_after

METRICS = {"move": 0.311, "neighbors_kept": 0.92, "batch_variance_left": 0.04, "other": 1.0}


@pytest.fixture
def cells() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": ["x", "y"] * 20, "type": ["a"] * 40}, index=[f"c{i}" for i in range(40)])
    return AnnData(np.zeros((40, 1)), obs=obs, obsm={"X_pca": rng.normal(size=(40, 2)), "X_new": np.ones((40, 2))})


def test_one_row_for_each_color(cells):
    axes = before_and_after(cells, "pca", "new", ["batch", "type"], METRICS, title="Example")
    assert [ax.get_xlabel() for ax in axes] == ["PC1", "new1", "PC1", "new1"]
    assert [ax.get_legend() is None for ax in axes] == [True, False, True, False]
    assert axes[1].get_legend().get_title().get_text() == "batch"
    text = axes[0].figure.get_suptitle()
    assert text == "Example\ncells moved by 0.31 · 92% of neighbors kept · variance due to batches: 4%"
    assert np.ptp(np.concatenate([dots.get_offsets() for dots in axes[1].collections])) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": {"move": 1.0}}, KeyError, "metrics has no 'neighbors_kept'.*pass model.metrics_"),
        ({"after": "umap"}, KeyError, "basis='umap' is not in obsm"),
        ({"color": "sample"}, KeyError, "color='sample' is not in obs"),
        ({"color": []}, ValueError, "names nothing"),
    ],
)
def test_bad_arguments_are_named(cells, options, error, message):
    with pytest.raises(error, match=message):
        before_and_after(cells, **{"before": "pca", "after": "new", "color": "batch", **options})
    assert not plt.get_fignums()
