"""The columns of the cells beside a result: a zarr of an unfinished job becomes one that anndata reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.data.out_of_core._disk_arrays import is_url, open_root

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 2**18  # entries that are copied together
_VERSION = "0.2.0"  # of the encoding of data frames since anndata 0.8


def add_obs(result: Path, obs: Any, path: str | None = None, modality: str | None = None) -> None:
    """Write ``obs`` and an empty ``var`` into a zarr.

    - `result`: The zarr, whose ``obsm`` is there.
    - `obs`: Data frame of the cells; None to copy it from a file.
    - `path`, `modality`: The file, and the modality whose cells they are; the columns are copied in blocks.
    """
    import zarr

    root = zarr.open_group(result, mode="r+")
    for name in ("obs", "var"):
        if name in root:
            del root[name]
    _empty_frame(root, "var")
    if obs is not None:
        from anndata.io import write_elem

        # the columns of a lazy object are read here: writers know data frames only
        write_elem(root, "obs", obs.to_memory() if hasattr(obs, "to_memory") else obs)
    elif path is not None:
        place = f"mod/{modality}/obs" if modality else "obs"
        folder = Path(path) / place
        source = open_root(path)[place]
        if source.attrs.get("encoding-version") != _VERSION:
            from anndata.io import write_elem

            write_elem(root, "obs", read_obs(path, modality))
        elif not is_url(path) and (folder / "zarr.json").is_file():
            shutil.copytree(folder, result / "obs")
        else:
            _copy(source, root, "obs")


def read_obs(path: str, modality: str | None) -> pd.DataFrame:
    """Read the obs of a file as anndata does, whatever its version."""
    import anndata

    source = open_root(path)[f"mod/{modality}/obs" if modality else "obs"]
    # a table of anndata < 0.7
    obs: pd.DataFrame = anndata.read_h5ad(path).obs if hasattr(source, "dtype") else anndata.io.read_elem(source)
    return obs


def _empty_frame(root: Any, name: str) -> None:
    """A data frame without rows or columns, by hand: importing anndata would take a tenth of the memory of a run."""
    frame = root.create_group(name)
    version = {"encoding-type": "dataframe", "encoding-version": _VERSION}
    frame.attrs.update({**version, "_index": "_index", "column-order": []})
    index = frame.create_array("_index", shape=(0,), dtype=str)
    index.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def _copy(source: Any, target: Any, name: str) -> None:
    if hasattr(source, "shape"):
        _copy_array(source, target, name)
        return
    group = target.create_group(name)
    group.attrs.update(_plain(source.attrs))
    for key in source:
        _copy(source[key], group, key)


def _copy_array(source: Any, target: Any, name: str) -> None:
    text = hasattr(source, "asstr") and source.dtype.kind == "O"
    values = source.asstr() if text else source
    dtype = "str" if text else source.dtype
    if source.shape == ():
        made = target.create_array(name, shape=(), dtype=dtype)
        made[()] = values[()]
    else:
        rows = min(_BLOCK, max(1, source.shape[0]))
        made = target.create_array(name, shape=source.shape, chunks=(rows, *source.shape[1:]), dtype=dtype)
        for start in range(0, source.shape[0], rows):
            made[start : start + rows] = values[start : start + rows]
    made.attrs.update(_plain(source.attrs))


def _plain(attrs: Any) -> dict[str, Any]:
    """Attributes as JSON: those of HDF5 are NumPy values, or references, which have no place in a zarr."""
    plain = {}
    for key, value in attrs.items():
        item = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        item = [x.decode() if isinstance(x, bytes) else x for x in item] if isinstance(item, list) else item
        if isinstance(item, str | int | float | bool | list):
            plain[key] = item
    return plain
