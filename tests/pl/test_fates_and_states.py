"""Fates and macrostates are drawn for the cells they are of, with their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import muport
from muport.velocity import MetaStates


@pytest.fixture
def line() -> AnnData:
    """200 cells on a line in the representation, and on twice that line in the picture."""
    x = np.linspace(0, 1, 200)
    obs = pd.DataFrame({"pseudotime": x, "clusters": np.where(x < 0.5, "early", "late")})
    obs.index = obs.index.astype(str)
    flat = np.zeros(200)
    obsm = {"X_pca": np.stack([x, flat, flat], axis=1), "X_umap": np.stack([2 * x, flat], axis=1)}
    return AnnData(np.zeros((200, 1)), obs=obs, obsm=obsm)


def test_fate_summary_is_the_mean_of_groups(line):
    fates = pd.DataFrame({"A": np.linspace(0, 1, 200)}, index=line.obs_names).assign(B=lambda f: 1 - f["A"])
    ax = muport.pl.fate_summary(fates, line, "clusters")
    widths = [bar.get_width() for bar in ax.patches]
    assert np.allclose(widths, [0.249, 0.751, 0.751, 0.249], atol=1e-2)
    with pytest.raises(ValueError, match="groupby='clusters' needs data"):
        muport.pl.fate_summary(fates, groupby="clusters")
    with pytest.raises(KeyError, match="nothing"):
        muport.pl.fate_summary(fates, line, "nothing")
    with pytest.raises(ValueError, match="column 'A' is not numbers from 0 to 1, for example .*nan.* for cell '3'"):
        muport.pl.fate_summary(fates.replace(fates.loc["3", "A"], np.nan))


def test_coarse_graph_places_states_at_their_cells(line):
    member = np.stack([1 - line.obs["pseudotime"], line.obs["pseudotime"]], axis=1)
    flux = np.array([[0, 0.1], [-0.1, 0]])
    states = MetaStates(
        member, np.eye(2), np.ones(2) / 2, np.ones(2) / 2, flux, ("initial", "terminal"), np.ones(2), 2.0
    )
    ax = muport.pl.coarse_graph(states, line)
    placed = ax.collections[-1].get_offsets()
    assert np.allclose(placed[:, 0], [2 / 3, 4 / 3], atol=0.01)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["initial", "terminal"]
    assert muport.pl.coarse_graph(states).get_aspect() == 1
    with pytest.raises(ValueError, match="200 cells"):
        muport.pl.coarse_graph(states, line[:50].copy())


@pytest.mark.promise("Rows in another order give the same answer")
def test_macrostates_and_fates_are_matched_by_name(line, record_property):
    record_property("tries", 4)
    x = line.obsm["X_pca"]
    states = muport.velocity.meta_states(muport.velocity.cell_kernel(x, np.ones((200, 3)) * [1, 0, 0]), x, 3)
    named = replace(states, names=line.obs_names.to_numpy())
    expected = muport.pl.coarse_graph(named, line).collections[-1].get_offsets()
    moved = line[np.random.default_rng(0).permutation(200)].copy()
    assert np.allclose(muport.pl.coarse_graph(named, moved).collections[-1].get_offsets(), expected)
    with pytest.raises(ValueError, match="none of them for 50 of 200 cells"):
        muport.pl.coarse_graph(named, line[50:].copy())
    fates = pd.DataFrame({"A": x[:, 0], "B": 1 - x[:, 0]}, index=line.obs_names)
    bars = [[bar.get_width() for bar in muport.pl.fate_summary(f, line, "clusters").patches]
            for f in (fates, fates.sample(frac=1, random_state=0))]  # fmt: skip
    assert np.allclose(*bars)
    with pytest.raises(ValueError, match="200 cells are not in data, for example 'x0'"):
        muport.pl.fate_summary(fates.rename(index=lambda name: f"x{name}"), line, "clusters")
    line.obs["clusters"] = line.obs["clusters"].where(line.obs["pseudotime"] > 0.1)
    labels = [label.get_text() for label in muport.pl.fate_summary(fates, line, "clusters").get_yticklabels()]
    assert labels == ["early", "late", "no value"]


def test_macrostates_have_names(line):
    member = np.stack([1 - line.obs["pseudotime"], line.obs["pseudotime"]], axis=1)
    flux = np.array([[0, 0.1], [-0.1, 0]])
    half = np.ones(2) / 2
    states = MetaStates(member, np.eye(2), half, half, flux, ("initial", "terminal"), np.ones(2), 2.0)
    texts = [t.get_text() for t in muport.pl.coarse_graph(states, line, groupby="clusters").texts if t.get_text()]
    assert texts == ["early", "late"]
    line.obs["one"] = "same"
    texts = [t.get_text() for t in muport.pl.coarse_graph(states, line, groupby="one").texts if t.get_text()]
    assert texts == ["same 1", "same 2"]
    with pytest.raises(ValueError, match="groupby='clusters' needs data"):
        muport.pl.coarse_graph(states, groupby="clusters")
    with pytest.raises(KeyError, match="groupby='no' is not in obs"):
        muport.pl.coarse_graph(states, line, groupby="no")
    assert repr(states).splitlines()[1] == "  0: initial, 50% of the cells, to 1 (0.1)"


def test_fates_have_the_colors_of_their_groups(line):
    line.obs["clusters"] = pd.Categorical(line.obs["clusters"])
    line.uns["clusters_colors"] = ["#ff0000", "#0000ff"]
    fates = pd.DataFrame({"late": np.ones(200), "early": np.zeros(200)}, index=line.obs_names)
    ax = muport.pl.fate_summary(fates, line, "clusters", title="fates")
    assert ax.patches[0].get_facecolor()[:3] == (0.0, 0.0, 1.0)
    assert ax.get_title() == "fates"
    with pytest.raises(TypeError, match="data is Series"):
        muport.pl.fate_summary(fates, line.obs["clusters"])
