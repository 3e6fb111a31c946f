"""The search over hyperparameters: a table with the failures, and the data unchanged."""

from __future__ import annotations

import numpy as np
import pytest

import muport
from muport.velocity import gridsearch, velocity

FIXED = {"n_epochs": 10, "lambda_smooth": 0.0}
EDGES = [("trunk", "A"), ("trunk", "B")]


@pytest.fixture(scope="module")
def cells(kit):
    adata = kit.draw(n_cells=320)
    adata.obs["pseudotime"], adata.obs["clusters"] = adata.obs["time"], adata.obs["branch"].astype(str)
    return adata


@pytest.fixture(scope="module")
def table(cells):
    before = cells.copy()
    found = gridsearch(cells, {"reg": [0.05, -1.0], "difference": ["central", "forward"]}, EDGES,
                       fixed_params=FIXED, verbose=False)  # fmt: skip
    assert set(cells.obsm) == set(before.obsm)
    assert set(cells.obs) == set(before.obs)
    return found


def test_one_row_for_each_combination(table):
    assert table[["reg", "difference"]].to_numpy().tolist() == [
        [0.05, "central"], [0.05, "forward"], [-1.0, "central"], [-1.0, "forward"],
    ]  # fmt: skip
    assert (table["seconds"] >= 0).all()


def test_failures_are_in_the_table(table):
    failed = table[table["reg"] < 0]
    assert failed["status"].str.contains("ValueError.*reg=-1.0 must be a finite number above 0").all()
    assert failed["iccoh_mean"].isna().all()
    assert (table.loc[table["reg"] > 0, "status"] == "ok").all()


def test_scores_are_those_of_the_metrics(cells, table):
    mine = cells.copy()
    velocity(mine, reg=0.05, verbose=False, **FIXED)
    known = muport.metrics.cbdir(mine.obsm["X_umap"], mine.obsm["velot_velocity_umap"], mine.obs["clusters"], EDGES)
    row = table.iloc[0]
    assert np.isclose(row["contrast_mean"], known["contrast"].mean(), atol=1e-6)
    assert np.isclose(row["cbdir_trunk->A"], known["forward"].iloc[0], atol=1e-6)
    assert np.isclose(row["cbdir_reverse_mean"], known["reverse"].mean(), atol=1e-6)
    coherence = muport.metrics.iccoh(mine.obsm["X_umap"], mine.obsm["velot_velocity_umap"], mine.obs["clusters"])
    assert np.isclose(row["iccoh_mean"], coherence["coherence"].mean(), atol=1e-6)


def test_scores_in_the_basis(cells):
    found = gridsearch(cells, {"reg": [0.05]}, velocity_metric_key="velocity_pca", fixed_params=FIXED, verbose=False)
    assert found["status"].tolist() == ["ok"]
    assert 0 < found["iccoh_mean"][0] <= 1
    assert "cbdir_mean" not in found


@pytest.mark.parametrize(("arguments", "error", "match"), [
    ({"param_grid": {}}, ValueError, "param_grid"),
    ({"param_grid": {"reg": 0.1}}, ValueError, "param_grid"),
    ({"param_grid": {"epsilon": [0.1]}}, ValueError, "epsilon.*no arguments"),
    ({"fixed_params": {"epochs": 3}}, ValueError, "epochs.*no arguments"),
    ({"cluster_key": "kinds"}, KeyError, "cluster_key='kinds'"),
    ({"pseudotime_key": "dpt"}, KeyError, "pseudotime_key='dpt'"),
    ({"cluster_edges": [("trunk", "C")]}, KeyError, "'C'"),
])  # fmt: skip
def test_bad_inputs_are_named(cells, arguments, error, match):
    with pytest.raises(error, match=match):
        gridsearch(cells, **{"param_grid": {"reg": [0.1]}, "verbose": False, **arguments})


def test_a_key_that_no_run_writes_is_named(cells):
    found = gridsearch(cells, {"reg": [0.05]}, velocity_metric_key="velocity_tsne", fixed_params=FIXED, verbose=False)
    assert "velocity_tsne" in found["status"][0]
