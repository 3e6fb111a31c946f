"""Measured data: one data set of scanpy, and the files of the catalog, read from a folder or downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.datasets._catalog import CATALOG, DatasetInfo, write_table
from muport.datasets._representations import represent
from muport.datasets._stored_files import data_folder, find_file

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    import mudata


#: The seven data sets of the batch integration benchmarks.
BATCH_DATASETS = tuple(CATALOG)[:7]


def names() -> tuple[str, ...]:
    """Return the names of the data sets that :func:`load` reads.

    Examples
    --------
    >>> "snare_mouse_cortex" in names()
    True
    """
    return tuple(CATALOG)


def info(name: str) -> DatasetInfo:
    """Return the source, licence, citation and SHA-256 of a measured data set.

    Raises
    ------
    KeyError
        If there is no data set of that name.

    Examples
    --------
    >>> info("kang_distinct_3donor").citation
    'Kang et al. 2018, Nature Biotechnology 36:89, doi:10.1038/nbt.4042'
    """
    if name not in CATALOG:
        raise KeyError(f"no data set {name!r}; the names are {', '.join(CATALOG)}.")
    return CATALOG[name]


def load(
    name: str, path: str | Path | None = None, base_url: str | None = None, *, representations: bool = True
) -> anndata.AnnData | mudata.MuData:
    """Read a measured data set and add the representation of each modality.

    The file is looked for in `path`, then in the folder of earlier downloads. If it is in neither and an address is
    given, it is downloaded once, and its SHA-256 is checked.

    Parameters
    ----------
    name
        One of :func:`names`.
    path
        Folder of the files; by default the value of the environment variable ``MUPORT_DATA``.
    base_url
        Address of a folder with the files; by default the value of the environment variable ``MUPORT_DATA_URL``. No
        address is built in. Downloads are kept in the cache folder of the user, or in that of ``MUPORT_CACHE``.
    representations
        Whether to add the representations. Without them, cells can be held out before anything is computed from them.

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
        If the file is not there and cannot be downloaded; the message says how to get it.
    ValueError
        If the downloaded file has another SHA-256, which is not kept, or a file cannot be read.

    Notes
    -----
    The files are conversions of published data, which belong to their authors. Cite the article of the data set:

    {table}

    Examples
    --------
    >>> load("pancreas")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    KeyError: "no data set 'pancreas'; the names are ...
    """
    import anndata
    import mudata

    record = info(name)
    location = find_file(record, path, base_url)
    try:
        data: Any = anndata.read_h5ad(location) if location.suffix == ".h5ad" else mudata.read_h5mu(location)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(location)!r} cannot be read ({error}): replace it by the file of SHA-256 {record.sha256}."
        ) from error
    for modality, kind in record.kinds.items():
        adata = data if modality == "" else data.mod[modality]
        if representations:
            represent(adata, kind)
        for column, source in (("batch", record.batch), ("cell_type", record.labels)):
            if source is not None and source in adata.obs and source != column:
                adata.obs[column] = adata.obs[source]
    return data


# The table of licences and citations stands in the catalog alone.
load.__doc__ = (load.__doc__ or "").replace("    {table}", write_table())


def available(path: str | Path | None = None) -> tuple[str, ...]:
    """Return the names of the data sets in the folder; none if no folder is given."""
    folder = data_folder(path)
    return () if folder is None else tuple(name for name, item in CATALOG.items() if (folder / item.file).is_file())


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
