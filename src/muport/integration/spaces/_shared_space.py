"""The space that unpaired modalities share, steadied by what each modality's own representation tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.spaces._joint_space import ACCOUNT, scalings, standardised
from muport.integration.spaces._ridge_regression import Regressor, fit_regressor, ordered, regress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["SharedSpace", "fit_shared", "steadied"]


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """How each modality's own representation tells the shared coordinates; its size does not grow with the cells.

    Attributes
    ----------
    center, scale
        Modality -> (d_m,) mean of its own representation and root mean square distance to it.
    told
        Modality -> regression of the shared coordinates on the standardised own representation.
    middle, stretch
        Modality -> (d_s,) mean of its steadied coordinates, and factors that give them the spread common to all.
    """

    center: dict[str, NDArray[np.float32]]
    scale: dict[str, float]
    told: dict[str, Regressor]
    middle: dict[str, NDArray[np.float32]]
    stretch: dict[str, NDArray[np.float32]]


def fit_shared(
    own: Mapping[str, NDArray[np.float32]], shared: Mapping[str, NDArray[np.float32]], random_state: int = 0
) -> SharedSpace:
    """Fit the steadied space of modalities that share coordinates and have representations of their own.

    Few features are shared, and one cell's values of them are mostly noise, but its own representation knows them from
    all features: E[s | x], by ridge regression, has less noise, and lacks what x does not know, rare types first. So,
    as in the joint space, what is told counts a third of what is measured: (s + E[s | x] / 3) / (1 + 1 / 3). Each axis
    is then stretched, in each modality, to its geometric mean spread over modalities: an axis of which one modality
    knows nothing shrinks in all.

    Parameters
    ----------
    own
        Modality -> (n_m, d_m) own representation.
    shared
        Modality -> (n_m, d_s) shared coordinates, row by row.
    random_state
        Seed.
    """
    center, scale = scalings(own)
    told, middle, spread = {}, {}, {}
    for m, x in own.items():
        rank = ordered(x, shared[m])
        rows, s = standardised(x[rank], center[m], scale[m]), shared[m][rank]
        told[m] = fit_regressor(rows, s, random_state)
        mixed = _mixed(rows, s, told[m])
        middle[m] = mixed.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread[m] = np.maximum(mixed.std(axis=0, dtype=np.float64), np.finfo(np.float32).tiny)
    common = np.exp(np.mean([np.log(one) for one in spread.values()], axis=0))
    stretch = {m: (common / one).astype(np.float32) for m, one in spread.items()}
    return SharedSpace(center, scale, told, middle, stretch)


def steadied(
    space: SharedSpace, modality: str, own: NDArray[np.float32], shared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Shared coordinates (n, d_s) of cells of a modality, steadied: a function of each cell alone."""
    x = standardised(own, space.center[modality], space.scale[modality])
    mixed = _mixed(x, shared, space.told[modality])
    mixed -= space.middle[modality]
    mixed *= space.stretch[modality]
    return mixed


def _mixed(x: NDArray[np.float32], s: NDArray[np.float32], told: Regressor) -> NDArray[np.float32]:
    out = regress(x, told)
    out *= np.float32(ACCOUNT)
    out += s
    out /= np.float32(1 + ACCOUNT)
    return out
