"""Cells read a chunk of rows at a time, from memory, a file or a lazy array."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import UNLABELED_CATEGORY
from muport.data.out_of_core._coded_columns import CodedColumn, code_values, column_on_disk
from muport.data.out_of_core._disk_arrays import OnDisk, Window, choose_modality, open_root
from muport.data.reading._representation import width

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

__all__ = ["CellChunks", "open_chunks"]

_SOME = 1_024  # rows that tell whether the same cells are read again
_NO_LABEL = ("unknown", "unlabeled", "UNK", "NA", "NaN", "nan", "None", "")


@dataclass(frozen=True, eq=False)
class CellChunks:
    """Representation and columns of cells, read by rows. It can be sent to another process.

    Attributes
    ----------
    values
        (n, d) numbers that are sliced by rows.
    name
        How messages call them.
    shape
        (n, d).
    step
        Rows that the source itself keeps together.
    batch, label
        Columns; the label may be None.
    path
        The file, if it is one.
    modality
        Name of the modality that was chosen from a MuData; None for an AnnData.
    unit
        Whether rows are scaled to norm 1, which takes the sequencing depth out of a latent semantic index.
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
    identity: tuple[str, ...] = field(default=())

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows as (stop - start, d) float32.

        Raises
        ------
        OSError
            If the rows cannot be read: the file is damaged.
        ValueError
            If a value is NaN or infinite; names the row.
        """
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
        # a finite sum proves finite values and needs no temporary array
        if not np.isfinite(rows.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.name} holds NaN or Inf in float32, first in row {start + int(bad[0])}: leave such cells "
                    "out or impute the values."
                )
        return _to_unit(rows) if self.unit else rows

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) batches."""
        return self.batch.codes(start, stop)

    def window(self, start: int, stop: int) -> CellChunks:
        """Return what another process needs to read these rows: a file, or the rows themselves."""
        if isinstance(self.values, OnDisk) or hasattr(self.values, "dask"):
            values = self.values
        else:
            values = Window(self.values[start:stop], start)
        return replace(self, values=values, batch=self.batch.window(start, stop), label=None)

    def signature(self) -> str:
        """Return what changes if other cells are read: the file's own marks, or a checksum of some rows."""
        if self.identity:
            return "|".join(self.identity)
        chosen = np.unique(np.linspace(0, self.shape[0] - 1, min(_SOME, self.shape[0])).astype(np.int64))
        cuts = np.array_split(chosen, min(8, len(chosen)))
        sums = [zlib.crc32(self.read(int(cut[0]), int(cut[0]) + len(cut)).tobytes()) for cut in cuts]
        return "|".join(map(str, (*self.shape, *sums)))


def _to_unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def open_chunks(
    data: anndata.AnnData | mudata.MuData | str | Path,
    obsm_key: str,
    batch_key: str,
    label_key: str | None = None,
    unlabeled_category: Any = UNLABELED_CATEGORY,
    modality: str = "auto",
) -> CellChunks:
    """Check what is asked for and open it; no row of the representation is read.

    Parameters
    ----------
    data
        AnnData (in memory, backed or lazy), MuData, or a path or URL of ``.h5ad``, ``.h5mu`` or ``.zarr``.
    obsm_key
        Key of the representation.
    batch_key, label_key
        Columns of ``obs``; those of a modality come before those of the MuData.
    unlabeled_category
        Value of `label_key` that means "not known", as do missing values and their usual names.
    modality
        Name of a modality of a MuData. For an AnnData ``"rna"`` or ``"atac"``. ``"auto"``: the only modality that has
        the key; ATAC if the name or the key says so.

    Raises
    ------
    FileNotFoundError, KeyError
        If a file, modality, key or column is missing; lists those that exist.
    TypeError, ValueError
        If `data` or a representation is of no known kind, or a cell has no batch.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(obsm={"X_pca": np.eye(3)}, obs={"batch": ["a", "b", "b"]})
    >>> open_chunks(adata, "X_pca", "batch").read(1, 3)
    array([[0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    if isinstance(data, str | Path):
        return _from_path(str(data), obsm_key, batch_key, label_key, unlabeled_category, modality)
    import anndata
    import mudata

    if not isinstance(data, anndata.AnnData | mudata.MuData) and not (hasattr(data, "obsm") and hasattr(data, "obs")):
        raise TypeError(f"adata_full is a {type(data).__name__}, expected an AnnData, a MuData, a path or a URL.")
    whole: Any = data
    part, chosen = whole, None
    if isinstance(data, mudata.MuData):
        chosen = choose_modality({name: list(one.obsm) for name, one in data.mod.items()}, modality, obsm_key)
        part = data.mod[chosen]
    name = f"obsm[{obsm_key!r}]" + (f" of {chosen!r}" if chosen else "")
    if obsm_key not in part.obsm:
        raise KeyError(f"{name} does not exist; the keys are {sorted(part.obsm)}.")
    values = part.obsm[obsm_key]
    values = values.to_numpy() if hasattr(values, "iloc") else values
    _check_kind(values, name)
    batch = _no_gaps(_column(part, whole, chosen, batch_key, "batch_key"), batch_key, part.n_obs)
    label = None if label_key is None else _column(part, whole, chosen, label_key, "label_key")
    return CellChunks(
        values, name, (int(part.n_obs), width(values, name)), _step(values), batch,
        None if label is None else label.without(_unknown(unlabeled_category)),
        modality=chosen, unit=_is_atac(obsm_key, modality, chosen),
    )  # fmt: skip


def _from_path(
    path: str, obsm_key: str, batch_key: str, label_key: str | None, unlabeled_category: Any, modality: str
) -> CellChunks:
    root = open_root(path)
    chosen, prefix = None, ""
    if "mod" in root:
        keys = {name: list(one["obsm"]) if "obsm" in one else [] for name, one in root["mod"].items()}
        chosen = choose_modality(keys, modality, obsm_key)
        prefix = f"mod/{chosen}/"
    name = f"obsm[{obsm_key!r}] of {prefix.removesuffix('/') or path!r}"
    held = sorted(root[f"{prefix}obsm"]) if f"{prefix}obsm" in root else []
    if obsm_key not in held:
        raise KeyError(f"{name} does not exist; the keys are {held}.")
    values = OnDisk(path, f"{prefix}obsm/{obsm_key}")
    _check_kind(values, name)
    values.check_whole(name)
    n_cells = int(root[f"{prefix}obsm/{obsm_key}"].shape[0])
    batch = _no_gaps(column_on_disk(path, root, prefix, batch_key, "batch_key"), batch_key, n_cells)
    label = None if label_key is None else column_on_disk(path, root, prefix, label_key, "label_key")
    return CellChunks(
        values, name, (n_cells, width(values, name)), values.step, batch,
        None if label is None else label.without(_unknown(unlabeled_category)),
        path, chosen, _is_atac(obsm_key, modality, chosen), values.marks(),
    )  # fmt: skip


def _unknown(category: Any) -> tuple[str, ...]:
    return (*_NO_LABEL, str(category))


def _is_atac(obsm_key: str, modality: str, chosen: str | None) -> bool:
    """Whether the representation is a latent semantic index: told, or by the name of the modality or of the key."""
    if chosen is None and modality not in ("auto", "rna", "atac"):
        raise ValueError(f"modality={modality!r} is unknown for an AnnData: use 'auto', 'rna' or 'atac'.")
    if modality in ("rna", "atac"):
        return modality == "atac"
    return any(word in f"{chosen or ''} {obsm_key}".lower() for word in ("atac", "lsi"))


def _check_kind(values: Any, name: str) -> None:
    dtype = getattr(values, "dtype", None)
    if dtype is None or not hasattr(values, "shape"):
        raise TypeError(f"{name} is a {type(values).__name__}: store it as a dense matrix (cells, d).")
    if np.dtype(dtype).kind not in "fiub":
        raise TypeError(f"{name} has dtype {dtype}, expected real numbers: convert it with .astype('float32').")


def _step(values: Any) -> int:
    chunks = getattr(values, "chunks", None)
    if not chunks:
        return 1
    first = chunks[0]
    return int(max(first) if isinstance(first, tuple) else first)


def _column(part: Any, whole: Any, chosen: str | None, key: str, argument: str) -> CodedColumn:
    if key in part.obs:
        return code_values(_values(part.obs, key))
    if whole is not part:
        for name in (f"{chosen}:{key}", key):
            if name in whole.obs:
                return code_values(whole.obs[name].reindex(part.obs_names))
    raise KeyError(f"{argument}={key!r}: there is no such column; the columns of obs are {sorted(part.obs.columns)}.")


def _values(obs: Any, key: str) -> Any:
    values = obs[key]
    # a column of a lazy obs is an xarray array: one column is small beside the cells
    return values.to_series() if hasattr(values, "to_series") and hasattr(values, "dims") else values


def _no_gaps(column: CodedColumn, key: str, n: int) -> CodedColumn:
    if n == 0:
        raise ValueError("adata_full has no cells.")
    missing, first = column.gaps(n)
    if missing:
        raise ValueError(
            f"batch_key={key!r}: {missing} cells have no batch (NaN), first in row {first}: give them one, or leave "
            "them out."
        )
    return column
