"""The outcome of patients, read from the columns that a set-up names."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import numpy as np

from muport._checks import check_option
from muport.data import holds_numbers, joined_column, ordered_names
from muport.gmm._fitted_state import check_classes, label_samples
from muport.gmm.prediction._outcomes import OUTCOMES, Outcome

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.gmm.prediction._outcomes import OutcomeKind

    type Data = mudata.MuData | anndata.AnnData

__all__ = ["find_kind", "read_outcome"]

_EVENTS = {"True": 1, "False": 0}

logger = logging.getLogger("muport")


def find_kind(data: Data, rows: Rows, condition: NDArray[np.int64], outcome: str, key: str, event: str | None) -> str:
    """Return the type of outcome that a column holds: ``"class"`` or one of ``OUTCOMES``; what is taken is logged.

    With ``"auto"`` it is ``"survival"`` if there is a column of events; ``"ordinal"`` for an ordered categorical of
    three levels or more; ``"continuous"`` for numbers that :func:`muport.gmm._fitted_state.check_classes` refuses as
    classes; and ``"class"`` for all else.

    - `condition`: (P,) codes of the values of the samples, -1 where they are missing.

    Raises ValueError if the column does not hold the type that was asked for.
    """
    check_option("outcome", outcome, ("auto", "class", *OUTCOMES))
    if event is not None and outcome not in ("auto", "survival"):
        raise ValueError(f"event_key={event!r} belongs to times: pass outcome='survival', or leave it out.")
    if outcome == "survival" and event is None:
        raise ValueError(
            "outcome='survival' needs event_key, the column that says whether the event happened (1) at the time in "
            "labels_key, or the patient was last seen without it (0)."
        )
    kind = outcome
    if outcome == "auto":
        kind = "survival" if event is not None else _find_kind(data, rows, condition, key)
        logger.info("outcome='auto': labels_key=%r holds %d values: %s.", key, len(rows.labels), kind)
    elif outcome == "class" and holds_numbers(data, key, "labels_key"):
        check_classes(condition, rows.labels, f"labels_key={key!r}")
    if kind in OUTCOMES:
        read_outcome(data, rows, condition, cast("OutcomeKind", kind), key, event)
    return kind


def _find_kind(data: Data, rows: Rows, condition: NDArray[np.int64], key: str) -> str:
    if holds_numbers(data, key, "labels_key"):
        try:
            check_classes(condition, rows.labels, key)
        except ValueError:
            return "continuous"
        return "class"
    ordered = ordered_names(data, key)
    return "ordinal" if ordered is not None and len(rows.labels) > 2 else "class"


def read_outcome(
    data: Data, rows: Rows, condition: NDArray[np.int64], kind: OutcomeKind, key: str, event: str | None = None
) -> Outcome:
    """Read the outcome of each sample; arguments as for :func:`find_kind`.

    Raises KeyError if there is no column of events; ValueError if values are no numbers, levels have no order, times
    are negative, or events are missing or not 0 or 1.
    """
    names, what = rows.labels, f"labels_key={key!r}"
    events = np.zeros(len(condition), dtype=np.int64)
    if kind == "ordinal":
        order = _level_order(data, names, key)
        values = np.array([*np.argsort(order), np.nan])[condition]
        return Outcome(kind, values, events, tuple(names[i] for i in order))
    numbers = np.array([_number(name, what, kind) for name in names] + [np.nan])
    if kind == "survival":
        if (negative := numbers < 0).any():
            raise ValueError(f"{what} holds the time {numbers[negative][0]:g}: times are numbers of at least 0.")
        events = _read_events(data, rows, str(event), condition >= 0)
    return Outcome(kind, numbers[condition], events)


def _number(name: str, what: str, kind: str) -> float:
    try:
        value = float(name)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{what} holds {name!r}, which is not a finite number: outcome={kind!r} needs numbers.")
    return value


def _level_order(data: Data, names: tuple[str, ...], key: str) -> NDArray[np.int64]:
    """Positions of the names from the lowest level to the highest."""
    ordered = ordered_names(data, key)
    if ordered is not None and set(names) <= set(ordered):
        return np.argsort([ordered.index(name) for name in names])
    try:
        return np.argsort([float(name) for name in names], kind="stable")
    except ValueError:
        raise ValueError(
            f"labels_key={key!r} holds {list(names)[:4]}, which have no order: make it an ordered categorical, for "
            "example pandas.Categorical(values, categories=[lowest, ..., highest], ordered=True)."
        ) from None


def _read_events(data: Data, rows: Rows, key: str, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P,) whether the event happened; 0 for a sample without a time."""
    column = joined_column(data, key, "event_key")
    what = f"event_key={key!r}"
    events = [_event(name, what) for name in column.names]
    sample = cast("NDArray[np.int64]", rows.sample)
    codes = label_samples(sample, column.codes, rows.samples, column.names, what, "value")
    if (missing := known & (codes < 0)).any():
        raise ValueError(f"{what}: {int(missing.sum())} samples with a time have no value: give them one.")
    lookup = np.array([*events, 0], dtype=np.int64)
    return np.where(known, lookup[codes], 0)


def _event(name: str, what: str) -> int:
    """1 or 0 of a value of the column; text such as "1.0" counts as the number it is."""
    try:
        value = float(_EVENTS.get(name, name))
    except ValueError:
        value = float("nan")
    if value not in (0, 1):
        raise ValueError(f"{what} holds {name!r}: it must hold 1 or True where the event happened, and 0 or False.")
    return int(value)
