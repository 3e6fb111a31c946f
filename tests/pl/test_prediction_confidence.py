"""The histogram counts the cells, split by whether their prediction is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from muport.pl import prediction_confidence


@pytest.fixture
def cells() -> AnnData:
    confidence = np.linspace(0, 1, 50)
    confidence[:10] = np.nan
    obs = pd.DataFrame({"prediction_confidence": confidence, "prediction": "a"}, index=[f"c{i}" for i in range(50)])
    obs["truth"] = np.where(np.arange(50) < 20, "b", "a")
    obs.loc["c49", "truth"] = None
    return AnnData(np.zeros((50, 1)), obs=obs, obsm={"X_umap": np.random.default_rng(0).normal(size=(50, 2))})


def test_bars_count_the_cells(cells):
    histogram, embedding = prediction_confidence(cells, "umap", threshold=0.6)
    assert sum(bar.get_height() for bar in histogram.patches) == 40
    assert histogram.texts[0].get_text().strip() == "50% below 0.6"
    assert embedding.collections[-1].get_clim() == (0, 1)
    assert [len(dots.get_offsets()) for dots in embedding.collections] == [10, 40]


def test_right_and_wrong_are_counted_apart(cells):
    histogram, _ = prediction_confidence(cells, "umap", truth="truth", n_bins=10)
    counts = [sum(bar.get_height() for bar in bars) for bars in histogram.containers]
    assert counts == [29, 10, 1]
    assert [text.get_text() for text in histogram.get_legend().texts] == ["right", "wrong", "true type unknown"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "score"}, KeyError, "key='score' is not in obs"),
        ({"key": "prediction"}, ValueError, "key='prediction' must be numbers"),
        ({"threshold": 60}, ValueError, "threshold=60 must be a number from 0 to 1"),
        ({"truth": "type"}, KeyError, "truth='type' is not in obs"),
        ({"basis": "tsne"}, KeyError, "basis='tsne' is not in obsm"),
        ({"n_bins": 0}, ValueError, "n_bins=0"),
        ({"colour": "x"}, TypeError, "colour='x' is not an option"),
    ],
)
def test_bad_arguments_are_named(cells, options, error, message):
    with pytest.raises(error, match=message):
        prediction_confidence(cells, **options)
    assert not plt.get_fignums()


def test_one_type_may_be_written_in_two_ways(cells):
    """A column of numbers with a missing value is one of floats: 1.0 is the type "1" of the prediction."""
    cells.obs["prediction"], cells.obs["truth"] = "1", np.where(np.arange(50) < 49, 1.0, np.nan)
    histogram, _ = prediction_confidence(cells, "umap", truth="truth", n_bins=10)
    assert [sum(bar.get_height() for bar in bars) for bars in histogram.containers] == [39, 0, 1]
