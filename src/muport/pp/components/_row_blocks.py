"""A large sparse matrix as blocks of rows that are multiplied side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from muport._parallel import count_cores, parallel_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Rows of a matrix that are multiplied together: 64 float32 vectors of this length fit into the cache of a core.
_ROWS_OF_BLOCK = 2_000


@dataclass(frozen=True)
class RowBlocks:
    """A matrix (n, p) in blocks of rows.

    - `blocks`: The blocks in CSC, whose products with several vectors read the vectors once.
    """

    blocks: list[sparse.csc_matrix]

    @classmethod
    def of(
        cls, matrix: sparse.csr_matrix, transform: Callable[[sparse.csc_matrix], sparse.csc_matrix] | None = None
    ) -> RowBlocks:
        """Divide a matrix, whose indices need not be sorted; sum repeated entries, then `transform` each block."""

        def read(start: int) -> sparse.csc_matrix:
            block = matrix[start : start + _ROWS_OF_BLOCK].tocsc()
            block.sum_duplicates()
            return block if transform is None else transform(block)

        return cls(parallel_map(read, range(0, matrix.shape[0], _ROWS_OF_BLOCK)))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return sum(block.shape[0] for block in self.blocks), self.blocks[0].shape[1]

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return sum(block.nnz for block in self.blocks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self.blocks[0].dtype
        return dtype

    def tocsr(self) -> sparse.csr_matrix:
        """Return the whole matrix."""
        return sparse.vstack([block.tocsr() for block in self.blocks], format="csr")

    def dot(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return the product with vectors (p, k): (n, k)."""
        return np.concatenate(parallel_map(lambda block: block @ vectors, self.blocks))

    def tdot(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return the product of the transposed matrix with vectors (n, k): (p, k)."""
        ends = np.cumsum([block.shape[0] for block in self.blocks])
        pairs = list(zip(self.blocks, np.split(vectors, ends[:-1]), strict=True))
        total = np.zeros((self.shape[1], vectors.shape[1]), vectors.dtype)
        n = count_cores()
        # one product for each core at a time; the order of the sum does not depend on the number of cores
        for first in range(0, len(pairs), n):
            for product in parallel_map(lambda pair: pair[0].T @ pair[1], pairs[first : first + n]):
                total += product
        return total
