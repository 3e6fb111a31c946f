"""Populations of cells followed through the plans between successive days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._tables import rows_by_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from muport.velocity.timecourse._couplings import DayPlan

__all__ = ["Coupling", "population_mass"]

_DENSE_ENTRIES = 2**28  # of a plan over several days, which is dense: 1 GiB in float32
_MIN_DESCENDANTS = 1e-12  # smallest number of which the logarithm is taken


@dataclass(frozen=True, eq=False)
class Coupling:
    """Transport plan between the cells of two measured times, kept as the sparse plans between the days in between.

    Attributes
    ----------
    plans
        One plan for each two successive times.
    times
        The times, one more than the plans.
    source_names
        Names of the n cells of the first time.
    target_names
        Names of the m cells of the last time.

    Examples
    --------
    >>> import muport, numpy as np
    >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=300, random_state=0)
    >>> adata.obs["day"] = adata.obs["time"].round(0)
    >>> muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day")
    >>> model = muport.Velocity(adata)
    >>> model.train(n_steps=50, progress=False)
    >>> coupling = model.get_coupling(0, 1)
    >>> coupling.shape == coupling.to_sparse().shape
    True
    """

    plans: tuple[DayPlan, ...]
    times: tuple[float, ...]
    source_names: pd.Index
    target_names: pd.Index

    def __repr__(self) -> str:
        """Describe the plan in one line."""
        times = " to ".join(f"{time:g}" for time in self.times)
        n, m = self.shape
        return f"Coupling: {n} cells to {m} cells, times {times}" + ("" if self.converged else ", not converged")

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells (n, m) of the first and of the last time."""
        return len(self.source_names), len(self.target_names)

    @property
    def converged(self) -> bool:
        """Whether all transport problems converged."""
        return all(plan.converged for plan in self.plans)

    @property
    def growth_rate(self) -> pd.Series:
        """Logarithm of the number of descendants of each source cell, per unit of time, relative to their mean.

        The descendants of a cell are counted on the last time. In a plan without relaxation all rates are 0 within one
        interval.
        """
        descendants = np.ones(len(self.target_names))
        for plan in reversed(self.plans):
            descendants = np.asarray(plan.plan @ descendants, np.float64) * plan.plan.shape[0]
        rate = np.log(np.maximum(descendants, _MIN_DESCENDANTS)) / (self.times[-1] - self.times[0])
        return pd.Series(rate, index=self.source_names, name="growth_rate")

    def push(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mass (m,) or (m, k) of the descendants of the mass (n,) or (n, k).

        Mass 1 on an average cell gives mass 1; a cell with more descendants than the average gives more.
        """
        for plan in self.plans:
            mass = plan.push(mass)
        return mass

    def pull(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mass (n,) or (n, k) of the ancestors of the mass (m,) or (m, k), of the same sum."""
        for plan in reversed(self.plans):
            mass = plan.pull(mass)
        return mass

    def to_sparse(self) -> sp.csr_matrix:
        """Return the plan (n, m); columns sum to 1/m. Over several days it has few zeros.

        Raises
        ------
        ValueError
            If a plan over several days would have more than 2^28 entries.
        """
        n, m = self.shape
        if len(self.plans) > 1 and n * m > _DENSE_ENTRIES:
            raise ValueError(
                f"the plan over {len(self.plans)} intervals would have {n} x {m} entries: use push() and pull(), which "
                "do not make it."
            )
        matrix = self.plans[0].plan
        for plan in self.plans[1:]:
            matrix = matrix @ (plan.plan * np.float32(plan.plan.shape[0]))
        return matrix.tocsr()


def population_mass(
    population: Any, cells: NDArray[np.int64], names: pd.Index, labels: NDArray[np.str_] | None, time: float
) -> NDArray[np.float64]:
    """(n,) mass of a population on the cells of one time, of sum 1.

    - `population`: A label, or a list of labels; a mask, or masses of at least 0, over all cells (a Series is matched
      by the names in its index).
    - `cells`: (n,) positions of the cells of that time.
    - `names`: Names of all cells.
    - `labels`: Label of each cell, or None.

    Raises KeyError for an unknown label; ValueError for masses that are negative, not finite, of another number of
    cells, or all zero at that time.
    """
    mass = _mass_of_labels(population, labels) if _names_labels(population) else _as_masses(population, names)
    taken = mass[cells]
    total = float(taken.sum())
    if total <= 0:
        raise ValueError(
            f"the population has no cell at time {time:g}: pass a time at which it has cells, not that of the cells it "
            "comes from or becomes, or another population."
        )
    normalized: NDArray[np.float64] = taken / total
    return normalized


def _names_labels(population: Any) -> bool:
    if isinstance(population, str):
        return True
    return isinstance(population, list | tuple) and len(population) > 0 and all(isinstance(p, str) for p in population)


def _mass_of_labels(population: str | Sequence[str], labels: NDArray[np.str_] | None) -> NDArray[np.float64]:
    if labels is None:
        raise ValueError(f"population={population!r} names labels, but there are none: set up with a labels_key.")
    wanted = [population] if isinstance(population, str) else list(population)
    for name in wanted:
        if not (labels == name).any():
            raise KeyError(f"population={name!r} is not a label: there are {sorted(set(labels.tolist()))}.")
    return np.isin(labels, wanted).astype(np.float64)


def _as_masses(population: Any, names: pd.Index) -> NDArray[np.float64]:
    values = rows_by_name(population, names, "population")
    # names that are numbers would be read as masses
    if getattr(getattr(values, "dtype", None), "kind", "f") == "U" or isinstance(values, pd.Index):
        raise TypeError(
            f"population is {type(population).__name__} of names: pass a list of labels, or of cells the mask "
            "adata.obs_names.isin(names)."
        )
    try:
        mass = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"population is {type(population).__name__}: pass a label, a mask, or a mass for each cell."
        ) from error
    if mass.shape != (len(names),):
        raise ValueError(f"population has shape {mass.shape}: it needs one entry for each of the {len(names)} cells.")
    bad = ~np.isfinite(mass) | (mass < 0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"population: {int(bad.sum())} masses are negative or not finite, for example {mass[first]:g} of cell "
            f"{names[first]!r}: pass numbers of at least 0."
        )
    return mass
