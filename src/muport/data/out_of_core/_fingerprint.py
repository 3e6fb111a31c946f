"""What a result on disk was made of: every value of the cells, the arguments and the version; and what has changed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from muport.data.out_of_core._cell_chunks import CellChunks

__all__ = ["HashedRows", "changes", "describe_columns"]

_BLOCK = 2**18  # names that are hashed together
#: Where other values are found, for messages.
_WHERE = {
    "coordinates": "coordinates of the cells differ",
    "batch": "batches of the cells differ",
    "label": "labels of the cells differ",
    "covariates": "covariates of the cells differ",
    "names": "names of the cells differ",
    "rows_together": "chunks of the input differ",
}


class HashedRows:
    """Rows that are read from front to back, with a hash of all of them, so that the hash takes no pass of its own.

    - `cells`: Where the rows are read.
    - `step`: Number of rows that are read together where a reader leaves rows out.
    """

    def __init__(self, cells: CellChunks, step: int) -> None:
        self._cells, self._step, self._end = cells, step, 0
        self._hash = hashlib.sha256(str((cells.shape, cells.unit)).encode())

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, d) rows; those before them that were left out are read, too."""
        self._read_until(start)
        rows = self._cells.read(start, stop)
        self._hash.update(rows)
        self._end = stop
        return rows

    def _read_until(self, stop: int) -> None:
        while self._end < stop:
            self.read(self._end, min(self._end + self._step, stop))

    def digest(self) -> str:
        """Hash of all rows; those that are left are read."""
        self._read_until(self._cells.shape[0])
        return self._hash.hexdigest()


def describe_columns(cells: CellChunks, names: bool) -> dict[str, str | None]:
    """Return the hashes of the batch and the label of all cells, and with `names` of their names."""
    n = cells.shape[0]
    return {
        "batch": cells.batch.signature(n),
        "label": cells.label.signature(n) if cells.label else None,
        "names": _hash_names(cells.names, n) if names and cells.names else None,
        "covariates": cells.covariates.signature(n) if cells.covariates else None,
    }


def _hash_names(names: Callable[[int, int], NDArray[Any]], n: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, n, _BLOCK):
        digest.update("\n".join(map(str, names(start, min(start + _BLOCK, n)).tolist())).encode() + b"\n")
    return digest.hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words how two calls differ; empty if they do not.

    Only what both hold is compared, since the coordinates are hashed last.

    Examples
    --------
    >>> changes({"strength": 0.5, "batch": "1f"}, {"strength": 0.3, "batch": "2a"})
    'strength was 0.5 and is 0.3; the batches of the cells differ'
    """
    now = json.loads(json.dumps(now))
    return "; ".join(
        f"the {_WHERE[name]}" if name in _WHERE else f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in now
        if name in before and before[name] != now[name]
    )
