"""Which cells are drawn where and in which colour."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from muport.pl import embedding
from muport.pl.drawing._colors import MISSING, palette


def drawn(ax):
    """Point -> colour of everything on the axes."""
    ax.figure.canvas.draw()
    points = {}
    for dots in ax.collections:
        colors = np.broadcast_to(dots.get_facecolors(), (len(dots.get_offsets()), 4))
        points |= {tuple(xy): tuple(color[:3]) for xy, color in zip(dots.get_offsets().tolist(), colors, strict=True)}
    return points


def legend_of(ax):
    entries = ax.get_legend()
    return {
        t.get_text(): mpl.colors.to_rgb(h.get_color())
        for t, h in zip(entries.texts, entries.legend_handles, strict=True)
    }


@pytest.fixture
def placed(mdata):
    """The small MuData with one point per cell, its number twice."""
    mdata.obsm["X_umap"] = np.repeat(np.arange(mdata.n_obs, dtype=float)[:, None], 2, axis=1)
    for name in ("rna", "atac"):
        rows = mdata.obs_names.get_indexer(mdata[name].obs_names)
        mdata[name].obsm["X_umap"] = np.asarray(mdata.obsm["X_umap"])[rows] + 0.0
    return mdata


def test_every_cell_has_its_category_and_colour(adata):
    adata.obsm["X_umap"] = np.repeat(np.arange(40.0)[:, None], 2, axis=1)
    ax = embedding(adata, "X_umap", "batch")
    legend, points = legend_of(ax), drawn(ax)
    assert list(legend) == ["b0", "b1"]
    for i, batch in enumerate(adata.obs["batch"]):
        assert points[i, i] == pytest.approx(legend[batch], abs=1e-6)
    assert (ax.get_title(), ax.get_xlabel()) == ("batch", "UMAP1")


def test_a_modality_column_is_matched_by_name(placed):
    """Cells that the column says nothing about are grey, whatever the order of the modality."""
    placed.mod["rna"] = placed["rna"][::-1].copy()
    ax = embedding(placed, "X_umap", "rna:cell_type")
    legend, points = legend_of(ax), drawn(ax)
    type_of = placed["rna"].obs["cell_type"].to_dict()
    for i, cell in enumerate(placed.obs_names):
        expected = legend[type_of[cell]] if cell in type_of else mpl.colors.to_rgb(MISSING)
        assert points[i, i] == pytest.approx(expected, abs=1e-6)
    assert list(legend) == ["t0", "t1", "t2", "no value"]


def test_a_modality_basis_has_the_modalitys_cells(placed):
    ax = embedding(placed, "atac:X_umap", "batch")
    assert sorted(drawn(ax)) == sorted(map(tuple, np.asarray(placed["atac"].obsm["X_umap"]).tolist()))
    assert set(legend_of(ax)) == {"b1", "b2"}


def test_a_plain_name_is_gathered_from_the_modalities(placed):
    assert "batch" not in placed.obs
    assert set(legend_of(embedding(placed, "X_umap", "batch"))) == {"b0", "b1", "b2"}


def test_the_objects_own_column_comes_first(placed):
    placed.obs["cell_type"] = "mine"
    assert set(legend_of(embedding(placed, "X_umap", "cell_type"))) == {"mine"}


def test_a_column_with_a_prefix_is_that_of_the_modality(placed):
    """Not its copy in ``mdata.obs``, which an update wrote earlier."""
    before = set(legend_of(embedding(placed, "X_umap", "rna:cell_type")))
    placed.obs["rna:cell_type"] = "out of date"
    assert set(legend_of(embedding(placed, "X_umap", "rna:cell_type"))) == before


def test_modalities_that_disagree_are_refused(placed):
    for name, value in (("rna", "a"), ("atac", "b")):
        placed[name].obs["kind"] = value
    shared = placed["rna"].obs_names.intersection(placed["atac"].obs_names)
    assert len(shared)
    with pytest.raises(ValueError, match=f"color='kind': the modalities disagree on {len(shared)} cells.*'rna:kind'"):
        embedding(placed, "X_umap", "kind")
    placed["atac"].obs["kind"] = None
    assert set(legend_of(embedding(placed, "X_umap", "kind"))) == {"a", "no value"}


def test_numbers_get_a_scale_and_booleans_do_not(adata):
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(40, 2))
    adata.obs["depth"] = np.where(np.arange(40) < 3, np.nan, np.arange(40.0))
    ax = embedding(adata, "X_umap", "depth")
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    assert [len(dots.get_offsets()) for dots in ax.collections] == [3, 37]
    adata.obs["first"] = adata.obs["depth"] > 20
    assert list(legend_of(embedding(adata, "X_umap", "first"))) == ["False", "True"]


def test_given_axes_are_used_and_nothing_is_shown(adata, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("plt.show was called"))
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(40, 2))
    _, axes = plt.subplots()
    assert embedding(adata, "X_umap", "batch", axes, title="", legend_loc=None) is axes
    assert axes.get_legend() is None
    assert axes.get_title() == ""
    assert len(drawn(embedding(adata, "X_umap"))) == 40


def test_missing_keys_name_what_is_there(placed):
    with pytest.raises(KeyError, match=r"basis='X_tsne' is not in obsm; there are \['X_umap', 'atac:X_own'"):
        embedding(placed, "X_tsne")
    with pytest.raises(KeyError, match=r"basis='rna:X_tsne'"):
        embedding(placed, "rna:X_tsne")
    with pytest.raises(KeyError, match=r"color='type' is not in obs; .*'rna:cell_type'"):
        embedding(placed, "X_umap", "type")
    with pytest.raises(KeyError, match=r"color='atac:cell_type'"):
        embedding(placed, "X_umap", "atac:cell_type")
    placed.obsm["X_line"] = np.zeros((placed.n_obs, 1))
    with pytest.raises(ValueError, match=r"X_line.*two columns"):
        embedding(placed, "X_line")


def test_unused_categories_are_not_explained(adata):
    adata.obsm["X_umap"] = np.zeros((40, 2))
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"], categories=["b0", "b1", "gone"])
    assert list(legend_of(embedding(adata, "X_umap", "batch"))) == ["b0", "b1"]


def test_colours_differ_and_are_not_the_missing_one():
    colors = [*palette(20), mpl.colors.to_rgb(MISSING)]
    gaps = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(gaps) > 0.1
    assert len(set(palette(40))) == 40
    assert len(palette(90)) == 90
