"""A warning of a few cells that are so far away that they spoil the mean and the scale of a representation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muport.data.reading._representation import measure_extent

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from muport.data.reading._rows import Rows
    from muport.data.registration._setup import SpaceKeys

_PACKAGE = str(Path(__file__).parents[2])
_BLOCK = 65_536  # rows whose distances are computed at a time
_SAMPLED, _TYPICAL = 2_000, 0.95  # cells, and quantile of their distances from the median, that are typical
_FAR, _MIN_CELLS = 100.0, 20  # typical distances of an outlier; fewer cells have no typical distance


def warn_of_outliers(rows: Rows, keys: SpaceKeys) -> None:
    """Warn of cells far from all others, once for each representation.

    - `keys`: ``obsm`` keys of the representations.
    """
    for where, x, names in _representations(rows, keys):
        outliers = _find_outliers(x)
        if outliers is None:
            continue
        far, times = outliers
        warnings.warn(
            f"{where}: {len(far)} of {len(x)} cells are more than {_FAR:g} times as far from the median as "
            f"{_TYPICAL:.0%} of the cells, for example {list(names[far[:3]])}, {times:.3g} times as far. The mean and "
            "the scale of the representation are mainly theirs: remove these cells, or correct their values.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def _representations(rows: Rows, keys: SpaceKeys) -> Iterator[tuple[str, NDArray[np.float32], pd.Index]]:
    """Yield each representation: the text by which messages name it, its rows, and the names of their cells."""
    for code, m in enumerate(keys.space):
        if rows.columns:
            yield f"obsm[{keys.space[m]!r}] of {m!r}", rows.x[:, rows.columns[m]], rows.obs_names
            continue
        # rows are in the order of the modalities
        start, stop = np.searchsorted(rows.modality, [code, code + 1])
        names = rows.obs_names[rows.cell[start:stop]]
        if not keys.separate:
            yield f"obsm[{keys.space[m]!r}] of {m!r}", rows.x[start:stop], names
        own = rows.own.get(m)
        if own is not None and (keys.separate or keys.own[m] != keys.space[m]):
            yield f"obsm[{keys.own[m]!r}] of {m!r}", own, names


def _find_outliers(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], float] | None:
    """Find the rows that are far from all others: their positions, and how many times farther the farthest is."""
    if len(x) < _MIN_CELLS:
        return None
    sample = x[:: -(-len(x) // _SAMPLED)].astype(np.float64)
    center = np.median(sample, axis=0)
    distance = np.sort(np.linalg.norm(sample - center, axis=1))
    typical = float(distance[int(_TYPICAL * (len(distance) - 1))])
    low, high = measure_extent(x)
    # the extent tells at no cost whether there can be one
    if typical == 0 or np.linalg.norm(np.maximum(high - center, center - low)) <= _FAR * typical:
        return None
    distance = np.concatenate(
        [np.linalg.norm(x[start : start + _BLOCK] - center, axis=1) for start in range(0, len(x), _BLOCK)]
    )
    far = np.flatnonzero(distance > _FAR * typical)
    return (far, float(distance.max()) / typical) if len(far) else None
