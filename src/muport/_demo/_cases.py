"""The data that the demonstration runs on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mudata
import numpy as np

from muport import datasets
from muport._demo._prepare import add_shared_space
from muport._keys import DATA_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    import pandas as pd

_TRANSFER_FILES = ("snare_mouse_cortex",)
_BATCH_SHIFT = 6.0  # of the second batch; the process runs through 12
_MOST_CELLS = 4_000  # of a modality: a demonstration is not a benchmark


@dataclass(frozen=True)
class BatchCase:
    """Cells of one modality, several batches.

    Attributes
    ----------
    name
        Name of the data, and of the files written.
    mdata
        One modality with ``obsm["X_pca"]`` and ``obs`` columns ``batch`` and ``cell_type``.
    rare_type
        A type to watch, where the data have one.
    """

    name: str
    mdata: mudata.MuData
    rare_type: str | None = None


@dataclass(frozen=True)
class TransferCase:
    """Unpaired RNA and ATAC cells: types known in RNA only.

    Attributes
    ----------
    name
        Name of the data, and of the files written.
    mdata
        Modalities ``rna`` (with ``cell_type``) and ``atac`` (without), both with ``obsm["X_shared"]``.
    truth
        True types of the ATAC cells, by name; the model does not see them.
    partner
        Name of the RNA cell that is the same cell, by ATAC cell; the model does not see it.
    """

    name: str
    mdata: mudata.MuData
    truth: pd.Series
    partner: pd.Series


def batch_cases(seed: int) -> Iterator[BatchCase]:
    """Yield the data of the first part: real files where there are any, else the embedded ones."""
    if os.environ.get(DATA_VARIABLE):
        for name in _present(datasets.BATCH_DATASETS):
            yield BatchCase(name, mudata.MuData({"cells": _sample(datasets.load(name), seed)}))
        return
    mdata = datasets.simulated_multiome(random_state=seed)
    rna = mdata["rna"]
    datasets.represent(rna, "counts", n_comps=30, random_state=seed)
    yield BatchCase("simulated_rna", mudata.MuData({"rna": rna}), str(mdata.uns["simulation"]["rare_type"]))
    yield BatchCase("pbmc68k_reduced", mudata.MuData({"rna": datasets.pbmc68k_reduced()}))


def transfer_cases(seed: int) -> Iterator[TransferCase]:
    """Yield the data of the second part, with the pairing hidden."""
    if os.environ.get(DATA_VARIABLE):
        for name in _present(_TRANSFER_FILES):
            mdata = datasets.load(name)
            yield hide_pairing(name, mdata["rna"], mdata["atac"][mdata["rna"].obs_names], seed)
        return
    mdata = datasets.simulated_multiome(random_state=seed)
    rna, atac = (mdata[name][np.argsort(mdata[name].obs["pair_id"])].copy() for name in ("rna", "atac"))
    datasets.represent(rna, "counts", n_comps=30, random_state=seed)
    datasets.represent(atac, "peaks", n_comps=30, random_state=seed)
    yield hide_pairing("simulated_multiome", rna, atac, seed)


def velocity_cases(seed: int) -> Iterator[BatchCase]:
    """Yield the data of the third part: a simulated process of two branches, in two batches one of which lies aside."""
    cells = datasets.simulated_dynamics("bifurcation", n_cells=2000, n_batches=2, random_state=seed)
    aside = np.random.default_rng(seed).normal(size=cells.n_vars)
    aside *= _BATCH_SHIFT / np.linalg.norm(aside)
    second = (cells.obs["batch"] == "batch1").to_numpy()
    cells.obsm["X_pca"] = (np.asarray(cells.obsm["X_pca"]) + np.outer(second, aside)).astype(np.float32)
    cells.obs["cell_type"] = cells.obs["branch"].astype(str)
    yield BatchCase("simulated_dynamics", mudata.MuData({"cells": cells}))


def hide_pairing(name: str, rna: anndata.AnnData, atac: anndata.AnnData, seed: int) -> TransferCase:
    """Make one case of RNA and ATAC whose rows are the same cells.

    ATAC cells get names and an order of their own, and lose their types.
    """
    rows = np.random.default_rng(seed).permutation(rna.n_obs)[:_MOST_CELLS]
    rna, atac = rna[np.sort(rows)].copy(), atac[rows].copy()
    rna.obs_names = [f"rna_{i:05d}" for i in np.sort(rows)]
    atac.obs_names = [f"atac_{i:05d}" for i in range(len(rows))]
    truth = atac.obs["cell_type"].astype(str)
    partner = truth.copy()
    partner[:] = [f"rna_{i:05d}" for i in rows]
    atac.obs = atac.obs[["batch"]]
    rna.obs = rna.obs[["batch", "cell_type"]]
    mdata = mudata.MuData({"rna": rna, "atac": atac})
    add_shared_space(mdata)
    return TransferCase(name, mdata, truth, partner)


def _sample(adata: anndata.AnnData, seed: int) -> anndata.AnnData:
    if adata.n_obs <= _MOST_CELLS:
        return adata
    rows = np.random.default_rng(seed).choice(adata.n_obs, _MOST_CELLS, replace=False)
    return adata[np.sort(rows)].copy()


def _present(wanted: tuple[str, ...]) -> list[str]:
    found = datasets.available()
    return [name for name in wanted if name in found]


def check_data() -> None:
    """Refuse a folder of data that holds nothing the demonstration can use."""
    folder = os.environ.get(DATA_VARIABLE)
    wanted = (*datasets.BATCH_DATASETS, *_TRANSFER_FILES)
    if folder and not _present(wanted):
        raise FileNotFoundError(
            f"{DATA_VARIABLE}={folder!r} holds none of {', '.join(wanted)} (.h5ad, .h5mu): correct it, or unset it to "
            "run on the embedded data."
        )
