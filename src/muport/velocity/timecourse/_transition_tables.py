"""Transitions between annotations of two days, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.timecourse._populations import Coupling

__all__ = ["Annotation", "transition_table"]

_REPLICATES = 64  # bootstrap replicates that go through the plans at once


@dataclass(frozen=True, eq=False)
class Annotation:
    """A column over the cells of one day.

    - `code`: (n,) int64 positions in `names`; -1 for a cell without a value.
    - `names`: Names of the values.
    - `sample`: (n,) int64 sample of each cell, or None.
    - `order`: (n,) int64 cells in an order that does not depend on that of the data, in which they are drawn.
    """

    code: NDArray[np.int64]
    names: tuple[str, ...]
    sample: NDArray[np.int64] | None = None
    order: NDArray[np.int64] | None = None

    @property
    def indicators(self) -> NDArray[np.float64]:
        """(n, K) 1 where a cell has the value."""
        indicators: NDArray[np.float64] = (self.code[:, None] == np.arange(len(self.names))).astype(np.float64)
        return indicators

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """(n,) how often each cell is drawn when cells, or samples, are drawn with replacement."""
        if self.sample is None:
            times = rng.multinomial(len(self.code), np.full(len(self.code), 1 / len(self.code))).astype(np.float64)
            if self.order is not None:
                times[self.order] = times.copy()
            return times
        n_samples = int(self.sample.max()) + 1
        present = np.unique(self.sample)
        count = np.zeros(n_samples)
        count[present] = rng.multinomial(len(present), np.full(len(present), 1 / len(present)))
        drawn: NDArray[np.float64] = count[self.sample]
        return drawn


def transition_table(
    coupling: Coupling, source: Annotation, target: Annotation, n_bootstrap: int, level: float, random_state: int
) -> pd.DataFrame:
    """Fraction of the descendants of each source value that have each target value, with intervals.

    With S and V the indicators of the values and P the plan, the fractions are S' P V with rows scaled to 1. A
    replicate of the bootstrap weighs the cells of both days, with the plan as it is, by how often they are drawn:
    S' diag(u) P diag(v) V. Replicates in which a source value is not drawn are left out for that value.

    - `level`: Coverage of the percentile intervals.

    Returns one row for each pair: ``source``, ``target``, ``n_source`` (cells), ``fraction``, ``lower``, ``upper``.
    """
    rng = np.random.default_rng(random_state)
    point = _fractions(coupling, source, target, np.ones((1, len(source.code))), np.ones((1, len(target.code))))[0]
    replicates = []
    for low in range(0, n_bootstrap, _REPLICATES):
        n = min(_REPLICATES, n_bootstrap - low)
        draws = [(source.draw(rng), target.draw(rng)) for _ in range(n)]
        u, v = (np.stack(side) for side in zip(*draws, strict=True))
        replicates.append(_fractions(coupling, source, target, u, v))
    lower = upper = np.full(point.shape, np.nan)
    if replicates:
        table = np.concatenate(replicates)
        # a value that no replicate drew has no interval
        drawn = ~np.isnan(table).all(axis=0)
        tails = [(1 - level) / 2, (1 + level) / 2]
        lower, upper = (np.where(drawn, q, np.nan) for q in np.nanquantile(np.where(drawn, table, 0), tails, axis=0))
    n_source = np.bincount(source.code[source.code >= 0], minlength=len(source.names))
    n_values = len(target.names)
    return pd.DataFrame(
        {
            "source": np.repeat(source.names, n_values),
            "target": np.tile(target.names, len(source.names)),
            "n_source": np.repeat(n_source, n_values),
            "fraction": point.ravel(),
            "lower": lower.ravel(),
            "upper": upper.ravel(),
        }
    )


def _fractions(
    coupling: Coupling, source: Annotation, target: Annotation, u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(B, K, L) fractions under the weights u (B, n) and v (B, m) of the cells; NaN where a source has no weight."""
    n_replicates, values = len(u), target.indicators
    right = (v.T[:, :, None] * values[:, None, :]).reshape(len(values), -1)
    for plan in reversed(coupling.plans):
        right = (plan.plan @ right) * plan.plan.shape[0]
    reached = right.reshape(len(source.code), n_replicates, values.shape[1])
    mass = np.einsum("nk,bn,nbl->bkl", source.indicators, u, reached, optimize=True)
    total = mass.sum(axis=2, keepdims=True)
    fractions: NDArray[np.float64] = np.where(total > 0, mass / np.where(total > 0, total, 1), np.nan)
    return fractions
