"""`pp.umap`: a UMAP that new cells enter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from mudata import MuData

from muport import pp
from muport.metrics import knn_labels

N, KINDS = 400, np.array(["A", "B", "C", "D"])


def draw(n: int, seed: int, prefix: str = "c") -> AnnData:
    """Cells of four types in eight dimensions, in which each type has a line of its own."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(4, size=n)
    z = 6 * np.eye(4, 8)[kind] + 0.4 * rng.normal(size=(n, 8))
    z[:, 5] += 6 * rng.random(n)
    adata = AnnData(obs=pd.DataFrame({"kind": KINDS[kind]}, index=[f"{prefix}{i}" for i in range(n)]))
    adata.obsm["X_muport"] = z.astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return draw(N, 0)


@pytest.fixture(scope="module")
def fitted(adata) -> pp.FittedUMAP:
    return pp.umap(adata)


def rms(z: np.ndarray) -> float:
    return float(np.sqrt(np.square(z - z.mean(axis=0)).sum(axis=1).mean()))


def test_the_fit_is_written_and_keeps_types_apart(adata, fitted):
    z = adata.obsm["X_umap"]
    assert (z.shape, z.dtype) == ((N, 2), np.float32)
    assert np.array_equal(z, fitted.embedding)
    assert (fitted.use_rep, fitted.key_added, fitted.n_coordinates) == ("X_muport", "X_umap", 8)
    assert (
        knn_labels(z[::2], adata.obs["kind"].iloc[::2], query=z[1::2]) == adata.obs["kind"].iloc[1::2]
    ).mean() > 0.99


@pytest.mark.promise("Cells of the fit keep their coordinates in a UMAP")
def test_cells_of_the_fit_keep_their_places(adata, fitted, record_property):
    record_property("tries", 3)
    assert np.array_equal(fitted.transform(adata.obsm["X_muport"]), fitted.embedding)
    order = np.random.default_rng(0).permutation(N)
    assert np.array_equal(fitted.transform(adata.obsm["X_muport"][order]), fitted.embedding[order])
    some = order[:150]
    error = np.linalg.norm(fitted.transform(adata.obsm["X_muport"][some]) - fitted.embedding[some], axis=1)
    assert np.median(error) < 0.05 * rms(fitted.embedding)


@pytest.mark.promise("New cells enter a fitted UMAP among cells of their type")
def test_new_cells_land_among_their_type(adata, fitted, record_property):
    record_property("tries", 200)
    before = fitted.embedding.copy()
    query = draw(200, 1, "q")
    z = fitted.transform(query)
    assert np.array_equal(query.obsm["X_umap"], z)
    assert z.dtype == np.float32
    landed = knn_labels(fitted.embedding, adata.obs["kind"], query=z)
    assert (landed == query.obs["kind"]).mean() > 0.98
    assert np.array_equal(fitted.transform(query.obsm["X_muport"]), z)
    # along the line of its type, too
    for kind in KINDS:
        mine, theirs = (query.obs["kind"] == kind).to_numpy(), (adata.obs["kind"] == kind).to_numpy()
        nearest = np.abs(query.obsm["X_muport"][mine, 5, None] - adata.obsm["X_muport"][theirs, 5]).argmin(axis=1)
        distance = np.linalg.norm(z[mine] - before[theirs][nearest], axis=1)
        assert np.median(distance) < 0.5 * rms(before[theirs])
    assert np.array_equal(fitted.embedding, before)
    assert np.array_equal(fitted.model.embedding_[np.lexsort(fitted.model.embedding_.T)], before[np.lexsort(before.T)])


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_few_new_cells(adata, fitted, n):
    query = draw(n, 2)
    landed = knn_labels(fitted.embedding, adata.obs["kind"], query=fitted.transform(query))
    assert (landed == query.obs["kind"]).all()


@pytest.mark.promise("Rows in another order give the same answer")
def test_the_order_of_cells_and_the_state_of_the_process_do_not_matter(adata, fitted, record_property):
    record_property("tries", 2)
    order = np.random.default_rng(3).permutation(N)
    other = adata[order].copy()
    state = np.random.get_state()  # noqa: NPY002
    again = pp.umap(other)
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert np.array_equal(other.obsm["X_umap"], adata.obsm["X_umap"][order])
    query = draw(100, 1, "q")
    shuffled = query[::-1].copy()
    assert np.array_equal(again.transform(shuffled)[::-1], fitted.transform(query))


def test_the_map_of_a_mudata_and_other_arguments(adata):
    rna, atac = adata[:300].copy(), adata[200:].copy()
    rna.var_names, atac.var_names = [], []
    mdata = MuData({"rna": rna, "atac": atac})
    mdata.obsm["X_muport"] = adata.obsm["X_muport"][adata.obs_names.get_indexer(mdata.obs_names)]
    del mdata["rna"].obsm["X_muport"]
    fitted = pp.umap(mdata, n_components=3, key_added="X_umap3", min_dist=0.1)
    assert mdata.obsm["X_umap3"].shape == (N, 3)
    assert "X_umap" not in mdata.obsm
    assert fitted.transform(mdata).shape == (N, 3)
    with pytest.raises(KeyError, match=r"use_rep='X_pca' is not in obsm, which has \['X_muport', 'X_umap3'\]"):
        pp.umap(mdata, "X_pca")


def test_it_resembles_the_umap_of_scanpy(adata):
    """The same graph, so the same neighbors in the picture, up to chance."""
    theirs = adata.copy()
    sc.pp.neighbors(theirs, use_rep="X_muport")
    sc.tl.umap(theirs)
    kept = [np.mean(preserved(adata.obsm["X_muport"], data.obsm["X_umap"])) for data in (adata, theirs)]
    assert abs(kept[0] - kept[1]) < 0.05


def preserved(x: np.ndarray, z: np.ndarray, k: int = 15) -> list[float]:
    near = [np.linalg.norm(v[:, None] - v[None], axis=2).argsort(axis=1)[:, 1 : k + 1] for v in (x, z)]
    return [len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)]


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "representation": ({"use_rep": "X_none"}, KeyError, "use_rep='X_none'"),
    "neighbors": ({"n_neighbors": 1}, ValueError, "n_neighbors=1"),
    "too many neighbors": ({"n_neighbors": N}, ValueError, f"{N} cells: n_neighbors={N} needs more"),
    "distance": ({"min_dist": 2}, ValueError, "min_dist=2"),
    "components": ({"n_components": 0}, ValueError, "n_components=0"),
    "seed": ({"random_state": -1}, ValueError, "random_state=-1"),
    "its own input": ({"key_added": "X_muport"}, ValueError, "key_added='X_muport' is use_rep"),
    "a name that files do not hold": ({"key_added": "a/b"}, ValueError, "key_added='a/b' must be a name without '/'"),
    "no name": ({"key_added": 3}, TypeError, "key_added=3 must be a string"),
}


@pytest.mark.promise("Wrong input is refused with its name and the fix, and the data are unchanged")
def test_wrong_input_is_refused(adata, fitted, record_property):
    record_property("tries", len(BAD) + 7)
    data = draw(N, 0)
    for arguments, error, message in BAD.values():
        start = time.perf_counter()
        with pytest.raises(error, match=message):
            pp.umap(data, **arguments)
        assert time.perf_counter() - start < 1
    assert list(data.obsm) == ["X_muport"]
    with pytest.raises(ValueError, match="is a view.*anndata.copy"):
        fitted.transform(data[:50])
    with pytest.raises(ValueError, match="7 coordinates, but the UMAP was fitted to 8"):
        fitted.transform(data.obsm["X_muport"][:, :7])
    with pytest.raises(TypeError, match="DataFrame"):
        pp.umap(data.obs)
    with pytest.raises(ValueError, match="data has no cells"):
        fitted.transform(data[:0].copy())
    with pytest.raises(ValueError, match="data holds values up to 1e.20"):
        fitted.transform(np.full((3, 8), 1e20))
    data.obsm["X_muport"][3, 2] = np.nan
    x = data.obsm["X_muport"]
    for refused in (lambda: fitted.transform(data), lambda: pp.umap(data), lambda: fitted.transform(x)):
        with pytest.raises(ValueError, match=r"NaN"):
            refused()
    assert list(data.obsm) == ["X_muport"]
