"""Pseudobulk: the counts of the cells of each sample, or of each sample and type, added up for a test of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_integers
from muport.data import accept_data_names, check_cells, joined_column
from muport.data.reading._count_matrix import get_counts, iterate_blocks
from muport.pp._counts import get_modality, logger

if TYPE_CHECKING:
    from numpy.typing import NDArray


@accept_data_names
def to_pseudobulk(
    data: anndata.AnnData | mudata.MuData,
    sample_key: str,
    groups_key: str | None = None,
    layer: str | None = None,
    min_cells: int = 10,
    *,
    modality: str | None = None,
) -> anndata.AnnData:
    """Add up the counts of the cells of each sample, or of each sample and type.

    Samples, not cells, are the replicates of a test between conditions. Pass raw counts: do not test corrected or
    imputed values, which depend on all cells and on the integration. Differences between batches are accounted for by
    a test that has the batch as a covariate, for example ``design="~ batch + condition"`` of pydeseq2. Types may come
    from the integration, for example from :meth:`muport.Integration.predict`: that choice does not use the condition.

    Memory: the result, and a few thousand cells at a time. The sums are exact.

    Parameters
    ----------
    data
        AnnData with counts, or MuData with such a `modality`.
    sample_key
        Column with the sample of each cell: the units that were drawn independently, such as donors. If a donor was
        measured in two conditions, use a column of both.
    groups_key
        Column with the type of each cell. Cells without a type are left out. None: all cells of a sample are added up.
    layer
        Layer with the counts. None: ``X``.
    min_cells
        Rows of fewer cells are left out.
    modality
        Modality of a MuData; ``"rna"`` by default.

    Returns
    -------
    AnnData with one row for each sample (and type), named ``"sample"`` or ``"sample_type"``, in alphabetical order.
    ``X`` has the sums (dense, int64), and ``obs`` the columns `sample_key`, `groups_key`, ``n_cells``, and all columns
    of the cells that have one value in each row, such as the condition or the batch. ``var`` is that of the cells.

    Raises
    ------
    KeyError
        If the modality, the layer or a column does not exist, or a modality of an AnnData is named.
    ValueError
        If values are not counts, a cell has no sample, `min_cells` is not a positive integer, no row has enough cells,
        or two rows would have the same name.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.ones((60, 3), dtype="float32"))
    >>> adata.obs["donor"] = ["a", "b", "c"] * 20
    >>> adata.obs["condition"] = ["ctrl", "stim", "stim"] * 20
    >>> sums = muport.pp.to_pseudobulk(adata, "donor")
    >>> sums.obs["condition"].tolist(), sums.X[0].tolist()
    (['ctrl', 'stim', 'stim'], [20, 20, 20])
    """
    check_integers(min_cells=min_cells)
    check_cells(data)
    adata = find_counts(data, modality)
    if not adata.obs_names.is_unique:
        repeated = adata.obs_names[adata.obs_names.duplicated()][0]
        raise ValueError(f"several cells have the name {repeated!r}: call obs_names_make_unique().")
    table = _read_keys(data, adata, sample_key, groups_key)
    keys = list(table.columns)
    rows = table.dropna().groupby(keys, observed=True, sort=True).size().rename("n_cells").reset_index()
    n_rows, rows = len(rows), rows[rows["n_cells"] >= min_cells].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"no row of {keys} has min_cells={min_cells} cells: choose fewer, or coarser types.")
    if n_rows > len(rows):
        logger.info("to_pseudobulk: %d of %d rows have fewer than %d cells.", n_rows - len(rows), n_rows, min_cells)
    rows.index = pd.Index(rows[keys].astype(str).agg("_".join, axis=1))
    if not rows.index.is_unique:
        repeated = rows.index[rows.index.duplicated()][0]
        raise ValueError(f"two rows would have the name {repeated!r}: rename the categories of {keys}.")
    position = pd.MultiIndex.from_frame(rows[keys]) if len(keys) > 1 else pd.Index(rows[keys[0]])
    cells = pd.MultiIndex.from_frame(table) if len(keys) > 1 else pd.Index(table[keys[0]])
    row_of_cell = position.get_indexer(cells).astype(np.int64)
    sums = _sum_rows(get_counts(adata, layer, (1, 1)), row_of_cell, len(rows))
    obs = rows.join(_find_constant(data, adata, row_of_cell, rows.index, keys))
    return anndata.AnnData(sums, obs=obs, var=adata.var.copy())


def find_counts(data: anndata.AnnData | mudata.MuData, modality: str | None) -> anndata.AnnData:
    """Return an AnnData itself, which has no modality to name, or a modality of a MuData: RNA by default."""
    if isinstance(data, mudata.MuData):
        return get_modality(data, "rna" if modality is None else modality)
    if modality is not None:
        raise KeyError(f"modality={modality!r}: the data are an AnnData, which has no modalities; leave it out.")
    return data


def _read_keys(
    data: anndata.AnnData | mudata.MuData, adata: anndata.AnnData, sample_key: str, groups_key: str | None
) -> pd.DataFrame:
    """Return the sample and the type of the cells of a modality, as categories; a missing type is missing."""
    table = pd.DataFrame(index=data.obs_names)
    for argument, key in (("sample_key", sample_key), ("groups_key", groups_key)):
        if key is None:
            continue
        column = joined_column(data, key, argument)
        table[key] = pd.Categorical.from_codes(column.codes, list(column.names))
    table = table.loc[adata.obs_names]
    lacking = table.index[table[sample_key].isna()]
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} cells have no {sample_key!r}, for example {list(lacking[:3])}: fill it in, or leave the "
            "cells out."
        )
    return table


def _sum_rows(counts: Any, row_of_cell: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Add up the counts of the cells of each row; a cell in row -1 is left out."""
    sums = np.zeros((n_rows, counts.shape[1]), np.float64)
    for span, block in iterate_blocks(counts):
        cell = np.flatnonzero(row_of_cell[span] >= 0)
        entries = (np.ones(len(cell)), (row_of_cell[span][cell], cell))
        sums += sparse.csr_array(entries, shape=(n_rows, block.shape[0])) @ block
    return sums.astype(np.int64)


def _find_constant(
    data: anndata.AnnData | mudata.MuData,
    adata: anndata.AnnData,
    row_of_cell: NDArray[np.int64],
    names: pd.Index,
    keys: list[str],
) -> pd.DataFrame:
    """Return the columns of the cells that have one value, which may be missing, in each row."""
    columns = {str(name): values for name, values in adata.obs.items()}
    if data is not adata:
        columns = {str(name): values.reindex(adata.obs_names) for name, values in data.obs.items()} | columns
    used = np.flatnonzero(row_of_cell >= 0)
    first = used[np.unique(row_of_cell[used], return_index=True)[1]]
    constant = pd.DataFrame(index=names)
    for name, values in columns.items():
        if name in (*keys, "n_cells") or name.startswith("_scvi_"):
            continue
        codes = pd.factorize(values)[0]
        if np.array_equal(codes[used], codes[first][row_of_cell[used]]):
            constant[name] = values.iloc[first].to_numpy() if values.dtype != "category" else values.iloc[first].array
    return constant
