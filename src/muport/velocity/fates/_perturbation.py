"""Fates of cells that are moved to another position, and the mean change of them with its uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.velocity.fates._absorption import MIN_REACH, solve_absorption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.velocity.fates._combined_kernel import CombinedKernel

    type Floats = NDArray[np.float64]
    type Ints = NDArray[np.int64]

__all__ = ["mean_change", "perturbed_fates"]


def perturbed_fates(
    kernel: CombinedKernel, terminal: Ints, positions: NDArray[np.float32], velocity: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Fates (n, f) of the cells where they are, and from other positions with the velocities there.

    With p the probabilities to be absorbed in each terminal state, a cell at another position has P' p, where P' are
    the probabilities of its moves from there: after one move it goes on as the cells do. At its own position this is
    its own fate, since P p = p. Cells of terminal states are absorbed: they keep their fate. Rows without a fate are 0.

    - `terminal`: (n,) code of the terminal state of a cell; -1 where it is transient.
    """
    absorption = solve_absorption(kernel.matrix, terminal)
    reached = kernel.moves_from(positions, velocity) @ (absorption.probabilities * absorption.reach[:, None])
    total = reached.sum(axis=1, keepdims=True)
    after = np.divide(reached, total, out=np.zeros_like(reached), where=total >= MIN_REACH)
    after[terminal >= 0] = absorption.probabilities[terminal >= 0]
    return absorption.probabilities, after


def mean_change(
    changes: Sequence[Floats], kept: Sequence[NDArray[np.bool_]], group: Ints, n_bootstrap: int, level: float, seed: int
) -> tuple[Floats, Floats, Floats]:
    """(f,) mean change of the cells, and (f,) lower and upper bounds.

    A bootstrap replicate takes one of the replicates of the field at random, and draws groups of cells with
    replacement. The bounds are quantiles of its means, NaN without replicates.

    - `changes`: (n, f) changes by the estimated field, then by each replicate of it.
    - `kept`: (n,) whether each cell has a change, for each of these.
    - `group`: (n,) group of each cell, such as its sample; each cell its own for a bootstrap over cells.

    Examples
    --------
    >>> change = np.array([[0.1], [0.3]])
    >>> mean, lower, upper = mean_change([change], [np.full(2, True)], np.arange(2), 200, 0.9, seed=0)
    >>> mean.round(3).tolist(), lower.round(3).tolist(), upper.round(3).tolist()
    ([0.2], [0.1], [0.3])
    """
    used = np.unique(group[kept[0]])
    n_groups = int(group.max()) + 1
    sums, counts = [], []
    for change, mask in zip(changes, kept, strict=True):
        own = group[mask]
        columns = [np.bincount(own, column, n_groups) for column in change[mask].T]
        sums.append(np.stack(columns, axis=1)[used])
        counts.append(np.bincount(own, minlength=n_groups)[used].astype(np.float64))
    mean = sums[0].sum(axis=0) / counts[0].sum()
    if n_bootstrap == 0:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_bootstrap, len(mean)))
    for i in range(n_bootstrap):
        member = rng.integers(1, len(sums)) if len(sums) > 1 else 0
        drawn = np.bincount(rng.integers(len(used), size=len(used)), minlength=len(used))
        replicates[i] = drawn @ sums[member] / max(drawn @ counts[member], 1)
    lower, upper = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return mean, lower, upper
