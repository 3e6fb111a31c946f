"""Outcomes of patients beyond classes: ordered levels, numbers, and times to an event.

Symbols: P patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from scipy.stats import rankdata

from muport.gmm.metric._kernel_ridge import deal_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OUTCOMES", "Outcome", "OutcomeKind", "cumulative_hazard", "outcome_folds"]

type OutcomeKind = Literal["ordinal", "continuous", "survival"]

OUTCOMES = ("ordinal", "continuous", "survival")
_N_SLICES = 3  # slices of a continuous outcome for the metric, as in sliced inverse regression
_MIN_PATIENTS = 4


@dataclass(frozen=True, eq=False)
class Outcome:
    """An outcome of P patients that is not a class.

    - `kind`: ``"ordinal"``, ``"continuous"`` or ``"survival"``.
    - `values`: (P,) positions in `levels`, numbers, or times; NaN where it is not known.
    - `event`: (P,) whether the event happened at the time (1), or the patient was last seen without it (0).
    - `levels`: Names of the ordered levels, the lowest first; none for other outcomes.
    """

    kind: OutcomeKind
    values: Annotated[NDArray[np.float64], "P", "any"]
    event: Annotated[NDArray[np.int64], "P", "0..1"]
    levels: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.values)

    def check_consistency(self) -> None:
        """Raise a ValueError unless values are levels or times where they must be."""
        known = self.values[self.known()]
        if np.isinf(known).any():
            raise ValueError("a value is infinite.")
        if self.kind == "ordinal" and not np.isin(known, np.arange(len(self.levels))).all():
            raise ValueError("a value is no position of a level.")
        if self.kind == "survival" and (known < 0).any():
            raise ValueError("a time is negative.")

    def known(self) -> NDArray[np.int64]:
        """Patients whose outcome is known."""
        return np.flatnonzero(~np.isnan(self.values))

    def check_variation(self, what: str) -> None:
        """Raise a ValueError unless enough patients have outcomes that differ; `what` is how messages call it."""
        known = self.known()
        if len(known) < _MIN_PATIENTS:
            raise ValueError(f"{what} is known for {len(known)} patients: a prediction needs at least {_MIN_PATIENTS}.")
        if self.kind == "survival" and self.event[known].sum() < 2:
            raise ValueError(
                f"{what}: the event happened in {int(self.event[known].sum())} patients: a prediction needs at least 2."
            )
        if len(np.unique(self.target())) < 2:
            raise ValueError(f"{what} has one value in all patients: a prediction needs at least 2.")

    def subset(self, patients: NDArray[np.int64]) -> Outcome:
        """The outcome of some patients."""
        return Outcome(self.kind, self.values[patients], self.event[patients], self.levels)

    def target(self) -> NDArray[np.float64]:
        """Numbers (P,) for a regression; all outcomes must be known.

        A continuous outcome is the target itself. Ordered levels are mean ranks, from 0 to 1. For times the target is
        the martingale residual of the model without predictors, event - H(time) with H the cumulative hazard: the
        derivative of Cox's log-likelihood by the log-hazard of the patient (Therneau et al. 1990).
        """
        if self.kind == "continuous":
            return self.values
        if self.kind == "ordinal":
            ranks: NDArray[np.float64] = (rankdata(self.values) - 0.5) / len(self)
            return ranks
        residuals: NDArray[np.float64] = self.event - self.hazard()
        return residuals

    def hazard(self) -> NDArray[np.float64]:
        """Cumulative hazards (P,) at the times of the patients, without predictors (Nelson and Aalen)."""
        times, hazard = cumulative_hazard(self.values, self.event, np.zeros(len(self)))
        return hazard[np.searchsorted(times, self.values, side="right") - 1]

    def slices(self) -> NDArray[np.int64]:
        """Codes (P,) of slices of the patients by their target, equally large up to ties, for the fit of the metric.

        The axes on which slices differ are those of sliced inverse regression (Li 1991).
        """
        target = self.target()
        edges = np.quantile(target, np.arange(1, _N_SLICES) / _N_SLICES)
        codes = np.searchsorted(edges, target, side="left")
        if codes.max() == codes.min():
            codes = (target > target.min()).astype(np.int64)
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def cumulative_hazard(
    time: NDArray[np.float64], event: NDArray[np.int64], risk: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Estimate the cumulative hazard of patients of log-hazard 0, as a step function (Breslow 1972).

    .. math:: H(t) = \sum_{t_i \le t, e_i = 1} 1 / \sum_{j: t_j \ge t_i} \exp(\eta_j)

    - `time`, `event`: (P,) times, and whether the event happened (1) or not (0).
    - `risk`: (P,) log-hazards of the patients.

    Returns the times of the steps, the first of which is 0 or the smallest time below it, and H (S,) from there on.

    Examples
    --------
    >>> times, hazard = cumulative_hazard(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1]), np.zeros(3))
    >>> times.tolist(), hazard.round(3).tolist()
    ([0.0, 1.0, 3.0], [0.0, 0.333, 1.333])
    """
    steps, number = np.unique(time[event == 1], return_counts=True)
    weight = np.exp(risk)
    at_risk = ((time >= steps[:, None]) * weight).sum(axis=1)
    if not len(steps) or steps[0] > 0:
        steps, number, at_risk = (np.insert(np.asarray(x, np.float64), 0, x0) for x, x0 in
                                  ((steps, 0.0), (number, 0.0), (at_risk, 1.0)))  # fmt: skip
    hazard: NDArray[np.float64] = np.cumsum(number / at_risk)
    return np.asarray(steps, dtype=np.float64), hazard


def outcome_folds(outcome: Outcome, group: NDArray[np.int64], n_folds: int | None = None) -> list[NDArray[np.int64]]:
    """Folds of whole groups over the range of the target, all events and times alike; each has patients outside it.

    - `n_folds`: Number of folds; by default 20, or one for each group if there are fewer.
    """
    key = outcome.target()
    return deal_groups(key, group) if n_folds is None else deal_groups(key, group, n_folds)
