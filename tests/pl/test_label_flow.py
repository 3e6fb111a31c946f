"""Bands are as high as their numbers of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import PathPatch, Rectangle

from muport.pl import sankey


def test_bars_and_bands_have_the_sizes_of_their_cells():
    true = ["a"] * 60 + ["b"] * 40
    predicted = ["a"] * 50 + ["b"] * 10 + ["b"] * 40
    ax = sankey(true, predicted, palette={"a": "red", "b": "blue"})
    bands = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    heights = [band.get_path().vertices[0, 1] - band.get_path().vertices[7, 1] for band in bands]
    assert np.allclose(np.array(heights) / sum(heights), [0.5, 0.1, 0.4])
    bars = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert np.allclose(np.array(bars) / sum(bars[:2]), [0.6, 0.4, 0.5, 0.5])
    assert bands[1].get_facecolor()[:3] == (1, 0, 0)
    assert {"a (60)", "b (40)", "a (50)", "b (50)"} <= {text.get_text() for text in ax.texts}


def test_thin_bands_may_be_left_out():
    ax = sankey(["a"] * 100, ["a"] * 99 + ["b"], least=0.02)
    assert sum(isinstance(patch, PathPatch) for patch in ax.patches) == 1


def test_cells_are_matched_by_name_and_missing_labels_are_shown():
    true = pd.Series(["a", "b", None], index=["x", "y", "z"])
    ax = sankey(true, true[::-1])
    assert sum(isinstance(patch, PathPatch) for patch in ax.patches) == 3
    assert "no value (1)" in {text.get_text() for text in ax.texts}


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match="source has 2 labels and target 1"):
        sankey(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="source has 0 labels"):
        sankey([], [])
    with pytest.raises(ValueError, match="least=2"):
        sankey(["a"], ["a"], least=2)
    with pytest.raises(ValueError, match="palette has no color for 'a'"):
        sankey(["a"], ["a"], palette={"b": "red"})


def test_labels_that_are_not_known_are_gray():
    ax = sankey(["a", "b", "b"], ["a", "unknown", None])
    shades = {patch.get_facecolor()[:3] for patch in ax.patches if isinstance(patch, Rectangle)}
    assert (0.6, 0.6, 0.6) in shades
    assert len(shades) == 3  # a, b, and one gray for both


def test_one_label_may_be_written_in_two_ways():
    ax = sankey([1.0, 2.0, None], ["1", "2", "2"])
    assert {text.get_text() for text in ax.texts} >= {"1 (1)", "2 (1)", "2 (2)", "no value (1)"}


def test_transitions_of_a_table_are_drawn():
    table = pd.DataFrame({
        "source": ["a", "a", "b", "b"], "target": ["a", "b", "a", "b"], "n_source": [10, 10, 6, 6],
        "fraction": [0.6, 0.4, 0.0, 1.0],
    })  # fmt: skip
    texts = [text.get_text() for text in sankey(table).texts]
    assert set(texts) == {"a (10)", "b (6)", "a (6)", "b (10)", "earlier type", "later type"}
    rare = pd.DataFrame({"source": ["a"], "target": ["c"], "n_source": [10], "fraction": [0.01]})
    assert "c (0)" not in {text.get_text() for text in sankey(pd.concat([table, rare])).texts}
    with pytest.raises(ValueError, match="no transition of half a cell"):
        sankey(rare)
    with pytest.raises(KeyError, match="no column 'fraction'"):
        sankey(table.drop(columns="fraction"))
    with pytest.raises(TypeError, match="target is missing"):
        sankey(["a", "b"])


def test_names_of_thin_bars_do_not_overlap():
    ax = sankey(["a"] * 500 + ["b", "c", "d"], ["a"] * 500 + ["b", "c", "d"])
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_ha() == "right" and "(" in text.get_text()]
    assert all(above.y0 > below.y1 - 1 for above, below in zip(boxes[:-1], boxes[1:], strict=True))
