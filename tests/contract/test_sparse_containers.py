"""Counts in every container: entries repeated, unsorted or zero, other formats and types, read-only, lazy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import muport
from muport import datasets, pp

SAME = "Counts in any container give the same answer"
N, GENES, PEAKS = 90, 24, 60


def repeated(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Every count as the sum of two entries; those of the count 1 are 0 and 1."""
    half = np.floor(x.data / 2).astype(x.dtype)
    return sparse.csr_matrix(
        (np.stack([half, x.data - half], axis=1).ravel(), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape
    )


def unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    order = np.concatenate([np.arange(x.indptr[i], x.indptr[i + 1])[::-1] for i in range(x.shape[0])])
    return sparse.csr_matrix((x.data[order], x.indices[order], x.indptr.copy()), shape=x.shape)


def with_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    rows, columns = (x.toarray() == 0).nonzero()
    entries = x.tocoo()
    kept = slice(None, None, 3)
    data = np.concatenate([entries.data, np.zeros(len(rows[kept]), x.dtype)])
    return sparse.csr_matrix(
        (data, (np.concatenate([entries.row, rows[kept]]), np.concatenate([entries.col, columns[kept]]))), shape=x.shape
    )


def read_only(x: Any) -> Any:
    for array in (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,):
        array.flags.writeable = False
    return x


def dask(x: sparse.csr_matrix) -> Any:
    return pytest.importorskip("dask.array").from_array(x.toarray(), chunks=(32, x.shape[1]))


CONTAINERS: dict[str, Callable[[sparse.csr_matrix], Any]] = {
    "CSR with repeats": repeated,
    "CSR with unsorted indices": unsorted,
    "CSR with explicit zeros": with_zeros,
    "CSC": lambda x: x.tocsc(),
    "CSC with repeats": lambda x: _transposed(repeated(x.T.tocsr())),
    "COO": lambda x: repeated(x).tocoo(),
    "sparse array": sparse.csr_array,
    "integers": lambda x: x.astype(np.int64),
    "float64": lambda x: x.astype(np.float64),
    "read-only CSR": lambda x: read_only(x.copy()),
    "read-only CSR with repeats": lambda x: read_only(repeated(x)),
    "read-only dense": lambda x: read_only(x.toarray()),
    "Fortran order": lambda x: np.asfortranarray(x.toarray()),
    "Dask": dask,
}
#: These may be refused; no other container may be. anndata takes no COO in ``X``.
MAY_BE_REFUSED = {"Dask", "COO"}


def _transposed(x: sparse.csr_matrix) -> sparse.csc_matrix:
    return sparse.csc_matrix((x.data, x.indices, x.indptr), shape=x.shape[::-1])


def counts(n: int, p: int, seed: int) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.8, 1.5, (3, p))[np.arange(n) % 3] * rng.uniform(0.6, 1.6, (n, 1))
    x = rng.poisson(mean).astype(np.float32)
    x[np.arange(n), rng.integers(p, size=n)] += 1
    return sparse.csr_matrix(x)


RNA, ATAC = counts(N, GENES, 0), counts(N, PEAKS, 1)
PEAK_NAMES = [f"chr1:{1000 * i + 100}-{1000 * i + 400}" for i in range(PEAKS)]
ANNOTATION = pd.DataFrame(
    {"chrom": "chr1", "start": np.arange(GENES) * 2400 + 200, "end": np.arange(GENES) * 2400 + 900, "strand": "+",
     "gene": [f"g{i}" for i in range(GENES)]}
)  # fmt: skip


def annotated(x: Any, features: list[str], prefix: str = "c") -> AnnData:
    obs = pd.DataFrame({"batch": np.where(np.arange(N) % 2, "b", "a")}, index=[f"{prefix}{i}" for i in range(N)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=features))


def genes(x: Any) -> AnnData:
    return annotated(x, [f"g{i}" for i in range(GENES)])


def peaks(x: Any) -> AnnData:
    return annotated(x, PEAK_NAMES)


def prepare(x: Any) -> list[Any]:
    adata = genes(x)
    pp.prepare(adata, n_comps=5, n_neighbors=10, n_top_genes=15, umap=False)
    return [adata.X, adata.obsm["X_pca"], adata.var["highly_variable"]]


def lsi(x: Any) -> list[Any]:
    adata = peaks(x)
    pp.tfidf(adata)
    pp.lsi(adata, n_comps=4)
    return [adata.X, adata.var["idf"], adata.obsm["X_lsi"]]


def lsi_of_values(x: Any) -> list[Any]:
    adata = peaks(x)
    pp.lsi(adata, n_comps=4)
    return [adata.obsm["X_lsi"]]


def iterative_lsi(x: Any) -> list[Any]:
    adata = peaks(x)
    pp.iterative_lsi(adata, n_comps=4, n_features=40, n_clusters=3)
    return [adata.obsm["X_lsi"], adata.var["lsi_features"], adata.var["idf"]]


def gene_activity(x: Any) -> list[Any]:
    activity = pp.gene_activity(peaks(x), ANNOTATION)
    return [activity.X, activity.var["n_peaks"]]


def select_features(x: Any) -> list[Any]:
    adata = peaks(x)
    pp.select_features(adata, batch_key="batch", n_top=20)
    return [adata.var[name] for name in ("detection", "detection_min", "detection_score", "selected")]


def shared_representation(x: Any) -> list[Any]:
    other = annotated(counts(N, GENES, 3), [f"g{i}" for i in range(GENES)], "d")
    found = []
    for mods in ({"rna": genes(x), "atac": other}, {"rna": other, "atac": genes(x)}):
        mdata = MuData(mods)
        pp.shared_representation(mdata, n_comps=4)
        found += [mdata["rna"].obsm["X_shared"], mdata["atac"].obsm["X_shared"]]
    return found


def represent(x: Any) -> list[Any]:
    found = []
    for kind in ("counts", "log", "protein", "features"):
        adata = genes(x)
        datasets.represent(adata, kind, n_comps=4, n_top=15)
        found.append(adata.obsm["X_pca"])
    adata = genes(x)
    datasets.represent(adata, "peaks", n_comps=4)
    return [*found, adata.obsm["X_lsi"]]


FUNCTIONS = (
    prepare, lsi, lsi_of_values, iterative_lsi, gene_activity, select_features, shared_representation, represent,
)  # fmt: skip
_EXPECTED: dict[str, list[np.ndarray]] = {}


def dense(values: Any) -> np.ndarray:
    array = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return array.astype(np.float64)


def is_same(found: list[Any], expected: list[np.ndarray]) -> bool:
    return all(
        np.allclose(dense(a), b, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(b).max()))
        for a, b in zip(found, expected, strict=True)
    )


def try_container(call: Callable[[Any], list[Any]], x: Any, kind: str, expected: list[np.ndarray]) -> None:
    """The same answer, or, where this is allowed, a refusal; the entries of the caller's matrix stay as they are."""
    before = x.copy()
    try:
        found = call(x)
    except (ValueError, TypeError, KeyError):
        if kind not in MAY_BE_REFUSED:
            raise
        return
    assert is_same(found, expected)
    if sparse.issparse(x):
        assert np.array_equal(x.data, before.data)
    elif kind not in MAY_BE_REFUSED:
        assert np.array_equal(x, before)


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_preprocessing(function, kind, record_property):
    x = RNA if function in (prepare, shared_representation, represent) else ATAC
    if function.__name__ not in _EXPECTED:
        _EXPECTED[function.__name__] = [dense(values) for values in function(x.copy())]
    container = CONTAINERS[kind](x)
    try_container(function, container, kind, _EXPECTED[function.__name__])
    record_property("tries", 1)


@pytest.fixture(scope="module")
def velocity() -> muport.Velocity:
    dynamics = datasets.simulated_dynamics("bifurcation", n_cells=N, n_dims=4, random_state=1)
    adata = AnnData(RNA.copy(), obs=dynamics.obs.copy(), var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))
    adata.obsm["X_pca"] = dynamics.obsm["X_true"].astype(np.float32)[:, :4]
    muport.Velocity.setup_anndata(adata, time_key="time", labels_key="branch")
    model = muport.Velocity(adata)
    model.train(n_steps=20, accelerator="cpu", progress=False)
    return model


@pytest.mark.promise(SAME)
def test_drivers(velocity, record_property):
    rng = np.random.default_rng(0)
    fates = pd.DataFrame(rng.dirichlet([1, 1], N), index=velocity.adata.obs_names, columns=["A", "B"])

    def drivers(x: Any) -> list[Any]:
        velocity.adata.layers["counts"] = x
        table = velocity.get_drivers(fates, layer="counts").sort_values(["fate", "feature"])
        return [table[["correlation", "p_value", "q_value"]]]

    expected = [dense(values) for values in drivers(RNA.copy())]
    for kind, make in CONTAINERS.items():
        if kind != "COO":
            try_container(drivers, make(RNA), kind, expected)
    record_property("tries", len(CONTAINERS) - 1)


@pytest.mark.promise(SAME)
def test_imputed_values(record_property):
    rng = np.random.default_rng(0)
    rna, atac = genes(RNA.copy()), peaks(ATAC.copy())
    center = rng.normal(size=(3, 5))[np.arange(N) % 3]
    for adata in (rna, atac):
        adata.obsm["X_pca"] = (center + rng.normal(scale=0.3, size=(N, 5))).astype(np.float32)
    mdata = MuData({"rna": rna[: N - 20].copy(), "atac": atac[10:].copy()})
    muport.Integration.setup_mudata(mdata, use_rep={"rna": "X_pca", "atac": "X_pca"})
    model = muport.Integration(mdata)
    model.train(progress=False)

    def impute(x: Any) -> list[Any]:
        mdata["rna"].layers["counts"] = x
        return [model.impute("rna", layer="counts").X]

    part = RNA[: N - 20].copy()
    expected = [dense(values) for values in impute(part.copy())]
    for kind, make in CONTAINERS.items():
        if kind != "COO":
            try_container(impute, make(part), kind, expected)
    record_property("tries", len(CONTAINERS) - 1)
