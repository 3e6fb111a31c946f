"""A fitted state as arrays and JSON, and back: no code is stored or run."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from muport.data._former_names import current_names
from muport.data._state_checks import check_state

_TAG = "$"


def pack(value: Any, path: str, tensors: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Turn a value into JSON, moving its arrays to `tensors`.

    Parameters
    ----------
    value
        None, bool, number, str, NumPy array, DataFrame, tuple, list, dict, or a dataclass of those.
    path
        Name of the value: its arrays are stored under it.
    tensors
        Receives the arrays.

    Raises
    ------
    TypeError
        If a value is of another type; names its path.

    Examples
    --------
    >>> tensors = {}
    >>> pack({"mean": np.zeros(2), "names": ("a", "b")}, "state", tensors)
    {'mean': {'$': 'tensor', 'v': 'state.mean'}, 'names': {'$': 'tuple', 'v': ['a', 'b']}}
    >>> list(tensors)
    ['state.mean']
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {_TAG: "float", "v": repr(value)}
    if isinstance(value, np.ndarray):
        return _pack_array(value, path, tensors)
    if isinstance(value, pd.DataFrame):
        columns = {str(c): value[c].to_numpy() for c in value.columns}
        parts = {"name": value.index.name, "index": value.index.to_numpy(), "columns": columns}
        return {_TAG: "frame", "v": pack(parts, path, tensors)}
    if isinstance(value, tuple | list):
        items = [pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return {_TAG: "tuple", "v": items} if isinstance(value, tuple) else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {_TAG: "state", "class": type(value).__name__, "v": pack(parts, path, tensors)}
    if isinstance(value, Mapping):
        return _pack_mapping(value, path, tensors)
    raise TypeError(f"{path} is a {type(value).__name__}, which a saved model cannot hold.")


def _pack_array(value: np.ndarray[Any, Any], path: str, tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    if value.dtype.kind in "OU" or isinstance(value.dtype, np.dtypes.StringDType):
        items = value.tolist()
        if value.ndim != 1 or not all(isinstance(item, str) for item in items):
            raise TypeError(f"{path} is an array of objects, which a saved model cannot hold.")
        return {_TAG: "names", "v": items}
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{path} has dtype {value.dtype}, which a saved model cannot hold.")
    # names of batches may hold dots, so two paths can read the same
    while path in tensors:
        path += "'"
    tensors[path] = np.ascontiguousarray(value).reshape(value.shape)
    return {_TAG: "tensor", "v": path}


def _pack_mapping(value: Mapping[Any, Any], path: str, tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in value):
        raise TypeError(f"{path} is a dict whose keys are not all strings, which a saved model cannot hold.")
    packed = {key: pack(item, f"{path}.{key}", tensors) for key, item in value.items()}
    return {_TAG: "dict", "v": packed} if _TAG in packed else packed


def unpack(value: Any, tensors: Mapping[str, np.ndarray[Any, Any]], classes: Mapping[str, type] | None = None) -> Any:
    """Undo :func:`pack`.

    Parameters
    ----------
    value
        JSON that :func:`pack` returned.
    tensors
        The arrays.
    classes
        Dataclasses that may be built, by name: see :func:`state_classes`. A file cannot name any other.

    Raises
    ------
    ValueError
        If the JSON is not what :func:`pack` writes, or a tensor, class or field is missing.
    """
    try:
        return _unpack(value, tensors, classes)
    except RecursionError:
        raise ValueError("the saved model is nested too deeply.") from None


def _unpack(value: Any, tensors: Mapping[str, np.ndarray[Any, Any]], classes: Mapping[str, type] | None) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _unpack(item, tensors, classes) for key, item in value.items()}
    tag, content = value[_TAG], value.get("v")
    return _unpack_tagged(str(tag), content, value, tensors, classes)


def unpack_state(value: Any, tensors: Mapping[str, np.ndarray[Any, Any]], root: type) -> Any:
    """Undo :func:`pack` for a state of the class `root`, and check that it is what its annotations say.

    Raises ValueError if it is not; names the field.
    """
    state = unpack(value, tensors, state_classes(root))
    if not isinstance(state, root):
        raise ValueError(f"the saved model holds a {type(state).__name__}, expected a {root.__name__}.")
    check_state(state)
    return state


def _unpack_tagged(
    tag: str,
    content: Any,
    value: dict[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    classes: Mapping[str, type] | None,
) -> Any:
    if tag == "tensor":
        if not isinstance(content, str) or content not in tensors:
            raise ValueError(f"the saved model lacks the tensor {content!r}.")
        return tensors[content]
    if tag == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag == "names" and isinstance(content, list):
        return np.array([str(item) for item in content], dtype=object)
    if tag == "tuple" and isinstance(content, list):
        return tuple(_unpack(item, tensors, classes) for item in content)
    if isinstance(content, dict):
        parts = {key: _unpack(item, tensors, classes) for key, item in content.items()}
        if tag == "dict":
            return parts
        if tag == "frame" and parts.keys() == {"name", "index", "columns"}:
            return _build_frame(parts)
        if tag == "state":
            return _build(str(value.get("class")), parts, classes or {})
    raise ValueError(f"the saved model holds {tag!r}, which this version cannot read.")


def _build_frame(parts: dict[str, Any]) -> pd.DataFrame:
    try:
        return pd.DataFrame(parts["columns"], index=pd.Index(parts["index"], name=parts["name"]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the saved model holds a table that cannot be read: {error}") from error


def _build(name: str, parts: dict[str, Any], classes: Mapping[str, type]) -> Any:
    name, parts = current_names(name, parts)
    if name not in classes:
        raise ValueError(f"the saved model holds a {name!r}, expected one of {sorted(classes)}.")
    known = {f.name: f for f in dataclasses.fields(classes[name])}
    optional = {n for n, f in known.items() if f.default is not f.default_factory}
    if unknown := sorted(set(parts) - set(known)):
        raise ValueError(f"the saved {name} has the fields {unknown}, which this version does not know.")
    if missing := sorted(set(known) - set(parts) - optional):
        raise ValueError(f"the saved {name} lacks the fields {missing}.")
    try:
        return classes[name](**parts)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"the saved {name} holds values of another kind: {error}") from error


def state_classes(root: type) -> dict[str, type]:
    """Return the dataclasses a state may hold: `root` and those its annotations name, by class name.

    Annotations are read as text and looked up in the module that declares them, so that imports made for type
    checking alone do no harm; a nested state must be importable from there at run time.
    """
    classes: dict[str, type] = {}
    waiting = [root]
    while waiting:
        cls = waiting.pop()
        if classes.setdefault(cls.__name__, cls) is not cls:
            raise TypeError(f"two state classes are called {cls.__name__!r}.")
        for field in dataclasses.fields(cls):
            waiting += [c for c in _named(field.type, sys.modules[cls.__module__]) if c not in classes.values()]
    return classes


def _named(annotation: Any, module: Any) -> list[type]:
    if isinstance(annotation, str):
        words = re.findall(r"[A-Za-z_]\w*", annotation)
        candidates = [getattr(module, word, None) for word in words]
    else:
        candidates = [annotation, *(c for a in typing.get_args(annotation) for c in _named(a, module))]
    return [c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)]
