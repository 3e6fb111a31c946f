"""The graph against that of scanpy and umap-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

from muport.neighbors import _fuzzy_graph
from muport.neighbors._fuzzy_graph import fuzzy_graph


def points(case: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    if case == "clusters of other densities":
        x[:60] *= 0.01
        x[:60, 0] += 20
    elif case == "duplicates":
        x[5:9], x[20] = x[4], x[30]
    elif case == "far outlier":
        x[0] = 1e4
    return x


@pytest.mark.parametrize("case", ["normal", "clusters of other densities", "duplicates", "far outlier"])
def test_the_graph_is_that_of_scanpy(case):
    x = points(case)
    graph = fuzzy_graph(x, 12)
    adata = AnnData(obsm={"X": x.copy()}, obs={"i": np.arange(len(x))})
    sc.pp.neighbors(adata, 12, use_rep="X")
    theirs = adata.obsp["connectivities"]
    if case == "duplicates":  # scanpy takes the first of equal points for the cell itself
        rows = np.setdiff1d(np.arange(120), [4, 5, 6, 7, 8, 20, 30])
        assert np.allclose(
            graph.connectivities.toarray()[np.ix_(rows, rows)], theirs.toarray()[np.ix_(rows, rows)], atol=1e-4
        )
        assert (graph.connectivities.toarray()[4, 5:9] == 1).all()
    else:
        assert np.allclose(graph.connectivities.toarray(), theirs.toarray(), atol=1e-4)
        assert np.array_equal(graph.distances.toarray(), adata.obsp["distances"].toarray())
    assert graph.connectivities.dtype == theirs.dtype
    assert not graph.connectivities.diagonal().any()
    assert (np.diff(graph.distances.indptr) == 11).all()
    assert not (graph.distances.diagonal()).any()


def test_all_points_equal():
    graph = fuzzy_graph(np.zeros((6, 2), np.float32), 3)
    assert np.isfinite(graph.connectivities.data).all()
    assert set(graph.connectivities.data.tolist()) == {1.0}


def test_more_neighbors_than_cells_are_lowered_as_by_scanpy():
    x = points("normal")[:20]
    assert fuzzy_graph(x, 25).n_neighbors == 11
    assert (np.diff(fuzzy_graph(x, 25).distances.indptr) == 10).all()


def test_many_cells_are_searched_approximately(monkeypatch):
    x = points("normal")
    exact = fuzzy_graph(x, 8)
    monkeypatch.setattr(_fuzzy_graph, "_EXACT_UP_TO", 50)
    approximate = fuzzy_graph(x, 8)
    assert abs(exact.connectivities - approximate.connectivities).max() < 1e-3
