"""Displacements of groups as sums: a common part, and the effects of the levels of their batch variables.

The displacement of group b at shared center k is

    D_bk = common_k + sum over the levels l of b of E_lk + rest_bk,

fitted by least squares, weighted by the numbers of cells of the groups at the center. A fraction f_v of the effects of
each variable v is applied, and the smallest of these fractions of the common part and of the rest, which the variables
have together. With equal fractions, each displacement as a whole is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport.integration._batch_design import encode_levels, number_variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.integration._batch_design import BatchDesign

__all__ = ["GroupMoves", "VariableEffects", "fit_variable_effects", "split_moves"]

_TINY = 1e-9
_PENALTY = 1.0  # cells without an effect that the variable with most levels has at every center
# What two variables can explain alike is ascribed to the one with fewer levels, whose penalty is smaller.
_PENALTY_RATIO = 1e-3
_FIXED = 1e4  # weight of groups that do not move, as a multiple of the number of cells


@dataclass(frozen=True, eq=False)
class VariableEffects:
    """Effects of the levels of the batch variables, in standardized coordinates. Row 0 is what all groups have.

    - `names`: Names of the variables.
    - `levels`: Names of the levels of each.
    - `fractions`: Fraction of the effects of each that is removed from cells.
    - `shift`: (R, K, d) displacement at each shared center, R = 1 + number of all levels.
    - `shape`: (R, d, d) change of a residual about its center.
    - `target`: (K, d) point to which the cells at each center are moved.
    - `confounded`: Sentences that say what cannot be separated.
    """

    names: Annotated[tuple[str, ...], "V"]
    levels: Annotated[tuple[tuple[str, ...], ...], "V"]
    fractions: Annotated[tuple[float, ...], "V", "0..1"]
    shift: Annotated[NDArray[np.float32], "R K d"]
    shape: Annotated[NDArray[np.float32], "R d d"]
    target: Annotated[NDArray[np.float32], "K d"]
    confounded: tuple[str, ...] = ()

    def check_consistency(self) -> None:
        """Raise a ValueError unless each level has its effects."""
        if len(self.shift) != 1 + sum(map(len, self.levels)):
            raise ValueError(f"{sum(map(len, self.levels))} levels need one more effect, not {len(self.shift)}.")

    @property
    def smallest(self) -> float:
        """Fraction that is applied of what no variable has alone."""
        return min(self.fractions)

    @property
    def row_fractions(self) -> NDArray[np.float64]:
        """(R,) fraction of each row of the effects that is applied."""
        return np.append(self.smallest, np.array(self.fractions)[number_variables(self.levels)])

    def encode(self, combination: Sequence[str]) -> NDArray[np.float64]:
        """Return (R,) the rows of the effects of a combination of levels; unknown levels have none."""
        return np.append(1.0, encode_levels(combination, self.levels))

    def find_unknown(self, combination: Sequence[str]) -> list[int]:
        """List the variables of which a combination has a level that is not known."""
        return [v for v, (name, known) in enumerate(zip(combination, self.levels, strict=True)) if name not in known]


@dataclass(frozen=True, eq=False)
class GroupMoves:
    """Moves of the prototypes of all groups.

    - `shift`: (P, d) displacement of each prototype, to be subtracted.
    - `shape`: (B, d, d) change of the residuals of each group.
    - `mass`: (P,) number of cells of each prototype.
    - `start`: (B + 1,) prototypes ``start[b]:start[b + 1]`` belong to group b.
    - `near`, `weight`: (P, q) nearest centers of each prototype after its move, and their weights, which sum to 1.
    - `fixed`: Groups that do not move.
    """

    shift: NDArray[np.float32]
    shape: NDArray[np.float32]
    mass: NDArray[np.float32]
    start: NDArray[np.int64]
    near: NDArray[np.int64]
    weight: NDArray[np.float32]
    fixed: tuple[int, ...] = ()

    @property
    def group(self) -> NDArray[np.int64]:
        """(P,) group of each prototype."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def summarize(self, n_centers: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, K) number of cells, and (B, K, d) mean displacement, of each group at each center."""
        n_groups, d = len(self.start) - 1, self.shift.shape[1]
        n_cells, total = np.zeros((n_groups, n_centers)), np.zeros((n_groups, n_centers, d))
        for near, weight in zip(self.near.T, self.weight.T, strict=True):
            mass = (self.mass * weight).astype(np.float64)
            np.add.at(n_cells, (self.group, near), mass)
            np.add.at(total, (self.group, near), mass[:, None] * self.shift)
        return n_cells, total / np.maximum(n_cells, _TINY)[..., None]


def fit_variable_effects(
    moves: GroupMoves, design: BatchDesign, rows: NDArray[np.float64], target: NDArray[np.float32]
) -> VariableEffects:
    """Fit the effects of the levels to the moves of the groups.

    The effects are first fitted everywhere, and then what they leave at each center.

    - `rows`: (B, L) fraction of the cells of each group that have each level.
    - `target`: (K, d) shared centers.
    """
    n_cells, mean = moves.summarize(len(target))
    of_group = n_cells.sum(axis=1)
    everywhere = np.einsum("bk,bkd->bd", n_cells, mean) / np.maximum(of_group, _TINY)[:, None]
    regression = _Regression(rows, design, moves.fixed)
    shift = regression.fit(everywhere, of_group)
    rest = mean - (regression.columns @ shift)[:, None]
    near_center = [regression.fit(rest[:, k], n_cells[:, k]) for k in range(len(target))]
    shape = regression.fit(moves.shape.reshape(len(moves.shape), -1), of_group)
    d = target.shape[1]
    return VariableEffects(
        names=design.names,
        levels=design.levels,
        fractions=design.fractions,
        shift=(shift[:, None] + np.stack(near_center, axis=1)).astype(np.float32),
        shape=shape.reshape(-1, d, d).astype(np.float32),
        target=target,
    )


class _Regression:
    """Penalized least squares of values of the groups on the levels of their variables."""

    def __init__(self, rows: NDArray[np.float64], design: BatchDesign, fixed: tuple[int, ...]) -> None:
        self._fixed = list(fixed)
        self.columns = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
        used = np.ones(self.columns.shape[1], bool)
        if fixed:
            # The others are compared with groups that do not move, so these have no effect, nor has what all have.
            shared = self.columns[self._fixed].min(axis=0) == 1
            used[shared] = False
        self._used = np.flatnonzero(used)
        n_levels = np.array([len(levels) for levels in design.levels])
        rank = np.argsort(np.argsort(n_levels, kind="stable"), kind="stable")
        penalty = _PENALTY * _PENALTY_RATIO ** (len(n_levels) - 1 - rank[design.variable])
        self._penalty = np.sqrt(np.append(0.0, penalty))

    def fit(self, values: NDArray[np.floating], n_cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (1 + L, m) coefficients for values (B, m) of groups with `n_cells` (B,) cells."""
        weight = n_cells.copy()
        weight[self._fixed] = _FIXED * max(float(n_cells.sum()), 1.0)
        root = np.sqrt(weight)[:, None]
        # penalties as further rows, because the normal equations would square their range
        matrix = np.concatenate([root * self.columns[:, self._used], np.diag(self._penalty[self._used])])
        wanted = np.concatenate([root * values, np.zeros((len(self._used), values.shape[1]))])
        coefficients = np.zeros((self.columns.shape[1], values.shape[1]))
        coefficients[self._used] = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        return coefficients


def split_moves(
    moves: GroupMoves, effects: VariableEffects, rows: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Apply the fractions of the variables: displacements (P, d) and changes of shape (B, d, d) that are left.

    - `rows`: (B, L) as for :func:`fit_variable_effects`.
    """
    columns = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    extra = columns * (effects.row_fractions - effects.smallest)
    shape = effects.smallest * moves.shape + np.einsum("br,rde->bde", extra, effects.shape)
    shift = effects.smallest * moves.shift
    of_group = np.einsum("br,rkd->bkd", extra, effects.shift)
    for near, weight in zip(moves.near.T, moves.weight.T, strict=True):
        shift += weight[:, None] * of_group[moves.group, near]
    for group in moves.fixed:
        shift[moves.start[group] : moves.start[group + 1]] = 0
        shape[group] = 0
    return shift.astype(np.float32), shape.astype(np.float32)
