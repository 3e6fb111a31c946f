"""The cells of patients of known condition, as cross-validation takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.gmm.metric._log_ratios import CellCounts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LabeledCells"]


@dataclass(frozen=True, eq=False)
class LabeledCells:
    """Cells of P patients, and the condition of each patient.

    - `x`: (n, d) cells.
    - `sample`: (n,) codes 0..P-1 of the patients' samples.
    - `condition`: (P,) codes 0..C-1 of the samples.
    - `group`: (P,) person of each sample; the samples of one person are held out together.
    - `weight`: (n,) weights of the cells, or None.
    - `cell_type`: (n,) codes of the annotated types, -1 for a cell without one; None without annotation.
    - `n_types`: Number of types.
    - `columns`: (P, q) covariates of the samples, whose effects are removed; None without covariates.
    """

    x: NDArray[np.float64]
    sample: NDArray[np.int64]
    condition: NDArray[np.int64]
    group: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None
    cell_type: NDArray[np.int64] | None = None
    n_types: int = 0
    columns: NDArray[np.float64] | None = None

    @classmethod
    def check(
        cls,
        x: ArrayLike,
        sample: ArrayLike,
        condition: ArrayLike,
        group: ArrayLike | None = None,
        weight: NDArray[np.float64] | None = None,
        *,
        cell_type: NDArray[np.int64] | None = None,
        n_types: int = 0,
        columns: NDArray[np.float64] | None = None,
    ) -> LabeledCells:
        """Return checked arrays; by default each sample is a group.

        Raises ValueError if shapes or codes do not fit, or there are fewer than two conditions.
        """
        cells, code, label = np.asarray(x, dtype=np.float64), np.asarray(sample), np.asarray(condition)
        if cells.ndim != 2 or code.shape != cells.shape[:1]:
            raise ValueError(f"x {cells.shape} and sample {code.shape} need one row per cell.")
        for name, values in (("sample", code), ("condition", label)):
            if values.dtype.kind not in "iu" or set(np.unique(values)) != set(range(int(values.max()) + 1)):
                raise ValueError(f"{name} must be integer codes from 0 on, each of which occurs.")
        if len(label) != int(code.max()) + 1:
            raise ValueError(f"condition has {len(label)} entries for {int(code.max()) + 1} samples.")
        if label.max() < 1:
            raise ValueError("condition has one value only: a prediction needs patients of at least two conditions.")
        groups = np.arange(len(label)) if group is None else np.unique(np.asarray(group), return_inverse=True)[1]
        if groups.shape != label.shape:
            raise ValueError(f"group has {len(groups)} entries for {len(label)} samples.")
        return cls(
            cells, code.astype(np.int64), label.astype(np.int64), groups.astype(np.int64), weight, cell_type, n_types,
            columns,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.condition)

    def subset(self, patients: NDArray[np.int64]) -> LabeledCells:
        """The cells of some patients, whose sorted positions are given."""
        rows = np.isin(self.sample, patients)
        return LabeledCells(
            self.x[rows], np.searchsorted(patients, self.sample[rows]), self.condition[patients], self.group[patients],
            None if self.weight is None else self.weight[rows],
            None if self.cell_type is None else self.cell_type[rows], self.n_types,
            None if self.columns is None else self.columns[patients],
        )  # fmt: skip

    def counts(self) -> CellCounts:
        """Cells of each patient, and of each type."""
        return CellCounts.count(self.sample, len(self), self.cell_type, self.n_types, self.weight)
