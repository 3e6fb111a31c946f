"""Measured data: scanpy's own, and the files of the folder that MUPORT_DATA names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import DATA_VARIABLE
from muport.datasets._representations import Kind, represent

if TYPE_CHECKING:
    import anndata
    import mudata


@dataclass(frozen=True)
class _Entry:
    """A file: what its modalities hold, and the columns that serve as batch and cell type."""

    suffix: str
    kinds: dict[str, Kind]
    batch: str | None = "batch"
    labels: str | None = "cell_type"


def _single(kind: Kind, batch: str | None = "batch", labels: str | None = "cell_type") -> _Entry:
    return _Entry(".h5ad", {"": kind}, batch, labels)


_CATALOGUE = {
    "cellbench_3cl_3tech": _single("counts"),
    "cellbench_5cl_3plates": _single("counts"),
    "pancreas_wang_xin_scclassify": _single("log"),
    "hsc_young_old_unioncom": _single("log"),
    "mesc_scmerge": _single("counts"),
    "kang_distinct_3donor": _single("counts", batch="donor"),
    "asap_pbmc_protein_4batch": _single("protein"),
    "snare_mouse_cortex": _Entry(".h5mu", {"rna": "counts", "atac": "peaks"}),
    "snare_celllines_scot": _Entry(".h5mu", {"rna": "features", "atac": "features"}, batch=None),
    "bmmc_unpaired_liger": _Entry(".h5mu", {"rna": "counts", "atac": "peaks"}, batch=None),
    "scnmt_features_pamona": _Entry(".h5mu", {"rna": "features", "met": "features", "acc": "features"}, None, "stage"),
    "teaseq_rna_adt": _Entry(".h5mu", {"rna": "counts", "adt": "protein"}, batch=None),
    "pancreas_velocity_739": _single("counts", None, "clusters"),
    "larry_cospar_781": _single("log", None, "state_info"),
    "arabidopsis_root_10k": _single("log", None, "celltype.anno"),
    "paul15_tradeseq": _single("counts", None),
    "covid_gloscope_20samples_pcs": _single("features", "sample"),
    "melanoma_scfeatures_550": _single("log", "patient", "cellTypes"),
}

#: The seven files on which batch integration is measured.
BATCH_DATASETS = tuple(_CATALOGUE)[:7]


def names() -> tuple[str, ...]:
    """Return the names that :func:`load` knows.

    Examples
    --------
    >>> "snare_mouse_cortex" in names()
    True
    """
    return tuple(_CATALOGUE)


def load(name: str, path: str | Path | None = None) -> anndata.AnnData | mudata.MuData:
    """Read a measured data set and add its usual representations.

    Parameters
    ----------
    name
        One of :func:`names`.
    path
        Folder of the files; by default the one that the environment variable ``MUPORT_DATA`` names.

    Returns
    -------
    AnnData or MuData with ``X`` as it is in the file, ``obsm["X_pca"]`` in each modality (``"X_lsi"`` for peaks;
    recipe: 2,000 variable genes, 50 components at most), and ``obs`` columns ``batch`` and ``cell_type`` where the data
    have them. In the kang data the batch is the donor, in the covid data the sample, in the melanoma data the patient.

    Raises
    ------
    KeyError
        If there is no such data set; lists the names.
    FileNotFoundError
        If the folder is not given or lacks the file.

    Examples
    --------
    >>> load("pancreas")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    KeyError: "no data set 'pancreas'; the names are ...
    """
    import anndata
    import mudata

    if name not in _CATALOGUE:
        raise KeyError(f"no data set {name!r}; the names are {', '.join(_CATALOGUE)}.")
    entry = _CATALOGUE[name]
    file = _folder(path) / f"{name}{entry.suffix}"
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is not in {str(file.parent)!r}: set {DATA_VARIABLE} to its folder.")
    data: Any = anndata.read_h5ad(file) if entry.suffix == ".h5ad" else mudata.read_h5mu(file)
    for modality, kind in entry.kinds.items():
        adata = data if modality == "" else data.mod[modality]
        represent(adata, kind)
        for column, source in (("batch", entry.batch), ("cell_type", entry.labels)):
            if source is not None and source in adata.obs and source != column:
                adata.obs[column] = adata.obs[source]
    return data


def available(path: str | Path | None = None) -> tuple[str, ...]:
    """Return the names whose files are in the folder; none if no folder is given."""
    try:
        folder = _folder(path)
    except FileNotFoundError:
        return ()
    return tuple(name for name, entry in _CATALOGUE.items() if (folder / f"{name}{entry.suffix}").is_file())


def _folder(path: str | Path | None) -> Path:
    if path is None and not os.environ.get(DATA_VARIABLE):
        raise FileNotFoundError(f"no folder of data: pass path, or set {DATA_VARIABLE}.")
    return Path(path or os.environ[DATA_VARIABLE])


def pbmc68k_reduced() -> anndata.AnnData:
    """Return scanpy's 700 measured blood cells, ready for a first integration.

    The cells come from one donor. Their cell-cycle phase stands in for a batch: it is real and moves cells of every
    type.

    Returns
    -------
    AnnData, 700 x 765 scaled log expression, ``obsm["X_pca"]`` (50), ``obs["batch"]`` (G1, S, G2M) and
    ``obs["cell_type"]`` (10 types).

    Examples
    --------
    >>> pbmc68k_reduced().obs["batch"].nunique()
    3
    """
    import scanpy as sc

    adata: anndata.AnnData = sc.datasets.pbmc68k_reduced()
    adata.obs["batch"], adata.obs["cell_type"] = adata.obs["phase"], adata.obs["bulk_labels"]
    adata.obsm["X_pca"] = np.asarray(adata.obsm["X_pca"], dtype=np.float32)
    return adata
