"""Colors of categories are those of uns, and are written there as in scanpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

from muport.pl import embedding
from muport.pl.drawing._colors import palette


@pytest.fixture
def cells() -> AnnData:
    obs = pd.DataFrame({"type": pd.Categorical(["a", "b"] * 5, categories=["b", "a"]), "text": ["x", "y"] * 5})
    obs.index = [f"c{i}" for i in range(10)]
    return AnnData(np.zeros((10, 1)), obs=obs, obsm={"X_umap": np.random.default_rng(0).normal(size=(10, 2))})


def legend_of(ax):
    legend = ax.get_legend()
    return {t.get_text(): to_hex(h.get_color()) for t, h in zip(legend.texts, legend.legend_handles, strict=True)}


def test_stored_colors_are_used(cells):
    cells.uns["type_colors"] = np.array(["#112233", "#445566"])
    assert legend_of(embedding(cells, "umap", "type")) == {"b": "#112233", "a": "#445566"}
    assert legend_of(embedding(cells[cells.obs["type"] == "a"], "umap", "type")) == {"a": "#445566"}


def test_new_colors_are_stored(cells):
    drawn = legend_of(embedding(cells, "umap", ["type", "text"])[0])
    assert list(cells.uns["type_colors"]) == [drawn["b"], drawn["a"]]
    # scanpy would make a categorical column of it first, in an order of its own
    assert "text_colors" not in cells.uns
    embedding(cells, "umap", "type", palette={"a": "red", "b": "blue"})
    assert list(cells.uns["type_colors"]) == ["#0000ff", "#ff0000"]
    assert legend_of(embedding(cells, "umap", "type", palette="Set1"))["b"] == "#e41a1c"


def test_a_category_without_values_needs_no_color(cells):
    cells.obs["type"] = cells.obs["type"].cat.add_categories(["unused"])
    drawn = legend_of(embedding(cells, "umap", "type", palette={"a": "red", "b": "blue"}))
    assert drawn == {"b": "#0000ff", "a": "#ff0000"}
    with pytest.raises(ValueError, match="no color for 'a' of color='type'"):
        embedding(cells, "umap", "type", palette={"unused": "red", "b": "blue"})
    with pytest.raises(ValueError, match="2 colors for the 3 categories of color='type'.*1 of which have no values"):
        embedding(cells, "umap", "type", palette=["red", "blue"])


def test_too_few_stored_colors_are_replaced(cells):
    cells.uns["type_colors"] = ["red"]
    embedding(cells, "umap", "type")
    assert len(cells.uns["type_colors"]) == 2


def test_views_stay_views(cells):
    view = cells[:6]
    embedding(view, "umap", "type", palette=["red", "blue"])
    assert view.is_view
    assert "type_colors" not in cells.uns


def test_a_stored_color_that_is_none_is_named(cells):
    cells.uns["type_colors"] = ["red", "nocolor"]
    with pytest.raises(ValueError, match=r"uns\['type_colors'\]: 'nocolor' is not a color of matplotlib: correct it"):
        embedding(cells, "umap", "type")


def test_a_hundred_categories_differ():
    colors = palette(100)
    assert len(set(colors)) == 100
    assert colors[:20] == palette(20)
    gaps = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(gaps) > 0.05
