"""Where patients are drawn, in which colour and order."""

from __future__ import annotations

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from muport.pl import distance_map, patient_embedding
from muport.pl.drawing._colors import MISSING, palette

NAMES = [f"P{i}" for i in range(6)]
CONDITION = pd.Series(["case", "case", "control", "case", "control", "control"], index=NAMES)


@pytest.fixture
def xy():
    places = np.random.default_rng(0).normal(size=(6, 3))
    places[CONDITION == "case"] += 5
    return pd.DataFrame(places, index=NAMES)


@pytest.fixture
def distances(xy):
    x = xy.to_numpy()
    return pd.DataFrame(np.linalg.norm(x[:, None] - x[None], axis=-1), index=NAMES, columns=NAMES)


def test_patients_lie_where_they_are_and_have_their_colour(xy):
    ax = patient_embedding(xy, CONDITION[::-1], names=True, title="patients")
    dots = ax.collections[0]
    assert np.asarray(dots.get_offsets()) == pytest.approx(xy.to_numpy()[:, :2])
    case, control = palette(2)
    for color, name in zip(dots.get_facecolors(), NAMES, strict=True):
        assert color[:3] == pytest.approx(case if CONDITION[name] == "case" else control)
    assert [t.get_text() for t in ax.get_legend().texts] == ["case", "control"]
    assert [t.get_text() for t in ax.texts] == NAMES


def test_conditions_that_no_patient_has_need_no_color(xy, distances):
    condition = pd.Series(
        pd.Categorical([CONDITION[name] for name in NAMES], categories=["case", "control", "x"]), NAMES
    )
    for ax in (
        patient_embedding(xy, condition, palette={"case": "red", "control": "blue"}),
        distance_map(distances, condition, palette={"case": "red", "control": "blue"}),
    ):
        assert [t.get_text() for t in ax.get_legend().texts] == ["case", "control"]


def test_patients_as_an_anndata_are_refused_with_the_fix():
    with pytest.raises(TypeError, match="embedding is AnnData: pass an array or a table"):
        patient_embedding(anndata.AnnData(np.zeros((3, 2))))


def test_title_and_scales(xy):
    ax = patient_embedding(xy, CONDITION, title="patients")
    assert ax.get_title() == "patients"
    assert ax.get_aspect() == 1


def test_a_patient_without_condition_is_grey(xy):
    ax = patient_embedding(xy.to_numpy(), ["a", "a", None, "b", "b", "b"])
    assert ax.collections[0].get_facecolors()[2, :3] == pytest.approx(mpl.colors.to_rgb(MISSING))
    assert [t.get_text() for t in ax.get_legend().texts] == ["a", "b", "no value"]
    assert patient_embedding(xy).get_legend() is None


def test_similar_patients_stand_together(distances):
    ax = distance_map(distances, CONDITION)
    order = [t.get_text() for t in ax.get_yticklabels()]
    assert sorted(order) == NAMES
    assert CONDITION[order].tolist() in (["case"] * 3 + ["control"] * 3, ["control"] * 3 + ["case"] * 3)
    drawn = np.asarray(ax.images[0].get_array())
    assert drawn == pytest.approx(distances.loc[order, order].to_numpy())
    strip, tree = ax.child_axes[:2]
    case, control = palette(2)
    colors = np.asarray(strip.images[0].get_array())[0]
    assert colors == pytest.approx(np.array([case if CONDITION[name] == "case" else control for name in order]))
    assert len(tree.lines) == 5
    assert max(line.get_ydata().max() for line in tree.lines) == pytest.approx(
        distances.loc[order[:3], order[3:]].to_numpy().mean()
    )


def test_given_axes_many_patients_and_no_condition():
    _, axes = plt.subplots()
    x = np.random.default_rng(0).normal(size=60)
    assert distance_map(np.abs(x[:, None] - x), ax=axes, title="many") is axes
    assert list(axes.get_yticklabels()) == []
    assert axes.get_xlabel() == "60 patients"
    assert axes.get_legend() is None
    axes.figure.canvas.draw()
    assert patient_embedding(np.zeros((2, 2)), ax=axes) is axes


def test_bad_input_is_named(xy, distances):
    with pytest.raises(ValueError, match="two columns"):
        patient_embedding(xy[[0]])
    with pytest.raises(ValueError, match="patient 'P2' has coordinates that are not finite"):
        patient_embedding(xy.mask(xy == xy.loc["P2"]))
    with pytest.raises(ValueError, match="5 entries for 6 patients"):
        patient_embedding(xy, list(CONDITION[:5]))
    with pytest.raises(KeyError, match="patient 'P0'"):
        patient_embedding(xy, CONDITION[1:])
    with pytest.raises(ValueError, match="distances: rows and columns have different names"):
        distance_map(distances.rename(columns=lambda name: f"x{name}"))
    with pytest.raises(ValueError, match="square matrix"):
        distance_map(distances.iloc[:, :5])
    with pytest.raises(ValueError, match="not symmetric"):
        distance_map(np.triu(distances))
    with pytest.raises(ValueError, match="not all finite"):
        distance_map(distances.where(distances < 3))


@pytest.mark.promise("Rows in another order give the same answer")
def test_columns_of_distances_are_matched_by_name(distances, record_property):
    record_property("tries", 1)
    expected = distance_map(distances).images[0].get_array()
    assert np.array_equal(distance_map(distances[distances.columns[::-1]]).images[0].get_array(), expected)
