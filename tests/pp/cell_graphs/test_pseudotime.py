from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.neighbors import kneighbors_graph

from muport import pp
from muport.pp.cell_graphs import _pseudotime
from muport.pp.cell_graphs._root_cell import Root, find_root

DATA = Path(os.environ.get("MUPORT_DATA", "/nonexistent"))


def curve(n: int = 300, seed: int = 0) -> AnnData:
    """Cells along half a turn in five dimensions, shuffled; a gene that falls with time, and clusters of time."""
    rng = np.random.default_rng(seed)
    time = rng.permutation(np.linspace(0, 1, n))
    x = np.zeros((n, 5))
    x[:, 0], x[:, 1] = np.cos(np.pi * time), np.sin(np.pi * time)
    adata = AnnData(np.column_stack([2 - 2 * time, rng.random(n), np.ones(n)]))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(n)], ["early", "noise", "flat"]
    adata.obs["time"] = time
    adata.obs["clusters"] = pd.Categorical(np.array(["A", "B", "C"])[np.minimum((time * 3).astype(int), 2)])
    adata.obsm["X_pca"] = (5 * x + rng.normal(scale=0.15, size=x.shape)).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return curve()


ROOTS = {
    "cluster": {"root_cluster": "A"},
    "marker": {"root_marker": "early"},
    "name": {"root_cell": "first"},
    "position": {"root_cell": "first"},
}


@pytest.mark.parametrize("kind", ROOTS)
def test_order_of_a_curve(cells, kind):
    adata, first = cells.copy(), int(cells.obs["time"].argmin())
    roots = {"name": str(adata.obs_names[first]), "position": first}
    assert pp.pseudotime(adata, **({"root_cell": roots[kind]} if kind in roots else ROOTS[kind])) is None
    found = adata.obs["pseudotime"]
    assert found.dtype == np.float64
    assert (found.min(), found.max()) == (0, 1)
    root = adata.uns["pseudotime_root"]
    assert found[root] == 0
    assert adata.obs["time"][root] < 0.06
    assert spearmanr(found, adata.obs["time"])[0] > 0.98


def test_the_values_are_those_of_scanpy_where_its_components_suffice(cells):
    adata, other = cells.copy(), cells.copy()
    pp.pseudotime(adata, root_cell=7, n_neighbors=20, key_added="t")
    sc.pp.neighbors(other, 20, use_rep="X_pca")
    sc.tl.diffmap(other)
    other.uns["iroot"] = 7
    sc.tl.dpt(other)
    # scanpy has the nine largest terms of the sum
    assert np.allclose(adata.obs["t"], other.obs["dpt_pseudotime"], atol=3e-3)
    assert spearmanr(adata.obs["t"], other.obs["dpt_pseudotime"])[0] > 0.9999
    assert adata.uns["t_root"] == "c7"


def line(n: int, seed: int = 0, noise: float = 0.01) -> AnnData:
    """Cells in random order along a long clean path."""
    rng = np.random.default_rng(seed)
    time = rng.uniform(0, 1, n)
    adata = AnnData(np.zeros((n, 1), np.float32), obs=pd.DataFrame({"time": time}, index=[f"c{i}" for i in range(n)]))
    adata.obs["clusters"] = np.where(time < 0.05, "early", "late")
    adata.obsm["X_pca"] = np.outer(time, [10, 4, 2, 1]) + rng.normal(size=(n, 4)) * noise
    return adata


@pytest.mark.promise("The pseudotime follows a path of any length")
@pytest.mark.parametrize("n", [60, 300, 1000, 3000])
def test_order_of_a_long_path(n, record_property):
    adata = line(n)
    pp.pseudotime(adata, root_cluster="early")
    assert spearmanr(adata.obs["pseudotime"], adata.obs["time"])[0] > 0.99
    record_property("tries", 1)


def all_eigenvectors(graph: sparse.csr_array, root: int) -> np.ndarray:
    """Diffusion distance from the root by its definition, from (I - T + psi0 psi0')^-1 - I."""
    kernel = graph.toarray() / np.outer(graph.sum(axis=0), graph.sum(axis=0))
    transitions = kernel / np.sqrt(np.outer(kernel.sum(axis=0), kernel.sum(axis=0)))
    first = np.sqrt(kernel.sum(axis=0) / kernel.sum())
    m = np.linalg.inv(np.eye(len(first)) - transitions + np.outer(first, first)) - np.eye(len(first))
    return np.linalg.norm(m - m[root], axis=1)


@pytest.mark.parametrize("kind", ["path", "clusters", "noise"])
@pytest.mark.parametrize("up_to", [10, 10_000])
def test_the_distance_is_the_sum_over_all_eigenvectors(monkeypatch, kind, up_to):
    rng = np.random.default_rng(1)
    x = {
        "path": np.linspace(0, 50, 700)[:, None],
        "clusters": rng.normal(size=(700, 5)) + rng.normal(size=(6, 5))[rng.integers(6, size=700)],
        "noise": rng.normal(size=(700, 5)),
    }[kind]
    near = kneighbors_graph(x, 20)
    graph = sparse.csr_array(near.maximum(near.T))
    monkeypatch.setattr(_pseudotime, "_ALL_EIGENVECTORS_UP_TO", up_to)
    coordinates = _pseudotime.diffusion_coordinates(graph, np.arange(700), 0)
    found, expected = np.linalg.norm(coordinates - coordinates[3], axis=1), all_eigenvectors(graph, 3)
    tolerance, rank = (0.06, 0.99) if up_to == 10 else (1e-6, 0.99999)
    assert np.abs(found - expected).max() < tolerance * expected.max()
    assert spearmanr(found, expected)[0] > rank


@pytest.mark.promise("Read-only arrays are accepted")
def test_read_only_cells_above_the_size_of_the_exact_search_of_scanpy():
    adata = line(9000, noise=0.3)
    adata.obsm["X_pca"] = np.hstack([adata.obsm["X_pca"], np.random.default_rng(0).normal(size=(9000, 3)) / 3])
    adata.obsm["X_pca"].flags.writeable = False
    pp.pseudotime(adata, root_cluster="early", n_neighbors=10)
    assert spearmanr(adata.obs["pseudotime"], adata.obs["time"])[0] > 0.95


def test_only_the_result_is_written(cells, fingerprint):
    adata = cells.copy()
    sc.pp.neighbors(adata, 5, use_rep="X_pca", method="gauss")
    adata.uns["iroot"] = 3
    adata.obsm["X_diffmap"] = np.ones((300, 2))
    before = fingerprint(adata)
    state, options = np.random.get_state()[1].tolist(), np.get_printoptions()  # noqa: NPY002
    pp.pseudotime(adata, root_cluster="A")
    assert (np.random.get_state()[1].tolist(), np.get_printoptions()) == (state, options)  # noqa: NPY002
    del adata.obs["pseudotime"], adata.uns["pseudotime_root"]
    assert fingerprint(adata) == before


def test_same_again_and_independent_of_the_order(cells):
    one, two = cells.copy(), cells[::-1].copy()
    pp.pseudotime(one, root_cluster="A")
    pp.pseudotime(two, root_cluster="A")
    assert one.uns["pseudotime_root"] == two.uns["pseudotime_root"]
    assert np.allclose(one.obs["pseudotime"], two.obs["pseudotime"].loc[one.obs_names], atol=1e-3)
    three = cells.copy()
    pp.pseudotime(three, root_cluster="A")
    assert np.array_equal(one.obs["pseudotime"], three.obs["pseudotime"])


def graph_of(x: np.ndarray, reach: float) -> sparse.csr_array:
    near = np.abs(x[:, None] - x[None]) <= reach
    np.fill_diagonal(near, False)
    return sparse.csr_array(near.astype(float))


def test_tip_of_a_cluster():
    x = np.arange(30.0)
    graph = graph_of(x, 2)
    # the core of the first twelve: all that have no others around, or few
    assert find_root(Root(member=x < 12), x[:, None], graph) == 0
    assert find_root(Root(member=x > 17), x[:, None], graph) == 29
    # in the middle, the core's end that is farther from the mean of the others
    assert find_root(Root(member=(x > 3) & (x < 14)), x[:, None], graph) == 6


def test_a_member_that_lies_elsewhere_is_no_tip():
    x = np.arange(30.0)
    member = (x > 2) & (x < 12)
    stray = member | (x == 29)
    assert find_root(Root(member=stray), x[:, None], graph_of(x, 2)) == find_root(
        Root(member=member), x[:, None], graph_of(x, 2)
    )


def test_a_graph_that_is_all_cluster_has_its_own_mean_to_be_far_from():
    x = np.arange(30.0)
    assert find_root(Root(member=x < 30), x[:, None], graph_of(x, 2)) in (0, 29)


def test_a_single_high_cell_is_no_marker_peak():
    x, level = np.arange(20.0), np.zeros(20)
    level[15] = 5
    level[2:6] = 3
    assert find_root(Root(level=level), x[:, None], graph_of(x, 1)) in (3, 4)
    level[4] = np.nan
    assert find_root(Root(level=level), x[:, None], graph_of(x, 1)) == 3


def two(cells: AnnData) -> MuData:
    """RNA cells in another order than the object, and other cells in ATAC."""
    atac = curve(60, 1)
    atac.obs_names, atac.var_names = [f"a{i}" for i in range(60)], ["p0", "p1", "p2"]
    del atac.obs["clusters"], atac.obsm["X_pca"]
    return MuData({"atac": atac, "rna": cells[::-1].copy()})


def test_modality_of_a_mudata(cells):
    mdata, plain = two(cells), cells[::-1].copy()
    pp.pseudotime(plain, root_cluster="A")
    pp.pseudotime(mdata, root_cluster="A")
    assert np.array_equal(mdata["rna"].obs["pseudotime"], plain.obs["pseudotime"])
    assert "pseudotime" not in mdata.obs
    assert "pseudotime" not in mdata["atac"].obs
    # clusters of the whole object are found by name
    del mdata["rna"].obs["clusters"]
    mdata.obs["type"] = cells.obs["clusters"].reindex(mdata.obs_names)
    pp.pseudotime(mdata, root_cluster="A", labels_key="type", key_added="again")
    assert np.array_equal(mdata["rna"].obs["again"], plain.obs["pseudotime"])


def test_joint_space_of_a_mudata(cells):
    mdata = two(cells)
    x = np.vstack([curve(60, 1).obsm["X_pca"], cells[::-1].obsm["X_pca"]])
    mdata.obsm["X_joint"] = x
    time = pd.concat([a.obs["time"] for a in mdata.mod.values()])[mdata.obs_names]
    for root in ({"root_cluster": "A"}, {"root_marker": "early"}, {"root_cell": time.idxmin()}):
        pp.pseudotime(mdata, **root, use_rep="X_joint")
        assert mdata.obs["pseudotime"].notna().all()
        assert spearmanr(mdata.obs["pseudotime"], time)[0] > 0.98
        assert time[mdata.uns["pseudotime_root"]] < 0.08
    with pytest.raises(KeyError, match=r"modality='prot'.*atac"):
        pp.pseudotime(mdata, "A", modality="prot")


BAD = {
    "no root": ({}, ValueError, "exactly one of root_cluster"),
    "two roots": ({"root_cluster": "A", "root_cell": 3}, ValueError, "'root_cell': 3"),
    "unknown cluster": ({"root_cluster": "Z"}, ValueError, r"'Z' has no cells.*'clusters' holds \['A', 'B', 'C'\]"),
    "unknown column": ({"root_cluster": "A", "labels_key": "type"}, KeyError, "'type' is not in obs"),
    "unknown cell": ({"root_cell": "x"}, KeyError, "root_cell='x'.*c0"),
    "cell outside": ({"root_cell": 300}, ValueError, "root_cell=300.*299"),
    "cell a number": ({"root_cell": 1.5}, TypeError, "root_cell=1.5"),
    "unknown marker": ({"root_marker": "Sox9"}, KeyError, "'Sox9'.*early"),
    "flat marker": ({"root_marker": "flat"}, ValueError, "'flat' has the same value"),
    "unknown space": ({"root_cell": 0, "use_rep": "X_u"}, KeyError, "X_u.*X_pca"),
    "neighbors": ({"root_cell": 0, "n_neighbors": 1}, ValueError, "n_neighbors=1"),
    "seed": ({"root_cell": 0, "random_state": None}, ValueError, "random_state=None"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_reason_and_untouched(cells, fingerprint, case):
    adata = cells.copy()
    before = fingerprint(adata)
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        pp.pseudotime(adata, **arguments)
    assert fingerprint(adata) == before


def test_views_and_spaces_without_an_order_are_refused(cells):
    with pytest.raises(ValueError, match=r"anndata\.copy\(\)"):
        pp.pseudotime(cells[:50], root_cell=0)
    with pytest.raises(ValueError, match="3 cells"):
        pp.pseudotime(cells[:3].copy(), root_cell=0)
    same = cells.copy()
    same.obsm["X_pca"] = np.ones((300, 5))
    with pytest.raises(ValueError, match="all cells have the same coordinates"):
        pp.pseudotime(same, root_cell=0)
    bad = cells.copy()
    bad.obsm["X_pca"][5, 0] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN.*'c5'"):
        pp.pseudotime(bad, root_cell=0)


def test_cells_out_of_reach_are_counted(cells):
    adata = cells.copy()
    far = adata.obs["time"].to_numpy() > 0.8
    adata.obsm["X_pca"] = adata.obsm["X_pca"] + 1e4 * far[:, None].astype(np.float32)
    pieces = f"2 pieces, of {300 - far.sum()}, {far.sum()} cells"
    with pytest.raises(ValueError, match=rf"{far.sum()} of 300 cells are not connected.*{pieces}.*n_neighbors=10"):
        pp.pseudotime(adata, root_cluster="A", n_neighbors=10)
    assert "pseudotime" not in adata.obs


@pytest.mark.skipif(not (DATA / "paul15_tradeseq.h5ad").is_file(), reason="MUPORT_DATA holds no paul15")
def test_paul15():
    adata = anndata.read_h5ad(DATA / "paul15_tradeseq.h5ad")
    adata.obsm["X_pca"] = sc.pp.pca(np.log1p(adata.X.astype(np.float32)), 20)
    pp.pseudotime(adata, root_cluster="Multipotent progenitors", labels_key="cell_type")
    for lineage in (1, 2):
        chosen = adata.obs[f"slingshot_w_curve{lineage}"] > 0.5
        rho = spearmanr(adata.obs["pseudotime"][chosen], adata.obs[f"slingshot_pt_curve{lineage}"][chosen])[0]
        assert rho > 0.65, lineage
    median = adata.obs.groupby("cell_type", observed=True)["pseudotime"].median()
    assert median.idxmin() == "Multipotent progenitors"
