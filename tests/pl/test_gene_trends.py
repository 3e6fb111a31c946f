"""Curves of genes are weighted means along the time, and heatmaps are sorted by their highest expression."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from muport.pl import driver_heatmap, gene_trends


@pytest.fixture
def cells() -> AnnData:
    """Two branches of one time: the gene rises in a, falls in b; early and late are peaks."""
    t = np.linspace(0, 1, 400)
    branch = np.arange(400) % 2
    x = np.stack([np.where(branch == 0, t, 1 - t), np.exp(-30 * (t - 0.2) ** 2), np.exp(-30 * (t - 0.8) ** 2)], axis=1)
    obs = pd.DataFrame({"pseudotime": t, "branch": branch.astype(str)}, index=[f"c{i}" for i in range(400)])
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=["gene", "early", "late"]))


def test_curves_are_the_means_of_their_fates(cells):
    a = (cells.obs["branch"] == "0").astype(float)
    fates = pd.DataFrame({"A": a, "B": 1 - a}, index=cells.obs_names).sample(frac=1, random_state=0)
    (ax,) = gene_trends(cells, "gene", fates=fates, palette={"A": "red", "B": "blue"})
    curves = {line.get_label(): line for line in ax.lines}
    assert set(curves) == {"A", "B"}
    inner = slice(20, 80)
    t = curves["A"].get_xdata()[inner]
    assert np.allclose(curves["A"].get_ydata()[inner], t, atol=0.01)
    assert np.allclose(curves["B"].get_ydata()[inner], 1 - t, atol=0.01)
    assert curves["A"].get_color() == (1, 0, 0) or curves["A"].get_color() == "red"
    assert [text.get_text() for text in ax.get_legend().texts] == ["A", "B"]


def test_a_curve_ends_with_its_cells(cells):
    weight = pd.DataFrame({"early": (cells.obs["pseudotime"] < 0.3).astype(float)}, index=cells.obs_names)
    mean = gene_trends(cells, "early", fates=weight)[0].lines[0].get_ydata()
    assert np.isfinite(mean[:25]).all()
    assert np.isnan(mean[60:]).all()


def test_missing_values_are_left_out(cells):
    before = gene_trends(cells, "gene")[0].lines[0].get_ydata()
    cells.obs.loc["c5", "pseudotime"] = np.nan
    cells.X[9, 0] = np.nan
    after = gene_trends(cells, "gene")[0].lines[0].get_ydata()
    assert np.allclose(before, after, atol=0.05)


def test_genes_are_sorted_by_their_peak(cells):
    ax = driver_heatmap(cells, ["late", "early"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["early", "late"]
    image = ax.images[0].get_array()
    assert (image.min(), image.max()) == pytest.approx((0, 1))
    assert np.abs(image.argmax(axis=1) / 99 - [0.2, 0.8]).max() < 0.05
    ax = driver_heatmap(cells, ["late", "early"], sort=False, fate=pd.Series(1.0, cells.obs_names, name="A"))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["late", "early"]
    assert ax.get_title() == "A"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": "gen"}, KeyError, "genes='gen' is not in obs.*did you mean 'gene'"),
        ({"genes": []}, ValueError, r"genes=\[\] names nothing"),
        ({"genes": "branch"}, ValueError, "genes='branch' is a column of categories"),
        ({"pseudotime": "dpt"}, KeyError, "pseudotime='dpt' is not in obs"),
        ({"pseudotime": "branch"}, ValueError, "pseudotime='branch' must be numbers"),
        ({"bandwidth": 0}, ValueError, "bandwidth=0"),
        ({"fates": [1, 2]}, TypeError, "fates is list: pass the DataFrame of get_fates"),
        ({"fates": pd.DataFrame({"A": [1.0]}, index=["other"])}, ValueError, "fates"),
    ],
)
def test_bad_arguments_are_named(cells, options, error, message):
    with pytest.raises(error, match=message):
        gene_trends(cells, **{"genes": "gene", **options})
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.to_numpy(), "fate is ndarray: pass a column"),
        (lambda f: f.to_frame(), "fate is DataFrame: pass a column"),
        (lambda f: f.astype(str), "column 'A' is not numbers from 0 to 1"),
        (lambda f: -f, "column 'A' is not numbers from 0 to 1, for example .* for cell '"),
        (lambda f: f.astype("Float64").mask(f.index == "c7"), "column 'A'.* for cell 'c7'"),
    ],
)
def test_a_fate_that_is_no_column_of_probabilities_is_refused(cells, change, message):
    fate = pd.Series(0.5, index=cells.obs_names, name="A")
    with pytest.raises((TypeError, ValueError), match=message):
        driver_heatmap(cells, ["gene"], fate=change(fate))
    assert not plt.get_fignums()


def test_a_time_without_range_is_refused(cells):
    cells.obs["pseudotime"] = 1.0
    with pytest.raises(ValueError, match="pseudotime='pseudotime' has no range"):
        driver_heatmap(cells, ["gene"])


def test_measured_days_have_a_mean_each(cells):
    cells.obs["pseudotime"] = np.where(cells.obs["pseudotime"] < 0.5, 2, 4)
    (ax,) = gene_trends(cells, "early")
    line = ax.lines[0]
    early, late = (cells[cells.obs["pseudotime"] == day, "early"].X.mean() for day in (2, 4))
    assert line.get_xdata().tolist() == [2, 4]
    assert np.allclose(line.get_ydata(), [early, late])
    assert ax.get_xticks().tolist() == [2, 4]
    heatmap = driver_heatmap(cells, ["late", "early"])
    assert heatmap.images[0].get_array().tolist() == [[1, 0], [0, 1]]
    assert [label.get_text() for label in heatmap.get_xticklabels()] == ["2", "4"]


def test_fates_have_the_colors_of_their_categories(cells):
    cells.obs["branch"] = pd.Categorical(cells.obs["branch"]).rename_categories({"0": "A", "1": "B"})
    cells.uns["branch_colors"] = ["#ff0000", "#0000ff"]
    fates = pd.DataFrame({"B": 0.5, "A": 0.5}, index=cells.obs_names)
    (ax,) = gene_trends(cells, "gene", fates=fates)
    assert [line.get_color() for line in ax.lines] == ["#0000ff", "#ff0000"]


def test_a_table_of_genes_is_refused(cells):
    with pytest.raises(TypeError, match="genes is a table"):
        driver_heatmap(cells, pd.DataFrame({"feature": ["gene"]}))
