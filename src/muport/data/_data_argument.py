"""The argument that holds the cells: ``adata=``, ``mdata=`` and the position mean the same in every function."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["accept_data_names", "accept_in_methods", "check_cells"]

_NAMES = ("adata", "mdata", "data")
#: Further names that functions of other packages have for their cells.
_OWN_NAMES = (*_NAMES, "adata_full")


def accept_data_names[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take its cells as ``adata=`` or ``mdata=``, whatever the name of its parameter.

    scanpy and scvi-tools write ``adata`` for an AnnData and ``mdata`` for a MuData, and muport takes both everywhere.
    A method of a model that was made by ``load_query_data`` takes the query cells by default.

    Raises TypeError if the cells are passed under two names.

    Examples
    --------
    >>> @accept_data_names
    ... def count(data):
    ...     return len(data)
    >>> count(adata=[1, 2]), count([1])
    (2, 1)
    """
    parameters = list(inspect.signature(function).parameters)
    own = next((name for name in parameters if name in _OWN_NAMES), None)
    if own is None:
        return function
    position = parameters.index(own)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [name for name in _NAMES if name in kwargs and name not in parameters]
        if given:
            if len(given) > 1 or own in kwargs or len(args) > position:
                raise TypeError(f"{function.__name__}: the cells are passed twice: keep one of {own}= and {given[0]}=.")
            kwargs[own] = kwargs.pop(given[0])
        query = getattr(args[0], "_query", None) if position and args else None
        if query is not None and len(args) <= position and kwargs.get(own) is None:
            kwargs[own] = query
        return function(*args, **kwargs)

    return call


def accept_in_methods(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a class with :func:`accept_data_names` applied to its constructor and public methods."""
    changed = dict(namespace)
    for name, value in namespace.items():
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(value):
            changed[name] = accept_data_names(value)
        elif isinstance(value, classmethod):
            changed[name] = classmethod(accept_data_names(value.__func__))
    return changed


def check_cells(data: Any) -> None:
    """Raise a TypeError if `data` is neither an AnnData nor a MuData."""
    if not hasattr(data, "obs_names"):
        raise TypeError(f"data is {type(data).__name__}: pass an AnnData or a MuData.")
