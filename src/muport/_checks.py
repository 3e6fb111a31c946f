"""Checks of arguments. Each error names the argument, its value and what is expected."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "check_columns", "check_flags", "check_integers", "check_keys", "check_not_negative", "check_numbers",
    "check_option", "check_positive", "check_seed",
]  # fmt: skip


def check_option(name: str, value: object, options: Iterable[object]) -> None:
    """Raise a ValueError unless `value` is one of `options`.

    Examples
    --------
    >>> check_option("method", "exact", ["exact", "sinkhorn"])
    """
    listed = list(options)
    # data in place of an option cannot be compared
    if not isinstance(value, Hashable) or value not in listed:
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, listed))}.")


def check_flags(**values: object) -> None:
    """Raise a TypeError unless every value is True or False."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name}={value!r} must be True or False.")


def check_columns(name: str, value: Any, otherwise: str) -> None:
    """Raise a TypeError or a ValueError unless `value` is a list of different names of columns.

    - `otherwise`: What may be passed in place of a list, for messages.

    Examples
    --------
    >>> check_columns("batch_key", ["donor", "platform"], "the name of one column")
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}={value!r} must be a list of names of columns, or {otherwise}.")
    if not value:
        raise ValueError(f"{name} is an empty list: name at least one column, or pass {otherwise}.")
    if repeated := sorted({key for key in value if list(value).count(key) > 1}):
        raise ValueError(f"{name}={list(value)} names {repeated[0]!r} twice: name each column once.")


def check_keys(**values: Any) -> None:
    """Raise a TypeError or a ValueError unless every value is a name under which results can be written.

    Examples
    --------
    >>> check_keys(key_added="X_umap")
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}={value!r} must be a string.")
        if not value or "/" in value:
            raise ValueError(f"{name}={value!r} must be a name without '/', which files do not hold.")


def check_integers(least: int = 1, **values: Any) -> None:
    """Raise a ValueError unless every value is an integer of at least `least`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def check_seed(random_state: Any) -> None:
    """Raise a ValueError unless `random_state` is an integer of at least 0."""
    check_integers(0, random_state=random_state)


def check_numbers(low: float, high: float, **values: Any) -> None:
    """Raise a ValueError unless every value is a number from `low` to `high`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
            bounds = f" from {low:g} to {high:g}" if np.isfinite([low, high]).any() else ""
            raise ValueError(f"{name}={value!r} must be a number{bounds}.")


def check_positive(**values: Any) -> None:
    """Raise a ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < float("inf"):
            raise ValueError(f"{name}={value!r} must be a finite number above 0.")


def check_not_negative(**values: Any) -> None:
    """Raise a ValueError unless every value is a finite number of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
            raise ValueError(f"{name}={value!r} must be a finite number of at least 0.")
