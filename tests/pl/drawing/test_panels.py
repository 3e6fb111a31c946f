"""Several colors, genes, limits and titles; options that have no meaning are refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from mudata import MuData

import muport
from muport.pl import embedding


@pytest.fixture
def cells() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"type": pd.Categorical(["a", "b"] * 30, categories=["b", "a", "unused"])})
    obs.index = [f"c{i}" for i in range(60)]
    var = pd.DataFrame(index=["CD3E", "LYZ"])
    data = AnnData(rng.poisson(2, (60, 2)).astype(np.float32), obs=obs, var=var)
    data.layers["log"] = np.log1p(data.X)
    data.obsm["X_umap"] = rng.normal(size=(60, 2))
    data.obsm["velocity_umap"] = np.ones((60, 2))
    return data


def test_one_panel_for_each_color(cells):
    panels = embedding(cells, "umap", ["type", "CD3E", "LYZ"], ncols=2)
    assert [ax.get_title() for ax in panels] == ["type", "CD3E", "LYZ"]
    assert panels[0].get_xlabel() == "UMAP1"
    drawn = panels[1].collections[-1]
    assert sorted(drawn.get_array().tolist()) == sorted(np.asarray(cells.X)[:, 0].tolist())
    assert embedding(cells, "umap", ["type"]).get_title() == "type"
    titled = embedding(cells, "umap", ["type", "LYZ"], title=["A", "B"])
    assert [ax.get_title() for ax in titled] == ["A", "B"]


def test_layers_limits_and_order(cells):
    dots = embedding(cells, "umap", "LYZ", layer="log", vmax="p90", vmin=0.5, cmap="magma").collections[-1]
    values = np.asarray(cells.layers["log"])[:, 1]
    assert dots.get_clim() == pytest.approx((0.5, np.percentile(values, 90)))
    assert dots.get_cmap().name == "magma"
    assert (np.diff(dots.get_array()) >= 0).all()


def test_genes_of_modalities(cells):
    protein = AnnData(np.ones((20, 2), np.float32), obs=cells.obs[:20], var=pd.DataFrame(index=["LYZ", "CD45"]))
    mdata = MuData({"rna": cells, "adt": protein})
    mdata.obsm["X_umap"] = np.asarray(cells.obsm["X_umap"])
    ax = embedding(mdata, "umap", "CD45")
    assert [len(dots.get_offsets()) for dots in ax.collections] == [40, 20]
    with pytest.raises(ValueError, match=r"color='LYZ' is in var_names of rna, adt: pass 'rna:LYZ' or modality='rna'"):
        embedding(mdata, "umap", "LYZ")
    for given in (embedding(mdata, "umap", "adt:LYZ"), embedding(mdata, "umap", "LYZ", modality="adt")):
        assert set(given.collections[-1].get_array()) == {1.0}
    assert embedding(mdata, "umap", "CD3E", modality="rna", layer="log").get_title() == "CD3E"
    with pytest.raises(KeyError, match=r"modality='atac' is not in the data; there are \['adt', 'rna'\]"):
        embedding(mdata, "umap", "LYZ", modality="atac")


def test_names_on_the_cells(cells):
    ax = embedding(cells, "umap", "type", legend_loc="on data")
    assert {text.get_text() for text in ax.texts} == {"a", "b"}
    assert ax.get_legend() is None


def test_a_legend_widens_the_figure(cells):
    cells.obs["many"] = pd.Categorical([f"a long name of type {i}" for i in range(60)])
    plain = embedding(cells, "umap", "type").figure
    figure = embedding(cells, "umap", "many", return_fig=True)
    figure.draw_without_rendering()
    box = figure.axes[0].get_legend().get_window_extent()
    assert box.x1 <= figure.bbox.x1 + 1
    assert figure.get_size_inches()[0] > plain.get_size_inches()[0] + 4


def test_overlays_are_in_every_panel(cells):
    panels = muport.pl.velocity_quiver(cells, "umap", color=["type", "LYZ"])
    assert all(any(hasattr(c, "U") for c in ax.collections) for ax in panels)
    panels = muport.pl.velocity_stream(cells, "umap", color=["type", "LYZ"], legend_loc=None, title=["a", "b"])
    assert [ax.get_title() for ax in panels] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"color": "CD3F"}, KeyError, "color='CD3F' is not in obs.*did you mean 'CD3E'"),
        ({"color": "lyz"}, KeyError, "did you mean 'LYZ'"),
        ({"color": 3}, TypeError, "color=3 must be|not iterable"),
        ({"color": []}, ValueError, "color=\\[\\] names nothing"),
        ({"color": "LYZ", "layer": "counts"}, KeyError, r"layer='counts' is not in layers; there are \['log'\]"),
        ({"color": "LYZ", "modality": "rna"}, KeyError, "modality='rna'.*AnnData.*leave it out"),
        ({"cmap": "virridis"}, ValueError, "cmap='virridis' is not a colormap"),
        ({"vmax": "99%"}, ValueError, "vmax='99%' must be a number, or a percentile such as 'p99'"),
        ({"legend_loc": "left"}, ValueError, "legend_loc='left' is unknown: use one of 'right margin'"),
        ({"color": ["type", "LYZ"], "title": ["one"]}, ValueError, "title has 1 entries for 2 panels"),
        ({"size": -1}, ValueError, "size=-1"),
        ({"ncols": 0}, ValueError, "ncols=0"),
        ({"color": "type", "palette": ["red"]}, ValueError, "palette has 1 colors for the 3 categories"),
        ({"color": "type", "palette": {"a": "red"}}, ValueError, "palette has no color for 'b'"),
        ({"color": "type", "palette": "tabb"}, ValueError, "palette='tabb' must be a list"),
        ({"color": "type", "palette": ["redd"] * 3}, ValueError, "palette: 'redd' is not a color"),
    ],
)
def test_bad_options_are_named(cells, options, error, message):
    with pytest.raises(error, match=message):
        embedding(cells, "umap", **options)
    assert not plt.get_fignums()
    assert "type_colors" not in cells.uns


def test_several_colors_need_several_axes(cells):
    with pytest.raises(ValueError, match="ax is one panel, but color has 2 entries"):
        embedding(cells, "umap", ["type", "LYZ"], plt.subplots()[1])
    with pytest.raises(TypeError, match="colour='type' is not an option of this plot"):
        muport.pl.velocity_stream(cells, "umap", colour="type")
