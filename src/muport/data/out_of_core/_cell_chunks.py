"""Cells read a chunk of rows at a time, from memory, a file or a lazy array."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._arrays import unit_rows
from muport._checks import check_option
from muport._keys import UNLABELED_CATEGORY
from muport.data.out_of_core._coded_columns import (
    CodedColumn,
    ObsTable,
    cross_coded_columns,
    obs_in_memory,
    obs_on_disk,
    select_column,
)
from muport.data.out_of_core._disk_arrays import OnDisk, Window, choose_modality, open_root
from muport.data.out_of_core._number_columns import NumberColumns, open_numbers
from muport.data.reading._representation import count_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

__all__ = ["CellChunks", "open_chunks"]


@dataclass(frozen=True, eq=False)
class CellChunks:
    """Representation and columns of cells, read by rows. It can be pickled for another process.

    - `values`: (n, d) numbers that are sliced by rows.
    - `name`: How messages call the values.
    - `shape`: (n, d).
    - `step`: Rows that the source stores together.
    - `batch`, `label`: Columns; the label may be None.
    - `path`: The file; None for an object.
    - `modality`: Name of the modality, for a MuData; None for an AnnData.
    - `unit`: Whether rows are scaled to norm 1, which removes the sequencing depth from a latent semantic index.
    - `names`: Reads the names of the cells, by first and last row; not in another process.
    - `covariates`: Continuous covariates; None without.
    """

    values: Any
    name: str
    shape: tuple[int, int]
    step: int
    batch: CodedColumn
    label: CodedColumn | None = None
    path: str | None = None
    modality: str | None = None
    unit: bool = False
    names: Callable[[int, int], NDArray[Any]] | None = None
    covariates: NumberColumns | None = None

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows as (stop - start, d) float32."""
        try:
            block = self.values[start:stop]
            block = block.toarray() if hasattr(block, "toarray") else block
            block = block.compute(scheduler="synchronous") if hasattr(block, "dask") else block
            with np.errstate(over="ignore"):
                rows = np.ascontiguousarray(block, dtype=np.float32)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise OSError(f"{self.name}: rows {start} to {stop} cannot be read, they are damaged: {error}") from error
        if rows.shape != (stop - start, self.shape[1]):
            raise OSError(f"{self.name}: rows {start} to {stop} are damaged: {rows.shape} values were read.")
        # values are finite where their sum is, and a sum needs no temporary array
        if not np.isfinite(rows.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.name} holds NaN or Inf in float32, first in row {start + int(bad[0])}: leave such cells "
                    "out or impute the values."
                )
        return unit_rows(rows) if self.unit else rows

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) batches."""
        return self.batch.codes(start, stop)

    def read_covariates(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """(stop - start, J) continuous covariates; None without."""
        return None if self.covariates is None else self.covariates.read(start, stop)

    def window(self, start: int, stop: int) -> CellChunks:
        """Return what another process needs to read these rows: a file, or the rows themselves."""
        if isinstance(self.values, OnDisk) or hasattr(self.values, "dask"):
            values = self.values
        else:
            values = Window(self.values[start:stop], start)
        covariates = None if self.covariates is None else self.covariates.window(start, stop)
        batch = self.batch.window(start, stop)
        return replace(self, values=values, batch=batch, label=None, names=None, covariates=covariates)


def open_chunks(
    data: anndata.AnnData | mudata.MuData | str | Path,
    obsm_key: str,
    batch_key: str | Sequence[str],
    label_key: str | None = None,
    unlabeled_category: Any = UNLABELED_CATEGORY,
    modality: str = "auto",
    covariate_keys: Sequence[str] | None = None,
) -> CellChunks:
    """Check the arguments and open the cells; no row of the representation is read.

    - `data`: AnnData (in memory, backed or lazy), MuData, or a path or URL of ``.h5ad``, ``.h5mu`` or ``.zarr``.
    - `obsm_key`: Key of the representation.
    - `batch_key`, `label_key`, `covariate_keys`: Columns of the cells; of several batch columns the combinations are
      read. They are found as in the models: the obs of a MuData comes first, that of
      the modality fills gaps.
    - `unlabeled_category`: Value of `label_key` that means "not known", as does a missing value.
    - `modality`: Name of a modality of a MuData. For an AnnData ``"rna"`` or ``"atac"``. ``"auto"``: the only modality
      that has the key; ATAC if the name or the key says so.

    Raises FileNotFoundError or KeyError if a file, modality, key or column is missing; lists those that exist;
    TypeError or ValueError if `data` or a representation is of no known type, or a cell has no batch.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(obsm={"X_pca": np.eye(3)}, obs={"batch": ["a", "b", "b"]})
    >>> open_chunks(adata, "X_pca", "batch").read(1, 3)
    array([[0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    source = _open_file(str(data)) if isinstance(data, str | Path) else _Object(data)
    selected = choose_modality(source.modalities, modality, obsm_key) if source.modalities else None
    name = f"obsm[{obsm_key!r}]" + (f" of {selected or source.path!r}" if selected or source.path else "")
    if obsm_key not in (keys := source.obsm_keys(selected)):
        raise KeyError(f"{name} does not exist; the keys are {sorted(keys)}.")
    values: Any = source.obsm(selected, obsm_key)
    _check_numeric(values, name)
    width = count_columns(values, name)
    if isinstance(values, OnDisk):
        values.check_whole(name)
    shape = int(values.shape[0]), width
    if not shape[0]:
        raise ValueError("adata_full has no cells.")
    own = source.obs(None)
    cells = own if selected is None else source.obs(selected)
    if cells.n_cells != shape[0]:
        raise ValueError(f"{name} has {shape[0]} rows, but obs has {cells.n_cells} cells: the file is damaged.")
    batches = [
        _complete(select_column(key, "batch_key", own, selected, cells), key, shape[0])
        for key in ((batch_key,) if isinstance(batch_key, str) else batch_key)
    ]
    batch = batches[0] if len(batches) == 1 else cross_coded_columns(batches, shape[0])
    label = None if label_key is None else select_column(label_key, "label_key", own, selected, cells)
    return CellChunks(
        values, name, shape, _rows_together(values), batch,
        None if label is None else label.without(str(unlabeled_category)),
        source.path, selected, _is_atac(obsm_key, modality, selected),
        cells.names,
        None if covariate_keys is None else open_numbers(covariate_keys, own, selected, cells),
    )  # fmt: skip


class _Object:
    """An AnnData or a MuData whose obs and obsm are read."""

    def __init__(self, data: Any, path: str | None = None) -> None:
        self.path = path
        if not (hasattr(data, "obsm") and hasattr(data, "obs")):
            raise TypeError(f"adata_full is a {type(data).__name__}, expected an AnnData, a MuData, a path or a URL.")
        self._parts = {None: data, **getattr(data, "mod", {})}
        self.modalities = {name: list(part.obsm) for name, part in self._parts.items() if name is not None}

    def obsm_keys(self, modality: str | None) -> list[str]:
        return list(self._parts[modality].obsm)

    def obsm(self, modality: str | None, key: str) -> Any:
        return _as_array(self._parts[modality].obsm[key])

    def obs(self, modality: str | None) -> ObsTable:
        return obs_in_memory(self._parts[modality].obs, self._parts[modality].obs_names)


def _as_array(values: Any) -> Any:
    return values.to_numpy() if hasattr(values, "iloc") else values


def _open_file(path: str) -> _Object | _File:
    """Open a file; one of anndata < 0.7, whose obs is one table, is read whole by anndata."""
    root = open_root(path)
    if hasattr(root.get("obs"), "dtype"):
        import anndata

        return _Object(anndata.read_h5ad(path), path)
    return _File(path, root)


class _File:
    """A file of an AnnData or a MuData, of which single arrays are read."""

    def __init__(self, path: str, root: Any) -> None:
        self.path, self._root = path, root
        self.modalities = {name: self.obsm_keys(name) for name in self._root["mod"]} if "mod" in self._root else {}

    def _place(self, modality: str | None, name: str) -> str:
        return name if modality is None else f"mod/{modality}/{name}"

    def obsm_keys(self, modality: str | None) -> list[str]:
        place = self._place(modality, "obsm")
        return list(self._root[place]) if place in self._root else []

    def obsm(self, modality: str | None, key: str) -> Any:
        """Return a representation that is read by rows, or in memory where it is no plain array."""
        place = f"{self._place(modality, 'obsm')}/{key}"
        element = self._root[place]
        if hasattr(element, "shape"):
            return OnDisk(self.path, place)
        # imported only here: it would take a tenth of the memory of a run
        from anndata.io import read_elem, sparse_dataset

        if element.attrs.get("encoding-type") == "csr_matrix":
            return sparse_dataset(element)
        with warnings.catch_warnings():
            # files of early versions of anndata are read as well
            warnings.filterwarnings("ignore", message=".*was written without encoding metadata")
            return _as_array(read_elem(element))

    def obs(self, modality: str | None) -> ObsTable:
        return obs_on_disk(self.path, self._root, self._place(modality, "obs"))


def _is_atac(obsm_key: str, modality: str, selected: str | None) -> bool:
    """Whether the representation is a latent semantic index: by `modality`, or by the name of the modality or key."""
    if selected is None:
        check_option("modality", modality, ("auto", "rna", "atac"))
    if modality in ("rna", "atac"):
        return modality == "atac"
    return any(word in f"{selected or ''} {obsm_key}".lower() for word in ("atac", "lsi"))


def _check_numeric(values: Any, name: str) -> None:
    dtype = getattr(values, "dtype", None)
    if dtype is None or not hasattr(values, "shape"):
        raise TypeError(f"{name} is a {type(values).__name__}: store it as a dense matrix (cells, d).")
    if np.dtype(dtype).kind not in "fiub":
        raise TypeError(f"{name} has dtype {dtype}, expected real numbers: convert it with .astype('float32').")


def _rows_together(values: Any) -> int:
    """Rows that the source stores, and so reads, together."""
    if isinstance(values, OnDisk):
        return values.step
    chunks = getattr(values, "chunks", None)
    if not chunks:
        return 1
    first = chunks[0]
    return int(max(first) if isinstance(first, tuple) else first)


def _complete(column: CodedColumn, key: str, n: int) -> CodedColumn:
    missing, first = column.gaps(n)
    if missing:
        raise ValueError(
            f"batch_key={key!r}: {missing} cells have no batch (NaN), first in row {first}: give them one, or leave "
            "them out."
        )
    return column
