"""Paired cells as every method sees them, whole or with the pairing of some cells hidden.

A hidden cell becomes two cells, one in each modality, under names that do not tell the partner. What only the scores
may read stands beside, in ``Case``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import mudata as md
import numpy as np
import scipy.sparse as sp
from benchmarks.modalities._unpaired import PROTEIN_GENES, clr, joint_space, log_norm

from muport import datasets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

REP = {"rna": "X_pca", "atac": "X_lsi", "adt": "X_pca"}


@dataclass(frozen=True)
class Case:
    """``mdata``; rows of its cells in the file (``row``) and in which modalities they are (``kind``); their labels.

    Cells come as the paired ones, then the hidden ones' RNA, then in the same order their second modality.
    """

    name: str
    second: str
    mdata: md.MuData
    row: NDArray[np.int64]
    kind: NDArray[np.str_]
    label: NDArray[np.str_]
    batch_key: str | None

    @property
    def use_rep(self) -> dict[str, str]:
        return {"rna": "X_pca", self.second: REP[self.second]}


def _snare() -> tuple[md.MuData, str]:
    mdata = datasets.load("snare_mouse_cortex")
    rna, atac = mdata["rna"], mdata["atac"]
    activity = sp.csr_matrix(atac.X) @ sp.csr_matrix(atac.varm["gene_link"])
    rna.obsm["X_shared"], atac.obsm["X_shared"] = joint_space(log_norm(rna.X), log_norm(activity))
    return mdata, "atac"


def _teaseq() -> tuple[md.MuData, str]:
    mdata = datasets.load("teaseq_rna_adt")
    rna, adt = mdata["rna"], mdata["adt"]
    both = [(p, g) for p, g in PROTEIN_GENES.items() if p in adt.var_names and g in rna.var_names]
    logs = log_norm(rna.X)[:, rna.var_names.get_indexer([g for _, g in both])]
    proteins = clr(adt.X)[:, adt.var_names.get_indexer([p for p, _ in both])]
    rna.obsm["X_shared"], adt.obsm["X_shared"] = joint_space(logs, proteins)
    return mdata, "adt"


PAIRED: dict[str, Callable[[], tuple[md.MuData, str]]] = {"snare_mouse_cortex": _snare, "teaseq_rna_adt": _teaseq}


def _part(adata: ad.AnnData, rows: NDArray[np.int64], names: list[str], batch_key: str | None) -> ad.AnnData:
    out = ad.AnnData(sp.csr_matrix(adata.X, dtype=np.float32)[rows], obsm={k: v[rows] for k, v in adata.obsm.items()})
    out.obs_names, out.var_names = names, adata.var_names
    if batch_key:
        out.obs[batch_key] = adata.obs[batch_key].astype(str).to_numpy()[rows]
    return out


def case(name: str, share: float = 1.0) -> Case:
    """One file with a share of its cells paired; without labels."""
    mdata, second = PAIRED[name]()
    rna, n = mdata["rna"], mdata.n_obs
    batch_key = "batch" if "batch" in rna.obs else None
    hidden = np.sort(np.random.default_rng(0).permutation(n)[: round((1 - share) * n)])
    kept = np.setdiff1d(np.arange(n), hidden)
    rows = np.r_[kept, hidden]
    # a number says nothing of the partner: the second modality's hidden cells are numbered in another order
    number = np.random.default_rng(1).permutation(len(hidden))
    names = {
        m: [f"cell{i}" for i in kept] + [f"{m}{i}" for i in (np.arange(len(hidden)) if m == "rna" else number)]
        for m in ("rna", second)
    }
    parts = {m: _part(mdata[m], rows, names[m], batch_key) for m in ("rna", second)}
    whole = md.MuData(parts)
    row = np.r_[kept, hidden, hidden]
    kind = np.repeat(["both", "rna", second], [len(kept), len(hidden), len(hidden)])
    label = rna.obs["cell_type"].astype(str).to_numpy().astype(str)[row]
    order = whole.obs_names.get_indexer([*names["rna"], *names[second][len(kept) :]])
    assert (order >= 0).all()
    return Case(name, second, whole, row, kind, label, batch_key)


def in_order(found: Case, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of ``mdata.obs`` (n_obs, d) in the order of ``row`` and ``kind``."""
    rna, other = (list(found.mdata[m].obs_names) for m in ("rna", found.second))
    names = [*rna, *other[int((found.kind == "both").sum()) :]]
    return values[found.mdata.obs_names.get_indexer(names)]
