"""The summary of a model that Python and notebooks print."""

from __future__ import annotations

from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from muport._keys import REGISTRY_KEYS, UNLABELED_CATEGORY
from muport.data.reading._annotations import COLUMN_RULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["as_html", "as_text", "count_categories", "describe_data", "describe_values"]

_WIDTH = 80
_LISTED_VALUES = 12


def describe_data(data: Any) -> str:
    """Describe an AnnData or MuData in one line; None is data that the model does not have."""
    if data is None:
        return "none"
    parts = ", ".join(f"{name} {part.n_obs:,}" for name, part in getattr(data, "mod", {}).items())
    return f"{data.n_obs:,} cells" + (f" ({parts})" if parts else "")


def count_categories(names: Mapping[str, Sequence[str]], setup: Mapping[str, Any]) -> dict[str, int]:
    """Count the categories of each column that the set-up names; no label is no category.

    - `names`: Registry key -> names of its categories.
    """
    counts = {}
    for key, own in names.items():
        named = key not in COLUMN_RULES or setup.get(COLUMN_RULES[key].argument) is not None
        no_label = key == REGISTRY_KEYS.LABELS_KEY and setup.get("unlabeled_category", UNLABELED_CATEGORY) in own
        if named and len(own) > no_label:
            counts[key] = len(own) - no_label
    return counts


def describe_values(values: Mapping[str, Any]) -> str:
    """List names and values; numbers have four digits, and values that are None are left out."""
    shown = [f"{name}={_short(value)}" for name, value in values.items() if value is not None]
    more = f", and {len(shown) - _LISTED_VALUES} more" if len(shown) > _LISTED_VALUES else ""
    return ", ".join(shown[:_LISTED_VALUES]) + more


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(title: str, rows: Mapping[str, str]) -> str:
    """Return a table of two columns as text of at most 80 characters a line."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    file = StringIO()
    Console(file=file, width=_WIDTH, no_color=True, highlight=False, markup=False).print(table, markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def as_html(title: str, rows: Mapping[str, str]) -> str:
    """Return a table of two columns as HTML."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table><caption>{escape(title)}</caption>{body}</table>"
