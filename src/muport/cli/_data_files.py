"""Data files: read by their suffix, written whole or not at all."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from muport.data._durable_files import claimed, partial_folder, replace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    import anndata
    import mudata

    type Data = anndata.AnnData | mudata.MuData

__all__ = ["check_input", "check_output", "check_type", "prepared", "read", "write"]

_SUFFIXES = (".h5ad", ".h5mu", ".zarr")


def read(path: Path) -> Data:
    """Read an AnnData or a MuData.

    Raises FileNotFoundError if there is no such file; ValueError if its suffix is not ``.h5ad``, ``.h5mu`` or
    ``.zarr``, or it cannot be read.
    """
    check_input(path)
    import anndata
    import mudata

    readers: dict[str, Any] = {".h5ad": anndata.read_h5ad, ".h5mu": mudata.read_h5mu, ".zarr": _read_zarr}
    try:
        data: Data = readers[path.suffix](path)
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read as {path.suffix}: {error or type(error).__name__}") from error
    if hasattr(data, "mod") and not data.mod:
        raise ValueError(f"{str(path)!r} holds no modality: if it is an AnnData, name it .h5ad.")
    return data


def _read_zarr(path: Path) -> Data:
    import anndata
    import mudata
    import zarr

    encoding = str(zarr.open_group(path, mode="r").attrs.get("encoding-type", "anndata"))
    data: Data = mudata.read_zarr(path) if encoding.lower() == "mudata" else anndata.read_zarr(path)
    return data


@contextmanager
def prepared(args: argparse.Namespace) -> Iterator[Data]:
    """Read the input of a command that trains a model; with ``--prepare``, normalize and reduce it.

    The output is reserved while the command runs. Outputs that cannot be written, or do not suit the input, are refused
    first.
    """
    check_output(args.out, args.force)
    key = getattr(args, "key", None)
    if key is not None and (not key or "/" in key):
        raise ValueError(f"--key {key!r} must be a name without '/', which files do not hold.")
    for option in ("save", "tables", "plot"):
        if (folder := getattr(args, option, None)) is not None:
            check_output(folder, args.force, f"--{option}", ())
    check_input(args.input)
    with claimed(args.out):
        data = read(args.input)
        check_type(args.out, data)
        # a loaded model projects new cells into the space of its own data
        if args.prepare and getattr(args, "load", None) is None:
            from muport import pp

            shown = sys.stderr.isatty() and not (args.quiet or args.json)
            pp.prepare(data, random_state=args.seed, progress=shown)
        yield data


def check_input(path: Path) -> None:
    """Raise an error if the file does not exist, or is not an AnnData or MuData by its suffix."""
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"INPUT {str(path)!r} must end in one of {', '.join(_SUFFIXES)}.")
    if not path.exists():
        raise FileNotFoundError(f"INPUT {str(path)!r} does not exist.")


def check_output(path: Path, force: bool, option: str = "--out", suffixes: tuple[str, ...] = _SUFFIXES) -> None:
    """Raise an error if an output cannot be written or exists: before anything is computed.

    - `force`: Whether an existing output may be replaced.
    - `suffixes`: Suffixes that are allowed; empty: any.
    """
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{option} {str(path)!r} must end in one of {', '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    if path.exists() and not force:
        raise FileExistsError(f"{option} {str(path)!r} exists: pass --force to replace it.")


def check_type(path: Path, data: Data) -> None:
    """Raise an error if the suffix of an output does not suit the type of the data."""
    several = hasattr(data, "mod")
    wrong = {".h5ad": several, ".h5mu": not several}
    if wrong.get(path.suffix, False):
        right = ".h5mu" if several else ".h5ad"
        raise ValueError(f"--out {str(path)!r}: the data are {type(data).__name__}, name it {right} or .zarr.")


def write(data: Data, path: Path) -> None:
    """Write to a path that is claimed: an existing file is replaced only by a complete one."""
    for key in ("_scvi_uuid", "_scvi_manager_uuid"):
        data.uns.pop(key, None)
    obs: Any = data.obs
    for column in [c for c in obs.columns if str(c).startswith("_scvi_")]:
        del obs[column]
    new = partial_folder(path) / path.name
    if path.suffix == ".zarr":
        data.write_zarr(new)
    else:
        data.write(new)
    replace(new, path)
