"""The data of the demonstration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd

from muport import datasets, pp
from muport._keys import DATA_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata

_TRANSFER_DATASETS = ("snare_mouse_cortex",)
#: Distance between the two batches of the simulated process, in units of the representation. The process spans 12.
_BATCH_SHIFT = 6.0
#: Larger data sets are subsampled to this number of cells per modality, so that the demonstration takes seconds.
_MAX_CELLS = 4_000


@dataclass(frozen=True)
class Example:
    """One data set of the demonstration.

    - `name`: Name of the data set and of the files written.
    - `mdata`: Cells with representations and a column ``batch``; ``cell_type`` where the types are known to the model.
    - `true_types`: True types of the ATAC cells by cell name, which the model does not see.
    - `partner`: Name of the RNA cell that was measured together with each ATAC cell, which the model does not see.
    """

    name: str
    mdata: mudata.MuData
    true_types: pd.Series | None = None
    partner: pd.Series | None = None


def batch_examples(seed: int) -> Iterator[Example]:
    """Yield data sets of one modality and several batches."""
    if os.environ.get(DATA_VARIABLE):
        for name in _available(datasets.BATCH_DATASETS):
            cells = datasets.load(name)
            rows = np.random.default_rng(seed).permutation(cells.n_obs)[:_MAX_CELLS]
            yield Example(name, mudata.MuData({"cells": cells[np.sort(rows)].copy()}))
        return
    rna = datasets.simulated_multiome(random_state=seed)["rna"]
    datasets.represent(rna, "counts", n_comps=30, random_state=seed)
    yield Example("simulated_rna", mudata.MuData({"rna": rna}))
    yield Example("pbmc68k_reduced", mudata.MuData({"rna": datasets.pbmc68k_reduced()}))


def transfer_examples(seed: int) -> Iterator[Example]:
    """Yield RNA and ATAC cells as unpaired cells, with cell types for RNA only."""
    if os.environ.get(DATA_VARIABLE):
        for name in _available(_TRANSFER_DATASETS):
            mdata = datasets.load(name)
            yield hide_pairing(name, mdata["rna"], mdata["atac"][mdata["rna"].obs_names], seed)
        return
    mdata = datasets.simulated_multiome(random_state=seed)
    rna, atac = (mdata[name][np.argsort(mdata[name].obs["pair_id"])].copy() for name in ("rna", "atac"))
    datasets.represent(rna, "counts", n_comps=30, random_state=seed)
    datasets.represent(atac, "peaks", n_comps=30, random_state=seed)
    yield hide_pairing("simulated_multiome", rna, atac, seed)


def velocity_examples(seed: int) -> Iterator[Example]:
    """Yield a simulated process with two branches and two batches, one of which is shifted."""
    cells = datasets.simulated_dynamics("bifurcation", n_cells=1000, n_batches=2, random_state=seed)
    shift = np.random.default_rng(seed).normal(size=cells.n_vars)
    shift *= _BATCH_SHIFT / np.linalg.norm(shift)
    shifted = (cells.obs["batch"] == "batch1").to_numpy()
    cells.obsm["X_pca"] = (np.asarray(cells.obsm["X_pca"]) + np.outer(shifted, shift)).astype(np.float32)
    cells.obs["cell_type"] = cells.obs["branch"].astype(str)
    yield Example("simulated_dynamics", mudata.MuData({"cells": cells}))


def hide_pairing(name: str, rna: anndata.AnnData, atac: anndata.AnnData, seed: int) -> Example:
    """Make an example of paired cells: ATAC cells get new names and a random order, and lose their types."""
    rows = np.random.default_rng(seed).permutation(rna.n_obs)[:_MAX_CELLS]
    rna, atac = rna[np.sort(rows)].copy(), atac[rows].copy()
    rna.obs_names = [f"rna_{i:05d}" for i in np.sort(rows)]
    atac.obs_names = [f"atac_{i:05d}" for i in range(len(rows))]
    true_types = atac.obs["cell_type"].astype(str)
    partner = pd.Series([f"rna_{i:05d}" for i in rows], index=atac.obs_names)
    atac.obs, rna.obs = atac.obs[["batch"]], rna.obs[["batch", "cell_type"]]
    mdata = mudata.MuData({"rna": rna, "atac": atac})
    mdata.obs["modality"] = np.where(mdata.obs_names.isin(rna.obs_names), "RNA", "ATAC")
    pp.shared_representation(mdata, random_state=seed)
    return Example(name, mdata, true_types, partner)


def check_data_folder() -> None:
    """Raise a FileNotFoundError if ``MUPORT_DATA`` names a folder without data for the demonstration."""
    folder = os.environ.get(DATA_VARIABLE)
    names = (*datasets.BATCH_DATASETS, *_TRANSFER_DATASETS)
    if folder and not _available(names):
        raise FileNotFoundError(
            f"{DATA_VARIABLE}={folder!r} holds none of {', '.join(names)} (.h5ad, .h5mu): correct it, or unset it to "
            "run on the embedded data."
        )


def _available(names: tuple[str, ...]) -> list[str]:
    present = datasets.available()
    return [name for name in names if name in present]
