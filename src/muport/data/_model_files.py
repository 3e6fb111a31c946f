"""The files of a saved model: one JSON document and one safetensors file, complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data._durable_files import claimed, hash_file, replace, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DOCUMENT = "model.json"
_CONTENT_HASH = "[0-9a-f]{12}"
_MAX_DOCUMENT = 2**26  # bytes; the arrays are in the other file
_DESCRIPTION = {"shape", "dtype", "sha256"}
_KEYS = ("schema_version", "class", "versions", "init_params", "registry", "attributes", "state", "tensors", "data")


def write_model(
    folder: Path,
    prefix: str,
    document: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    overwrite: bool,
    data: tuple[str, Callable[[Path], None]] | None,
) -> None:
    """Write a model; an interruption leaves the earlier model, or none, and never half a file.

    Files are written and synced in the folder ``<folder>.partial``, then moved. Into an existing folder the JSON
    document moves last, and the new tensors take a name that the earlier document does not use.

    - `document`: JSON document without its ``schema_version``, ``tensors``, ``data`` and ``checksum``.
    - `data`: File name and writer of the data to keep with the model.
    """
    _check_name(f"{prefix}{DOCUMENT}", "prefix")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed(folder) as partial:
        if folder.exists() and not overwrite:
            raise ValueError(f"{str(folder)!r} already exists: choose another directory, or pass overwrite=True.")
        staging = partial / "new"
        staging.mkdir()
        names = _write_staged(staging, folder, prefix, document, tensors, data)
        if folder.exists():
            _move_into(staging, folder, names)
            _remove_superseded(folder, names)
        else:
            replace(staging, folder)


def _write_staged(
    staging: Path,
    folder: Path,
    prefix: str,
    document: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    data: tuple[str, Callable[[Path], None]] | None,
) -> list[str]:
    content = to_safetensors(dict(tensors))
    token = hashlib.sha256(content).hexdigest()[:12]
    names = [_free_name(folder, f"{prefix}model", ".safetensors", token)]
    (staging / names[0]).write_bytes(content)
    if data is not None:
        stem, suffix = os.path.splitext(data[0])
        names.append(_free_name(folder, f"{prefix}{stem}", suffix, token))
        data[1](staging / names[1])
    entries = {name: _describe(array) for name, array in tensors.items()}
    complete = {
        "schema_version": SCHEMA_VERSION,
        **document,
        "tensors": {"file": names[0], "entries": entries},
        "data": names[1] if data is not None else None,
        "data_sha256": hash_file(staging / names[1]) if data is not None else None,
    }
    complete["checksum"] = _checksum(complete)
    names.append(f"{prefix}{DOCUMENT}")
    text = json.dumps(complete, indent=1, allow_nan=False).encode()
    if len(text) > _MAX_DOCUMENT:
        raise ValueError(f"the names and settings of the model take {len(text)} bytes, above {_MAX_DOCUMENT}.")
    (staging / names[-1]).write_bytes(text)
    for name in names:
        sync(staging / name)
    return names


def read_model(folder: Path, prefix: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Read and verify a model: its JSON document, and its tensors.

    Raises FileNotFoundError if a file is missing; ValueError if the schema is newer, a key is missing, or a checksum,
    shape or dtype does not match; names the file.
    """
    document = read_document(folder, prefix)
    listed = document["tensors"]
    name = _check_name(str(listed["file"]), f"{prefix}{DOCUMENT}: tensors.file")
    return document, _read_tensors(folder / name, listed["entries"])


def read_document(folder: Path, prefix: str = "") -> dict[str, Any]:
    """Read and verify the JSON document of a model; errors as for :func:`read_model`."""
    _check_name(f"{prefix}{DOCUMENT}", "prefix")
    path = folder / f"{prefix}{DOCUMENT}"
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: {str(folder)!r} holds no saved model with {prefix=}.")
    if path.stat().st_size > _MAX_DOCUMENT:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size} bytes, above {_MAX_DOCUMENT}: it is no saved model.")
    document = _parse(path)
    listed = document["tensors"]
    if not isinstance(listed, dict) or not isinstance(listed.get("entries"), dict) or "file" not in listed:
        raise ValueError(f"{str(path)!r} has tensors={str(listed)[:80]}, expected a file and its entries.")
    return document


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text} is no number of a JSON document")


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a JSON document: {error}") from error
    if not isinstance(document, dict) or type(document.get("schema_version")) is not int:
        raise ValueError(f"{str(path)!r} has no schema_version: it is not a saved model.")
    check_schema_version(document["schema_version"], repr(str(path)))
    if missing := [key for key in (*_KEYS, "checksum") if key not in document]:
        raise ValueError(f"{str(path)!r} lacks {missing}: it is damaged.")
    if document.pop("checksum") != _checksum(document, path):
        raise ValueError(f"{str(path)!r} does not match its checksum: it was changed or damaged after it was saved.")
    return document


def _read_tensors(path: Path, entries: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: the saved model is incomplete.")
    described = [entry for entry in entries.values() if isinstance(entry, dict) and entry.keys() == _DESCRIPTION]
    if len(described) != len(entries):
        raise ValueError(f"the model lists tensors of {str(path)!r} without {sorted(_DESCRIPTION)}: it is damaged.")
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            if set(file.keys()) != set(entries):
                raise ValueError(f"{str(path)!r} holds other tensors than the model lists: it was changed or damaged.")
            for name, expected in entries.items():
                if list(file.get_slice(name).get_shape()) != expected["shape"]:
                    raise ValueError(f"tensor {name!r} of {str(path)!r} has another shape than the model lists.")
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, TypeError, KeyError, MemoryError) as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file, or damaged: {error}") from error
    for name, expected in entries.items():
        if _describe(tensors[name]) != expected:
            raise ValueError(
                f"tensor {name!r} of {str(path)!r} does not match its checksum: it was changed or damaged."
            )
    return tensors


def _describe(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


def _checksum(document: Mapping[str, Any], path: Path | None = None) -> str:
    try:
        return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} has no checksum: {error}") from error


def _check_name(name: str, what: str) -> str:
    if not name or name != Path(name).name or "\\" in name or "\0" in name:
        raise ValueError(f"{what}: {name!r} is not a plain file name; a model's files lie in its own directory.")
    return name


def data_file(folder: Path, document: Mapping[str, Any]) -> tuple[Path, str | None] | None:
    """Return the file of the data that were saved with the model, if any, and its checksum (None in version 1)."""
    if document["data"] is None:
        return None
    return folder / _check_name(str(document["data"]), "data"), document.get("data_sha256")


def _free_name(folder: Path, stem: str, suffix: str, token: str) -> str:
    plain = f"{stem}{suffix}"
    return f"{stem}.{token}{suffix}" if (folder / plain).exists() else plain


def _move_into(staging: Path, folder: Path, names: list[str]) -> None:
    for name in names:
        (staging / name).replace(folder / name)
    sync(folder)


def _remove_superseded(folder: Path, names: list[str]) -> None:
    for name in names[:-1]:
        stem, suffix = os.path.splitext(name)
        stem = re.sub(rf"\.{_CONTENT_HASH}$", "", stem)
        pattern = re.compile(rf"{re.escape(stem)}(\.{_CONTENT_HASH})?{re.escape(suffix)}")
        for path in folder.iterdir():
            if pattern.fullmatch(path.name) and path.name not in names:
                path.unlink()
