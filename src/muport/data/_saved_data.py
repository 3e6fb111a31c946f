"""The cells that are saved with a model: the file of AnnData or MuData, and its checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import h5py
import mudata

from muport.data._durable_files import hash_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["data_file_name", "read_data", "write_data"]

_NAMES = {mudata.MuData: "mdata.h5mu", anndata.AnnData: "adata.h5ad"}
#: A file that says it holds more than this many times its size is no file of cells: gzip reaches about 1,000.
_MAX_EXPANSION = 2_000
_SMALL = 2**26  # bytes that any file may take in memory


def data_file_name(data: mudata.MuData | anndata.AnnData) -> str:
    """Return the name of the file of the cells."""
    return _NAMES[mudata.MuData if isinstance(data, mudata.MuData) else anndata.AnnData]


def write_data(data: mudata.MuData | anndata.AnnData, path: Path, kwargs: dict[str, Any]) -> None:
    """Write the cells; the user's object is as before."""
    parts = [data, *getattr(data, "mod", {}).values()]
    frames: list[Any] = [frame for part in parts for frame in (part.obs, part.var)]
    texts = [
        (f, c, f[c].copy()) for f in frames for c in f.columns if f[c].dtype.kind == "O" and f[c].dtype != "category"
    ]
    try:
        data.write(path, **kwargs)
    finally:
        # the writers turn text columns of the user's object into categories
        for frame, column, values in texts:
            frame[column] = values


def read_data(path: Path, checksum: str | None) -> mudata.MuData | anndata.AnnData:
    """Read the cells that were saved with a model.

    - `checksum`: SHA-256 of the file; None for a model of an earlier version, which has none.

    Raises FileNotFoundError if the file is missing; ValueError if it was changed or damaged; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist, and the model was saved with it: pass the cells as adata, or adata=False."
        )
    if checksum is not None and hash_file(path) != checksum:
        raise ValueError(
            f"{str(path)!r} does not match its checksum: it was changed or damaged after it was saved. Pass the cells "
            "as adata, or adata=False."
        )
    try:
        _check_expansion(path)
        data = mudata.read_h5mu(path) if path.suffix == ".h5mu" else anndata.read_h5ad(path)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    # scvi-tools identifies an object by these keys: the copy must not be taken for the original in this process
    for key in ("_scvi_uuid", "_scvi_manager_uuid"):
        data.uns.pop(key, None)
    return data


def _check_expansion(path: Path) -> None:
    """Raise a ValueError if the arrays of a file take far more memory than its size allows."""
    total = 0

    def add(_: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            total += item.size * item.dtype.itemsize

    with h5py.File(path, "r") as file:
        file.visititems(add)
    if total > max(_SMALL, _MAX_EXPANSION * path.stat().st_size):
        raise ValueError(
            f"its arrays would take {total / 1e9:.1f} GB of memory, and it has {path.stat().st_size} bytes"
        )
