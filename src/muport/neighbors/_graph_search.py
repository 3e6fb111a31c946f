"""The search of neighbors for graphs that scanpy computes."""

from __future__ import annotations

from typing import Literal

__all__ = ["graph_search"]

_EXACT_UP_TO = 50_000  # cells


def graph_search(n_cells: int) -> Literal["sklearn"] | None:
    """Return the `transformer` for ``scanpy.pp.neighbors``: an exact search up to 50,000 cells, else scanpy's default.

    The default is approximate above 8,192 cells. It is compiled at its first call, which takes longer than the exact
    search of as many cells.
    """
    return "sklearn" if n_cells <= _EXACT_UP_TO else None
