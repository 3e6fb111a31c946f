"""Measured data: one data set of scanpy, and the files in the folder of the environment variable MUPORT_DATA."""

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
class _File:
    """A file: the kind of values in each modality, and the columns with the batch and the cell type."""

    suffix: str
    kinds: dict[str, Kind]
    batch: str | None = "batch"
    labels: str | None = "cell_type"


def _h5ad(kind: Kind, batch: str | None = "batch", labels: str | None = "cell_type") -> _File:
    return _File(".h5ad", {"": kind}, batch, labels)


_CATALOG = {
    "cellbench_3cl_3tech": _h5ad("counts"),
    "cellbench_5cl_3plates": _h5ad("counts"),
    "pancreas_wang_xin_scclassify": _h5ad("log"),
    "hsc_young_old_unioncom": _h5ad("log"),
    "mesc_scmerge": _h5ad("counts"),
    "kang_distinct_3donor": _h5ad("counts", batch="donor"),
    "asap_pbmc_protein_4batch": _h5ad("protein"),
    "snare_mouse_cortex": _File(".h5mu", {"rna": "counts", "atac": "peaks"}),
    "snare_celllines_scot": _File(".h5mu", {"rna": "features", "atac": "features"}, batch=None),
    "bmmc_unpaired_liger": _File(".h5mu", {"rna": "counts", "atac": "peaks"}, batch=None),
    "scnmt_features_pamona": _File(".h5mu", {"rna": "features", "met": "features", "acc": "features"}, None, "stage"),
    "teaseq_rna_adt": _File(".h5mu", {"rna": "counts", "adt": "protein"}, batch=None),
    "pancreas_velocity_739": _h5ad("counts", None, "clusters"),
    "larry_cospar_781": _h5ad("log", None, "state_info"),
    "arabidopsis_root_10k": _h5ad("log", None, "celltype.anno"),
    "paul15_tradeseq": _h5ad("counts", None),
    "covid_gloscope_20samples_pcs": _h5ad("features", "sample"),
    "melanoma_scfeatures_550": _h5ad("log", "patient", "cellTypes"),
    "mesc_pre_5times_scode": _h5ad("log", None, None),
    "mef_neuron_5times_scode": _h5ad("log", None, None),
    "dyngen_5times": _h5ad("features", None, None),
    "gene_circuit_5times": _h5ad("features", None, None),
    "mouse_hematopoiesis_2d_3times": _h5ad("features", None, None),
}

#: The seven data sets of the batch integration benchmarks.
BATCH_DATASETS = tuple(_CATALOG)[:7]


def names() -> tuple[str, ...]:
    """Return the names of the data sets that :func:`load` reads.

    Examples
    --------
    >>> "snare_mouse_cortex" in names()
    True
    """
    return tuple(_CATALOG)


def load(name: str, path: str | Path | None = None) -> anndata.AnnData | mudata.MuData:
    """Read a measured data set and add the representation of each modality.

    Parameters
    ----------
    name
        One of :func:`names`.
    path
        Folder of the files; by default the value of the environment variable ``MUPORT_DATA``.

    Returns
    -------
    AnnData or MuData with ``X`` as in the file, ``obsm["X_pca"]`` in each modality (``"X_lsi"`` for peaks) of
    :func:`represent` (2,000 variable genes, at most 50 components), and the ``obs`` columns ``batch`` and ``cell_type``
    if the data have them. The batch is the donor in the kang data, the sample in the covid data and the patient in the
    melanoma data.

    Raises
    ------
    KeyError
        If there is no data set of that name.
    FileNotFoundError
        If the folder is not given or does not contain the file.

    Examples
    --------
    >>> load("pancreas")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    KeyError: "no data set 'pancreas'; the names are ...
    """
    import anndata
    import mudata

    if name not in _CATALOG:
        raise KeyError(f"no data set {name!r}; the names are {', '.join(_CATALOG)}.")
    file = _CATALOG[name]
    location = _folder(path) / f"{name}{file.suffix}"
    if not location.is_file():
        raise FileNotFoundError(
            f"{location.name} is not in {str(location.parent)!r}: set {DATA_VARIABLE} to its folder."
        )
    data: Any = anndata.read_h5ad(location) if file.suffix == ".h5ad" else mudata.read_h5mu(location)
    for modality, kind in file.kinds.items():
        adata = data if modality == "" else data.mod[modality]
        represent(adata, kind)
        for column, source in (("batch", file.batch), ("cell_type", file.labels)):
            if source is not None and source in adata.obs and source != column:
                adata.obs[column] = adata.obs[source]
    return data


def available(path: str | Path | None = None) -> tuple[str, ...]:
    """Return the names of the data sets in the folder; none if no folder is given."""
    try:
        folder = _folder(path)
    except FileNotFoundError:
        return ()
    return tuple(name for name, file in _CATALOG.items() if (folder / f"{name}{file.suffix}").is_file())


def _folder(path: str | Path | None) -> Path:
    if path is None and not os.environ.get(DATA_VARIABLE):
        raise FileNotFoundError(f"no folder of data: give path, or set {DATA_VARIABLE}.")
    return Path(path or os.environ[DATA_VARIABLE])


def pbmc68k_reduced() -> anndata.AnnData:
    """Return the 700 measured blood cells of scanpy, prepared for an integration.

    The cells come from one donor. Their cell-cycle phase serves as the batch, because it shifts the expression of
    cells of every type.

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
