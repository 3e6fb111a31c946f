"""Find the file of a data set: in the folder of the user, in the cache, or by a download with a checked hash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from muport._keys import CACHE_VARIABLE, DATA_VARIABLE, URL_VARIABLE

if TYPE_CHECKING:
    from muport.datasets._catalog import DatasetInfo


def data_folder(path: str | Path | None) -> Path | None:
    """Return `path`, or else the folder that ``MUPORT_DATA`` names; None if neither is given."""
    return (
        Path(path) if path is not None else Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None
    )


def find_file(info: DatasetInfo, path: str | Path | None, base_url: str | None) -> Path:
    """Return the file in the folder, or else in the cache, or else download it into the cache."""
    folder = data_folder(path)
    if folder is not None and (folder / info.file).is_file():
        return folder / info.file
    import pooch

    base_url = base_url or os.environ.get(URL_VARIABLE) or ""
    store = pooch.create(
        path=pooch.os_cache("muport"),
        base_url=base_url.rstrip("/") + "/",
        registry={info.file: f"sha256:{info.sha256}"},
        env=CACHE_VARIABLE,
    )
    cached = Path(store.abspath) / info.file
    if not base_url and not (cached.is_file() and pooch.file_hash(str(cached)) == info.sha256):
        raise FileNotFoundError(_describe_ways(info, folder))
    try:
        return Path(store.fetch(info.file))
    except ValueError as error:
        raise ValueError(
            f"{base_url.rstrip('/')}/{info.file} is not the file of the catalog (SHA-256 {info.sha256}): the "
            "address serves another version. Nothing was kept."
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"{info.file} could not be downloaded: {error}. {_describe_ways(info, folder)}"
        ) from error


def _describe_ways(info: DatasetInfo, folder: Path | None) -> str:
    where = "no folder of data is given" if folder is None else f"{info.file} is not in {str(folder)!r}"
    return (
        f"{where}: set {DATA_VARIABLE} (or pass path) to the folder with {info.file}, or set {URL_VARIABLE} (or pass "
        f"base_url) to the address of a folder with it. The data come from {info.source}; SHA-256 of the "
        f"file: {info.sha256}."
    )
