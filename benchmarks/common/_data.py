"""The cells the benchmarks run on: real ones by the recipe of ``muport.datasets``, and synthetic ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport import datasets

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

BATCH_FILES = {
    "cellbench_3cl": "cellbench_3cl_3tech",
    "cellbench_5cl": "cellbench_5cl_3plates",
    "pancreas_wang_xin": "pancreas_wang_xin_scclassify",
    "hsc": "hsc_young_old_unioncom",
    "mesc": "mesc_scmerge",
    "kang": "kang_distinct_3donor",
    "asap": "asap_pbmc_protein_4batch",
}
N_VARIABLE = 2_000
KIND = {"pancreas_wang_xin": "log", "hsc": "log", "asap": "protein"}


@dataclass(frozen=True)
class Cells:
    """``X`` (n, d) float32, ``batch`` and ``label`` (n,) of str.

    ``log`` (n, g): the log values of which ``X`` are the principal components; ``counts`` (n, g): of the same features.
    """

    name: str
    X: NDArray[np.float32]
    batch: NDArray[np.str_]
    label: NDArray[np.str_]
    log: NDArray[np.float32] | None = None
    counts: NDArray[np.float32] | None = None

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Cells:
        return Cells(self.name, np.ascontiguousarray(self.X[rows]), self.batch[rows], self.label[rows])


def _cells(name: str, adata: anndata.AnnData, batch: str) -> Cells:
    def column(key: str) -> NDArray[np.str_]:
        return adata.obs[key].astype(str).to_numpy().astype(str)

    X = np.ascontiguousarray(adata.obsm["X_pca"], dtype=np.float32)
    return Cells(name, X, column(batch), column("cell_type"))


def load_cells(name: str, *, features: bool = False) -> Cells:
    """One of ``BATCH_FILES`` with its real batches, and the values of its features if asked for."""
    adata = datasets.load(BATCH_FILES[name])
    cells = _cells(name, adata, "batch")
    return replace(cells, **_feature_values(adata, KIND.get(name, "counts"))) if features else cells


def _feature_values(adata: anndata.AnnData, kind: str) -> dict[str, NDArray[np.float32]]:
    """The log values of at most 2,000 variable features by the recipe of ``datasets.represent``, and RNA's counts."""
    import scanpy as sc

    log = adata.copy()
    if kind == "protein":
        values = np.log1p(_dense(log))
        return {"log": values - values.mean(1, keepdims=True)}
    if kind == "counts":
        sc.pp.normalize_total(log)
        sc.pp.log1p(log)
    if log.n_vars > N_VARIABLE:
        sc.pp.highly_variable_genes(log, n_top_genes=N_VARIABLE, subset=True)
    counts = {"counts": _dense(adata[:, log.var_names])} if kind == "counts" else {}
    return {"log": _dense(log)} | counts


def _dense(adata: anndata.AnnData) -> NDArray[np.float32]:
    return np.asarray(adata.to_df().to_numpy(), np.float32)


def largest_batch(name: str) -> Cells:
    """The cells of one real batch alone (kang: one donor in one condition), represented anew."""
    adata = datasets.load(BATCH_FILES[name])
    group = adata.obs["sample_id" if name == "kang" else "batch"]
    one = adata[(group == group.value_counts().idxmax()).to_numpy()].copy()
    del one.obsm["X_pca"]
    datasets.represent(one, KIND.get(name, "counts"))
    return _cells(name, one, "batch")


def synthetic(n_cells: int, n_batches: int, n_dims: int = 50, n_types: int = 12, seed: int = 0) -> Cells:
    """Gaussian types in unequal shares, each batch shifted as a whole and type by type."""
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(n_dims))
    types = rng.normal(size=(n_types, n_dims)) * spread * 4
    shift = rng.normal(size=(n_batches, 1, n_dims)) + 0.3 * rng.normal(size=(n_batches, n_types, n_dims))
    batch = np.sort(rng.integers(n_batches, size=n_cells))
    share = rng.dirichlet(np.full(n_types, 2.0), size=n_batches)
    label = (rng.random(n_cells)[:, None] > share.cumsum(1)[batch]).sum(1).clip(max=n_types - 1)
    noise = rng.normal(size=(n_cells, n_dims)) * spread
    X = types[label] + shift[batch, label] * spread + noise
    names = np.char.mod("batch%03d", batch), np.char.mod("type%02d", label)
    return Cells(f"synthetic_{n_cells}_{n_batches}", X.astype(np.float32), *names)
