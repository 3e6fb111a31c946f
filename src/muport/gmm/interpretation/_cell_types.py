"""The cell types of matched components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport._arrays import describe_fields

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups

__all__ = ["ComponentTypes", "component_types", "sum_by_group"]


@dataclass(frozen=True, eq=False)
class ComponentTypes:
    """Cell types of the components.

    Attributes
    ----------
    share
        (M components x T types) fraction of each type among the cells of a component; rows sum to 1, or are 0 for a
        component without cells.
    mass
        (M,) number of cells of each component, by responsibility.
    purity
        (M,) largest fraction.
    entropy
        (M,) entropy of the fractions, relative to that of T equal fractions: 0 for one type, 1 for an even mixture.
    """

    share: pd.DataFrame
    mass: NDArray[np.float64]
    purity: NDArray[np.float64]
    entropy: NDArray[np.float64]

    __repr__ = describe_fields


def component_types(responsibilities: ArrayLike, labels: ArrayLike) -> ComponentTypes:
    """Count the cell types of each component; every cell counts by its responsibilities.

    - `responsibilities`: (n, M), rows sum to 1.
    - `labels`: (n,) cell types; cells without one (None, NaN) are left out.

    Raises ValueError if the lengths differ or no cell has a type.

    Examples
    --------
    >>> component_types([[1.0, 0.0], [0.5, 0.5]], ["B", "T"]).share.round(2).to_dict("list")
    {'B': [0.67, 0.0], 'T': [0.33, 1.0]}
    """
    r, types = np.asarray(responsibilities, dtype=np.float64), pd.Categorical(np.asarray(labels))
    if r.ndim != 2 or len(r) != len(types):
        raise ValueError(f"responsibilities {r.shape} and {len(types)} labels must have one row for each cell.")
    known = np.asarray(types.codes) >= 0
    if not known.any():
        raise ValueError("labels: no cell has a type.")
    counts = np.zeros((len(types.categories), r.shape[1]))
    np.add.at(counts, np.asarray(types.codes)[known], r[known])
    mass = counts.sum(axis=0)
    fractions = (counts / np.where(mass > 0, mass, 1)).T
    entropy = -np.sum(fractions * np.log(np.where(fractions > 0, fractions, 1)), axis=1) / np.log(max(len(counts), 2))
    # abs makes -0.0 positive
    return ComponentTypes(
        pd.DataFrame(fractions, columns=types.categories), mass, fractions.max(axis=1), np.abs(entropy)
    )  # fmt: skip


def sum_by_group(responsibilities: ArrayLike, sample: ArrayLike, groups: ComponentGroups) -> NDArray[np.float64]:
    """Sum the responsibilities of each cell over the components of its patient that are in one group.

    - `responsibilities`: (n, K) for the components of the cell's own patient.
    - `sample`: (n,) patient of each cell, a row of ``groups.group``.
    - `groups`: Matched components.

    Returns (n, M), rows sum to 1.
    """
    r, group = np.asarray(responsibilities, dtype=np.float64), groups.group[np.asarray(sample)]
    summed = np.zeros((len(r), len(groups)))
    rows, columns = (group >= 0).nonzero()
    np.add.at(summed, (rows, group[rows, columns]), r[rows, columns])
    return summed
