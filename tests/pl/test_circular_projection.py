"""Cells are at the mean position of their fates, and fates that cells share are next to each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport.pl import circular_projection


@pytest.fixture
def cells() -> AnnData:
    obs = pd.DataFrame({"type": pd.Categorical(list("abcd") * 10)}, index=[f"c{i}" for i in range(40)])
    return AnnData(np.zeros((40, 1)), obs=obs, uns={"type_colors": ["#ff0000", "#00ff00", "#0000ff", "#000000"]})


@pytest.fixture
def fates(cells) -> pd.DataFrame:
    """Certain cells of four fates, and two cells between a and c."""
    p = np.tile(np.eye(4), (10, 1))
    p[:2] = [0.5, 0, 0.5, 0]
    return pd.DataFrame(p, index=cells.obs_names, columns=list("abcd")).sample(frac=1, random_state=0)


def test_cells_are_at_the_mean_of_their_fates(cells, fates):
    ax = circular_projection(fates, cells)
    vertices = {text.get_text(): np.array(text.get_position()) / 1.08 for text in ax.texts}
    assert np.allclose([np.hypot(*v) for v in vertices.values()], 1)
    drawn = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 40])
    expected = fates.to_numpy() @ np.array([vertices[name] for name in fates.columns])
    assert np.allclose(np.sort(drawn, axis=0), np.sort(expected, axis=0))
    assert np.hypot(*(vertices["a"] - vertices["c"])) == pytest.approx(np.sqrt(2))  # not opposite


def test_fates_have_the_colors_of_their_categories(cells, fates):
    ax = circular_projection(fates, cells)
    marker = {text.get_text(): text.get_position() for text in ax.texts}
    shades = {tuple(np.round(c.get_offsets()[0], 3)): c.get_facecolor()[0][:3] for c in ax.collections[-4:]}
    assert tuple(shades[tuple(np.round(np.array(marker["b"]) / 1.08, 3))]) == (0, 1, 0)
    panels = circular_projection(fates, cells, ["type", "type"], legend_loc=None)
    assert [panel.get_title() for panel in panels] == ["type", "type"]


def test_cells_without_a_fate_are_left_out(cells, fates):
    fates.iloc[:5] = 0.0
    ax = circular_projection(fates, cells)
    assert max(len(c.get_offsets()) for c in ax.collections) == 35


def test_bad_fates_are_named(cells, fates):
    with pytest.raises(TypeError, match="fates is list"):
        circular_projection([1], cells)
    with pytest.raises(TypeError, match="data is DataFrame"):
        circular_projection(fates, fates)
    with pytest.raises(ValueError, match="fates has 2 columns, and a circle needs 3"):
        circular_projection(fates[["a", "b"]], cells)
    for value in (np.nan, np.inf, -1.0, 2.0):
        with pytest.raises(ValueError, match="fates: column 'a' is not numbers from 0 to 1"):
            circular_projection(fates.assign(a=value), cells)
    with pytest.raises(ValueError, match="sum to 2 for cell"):
        circular_projection(fates * 0.5 + 0.375, cells)
    with pytest.raises(ValueError, match="column 'a' is not numbers"):
        circular_projection(fates + 0j, cells)
    with pytest.raises(ValueError, match="several columns 'a'"):
        circular_projection(fates.set_axis(list("aacd"), axis=1), cells)
    with pytest.raises(ValueError, match="several rows for cell 'c0'"):
        circular_projection(fates.set_axis(["c0"] * 40, axis=0), cells)
    with pytest.raises(ValueError, match="1 cells are not in data"):
        circular_projection(fates, cells[1:].copy())
    with pytest.raises(ValueError, match="no cell reaches a fate"):
        circular_projection(fates * 0, cells)
