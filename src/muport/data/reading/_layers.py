"""The values of a layer, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from muport._arrays import sum_repeats

if TYPE_CHECKING:
    import anndata

__all__ = ["in_memory", "layer_of"]


def layer_of(part: anndata.AnnData, layer: str | None, where: str = "the data") -> Any:
    """Return a layer, or ``X`` for None; repeated entries of a sparse matrix are summed in a copy.

    Raises
    ------
    KeyError
        If there is no such layer; anndata itself counts ``X`` among them as None.
    """
    if layer is None:
        return sum_repeats(part.X)
    if layer not in part.layers:
        held = sorted(str(name) for name in dict(part.layers) if name is not None)
        raise KeyError(f"layer={layer!r} is not in {where}, which has {held}.")
    return sum_repeats(part.layers[layer])


def in_memory(values: Any) -> Any:
    """Return a matrix that is on disk, or in chunks of Dask, as an array or a sparse matrix; None stays None."""
    for read in ("to_memory", "compute"):
        values = getattr(values, read)() if hasattr(values, read) else values
    return values if values is None or sparse.issparse(values) else np.asarray(values)
