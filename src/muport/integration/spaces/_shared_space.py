"""A space that unpaired modalities share, denoised by the representation that each modality has of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._joint_space import PREDICTION_WEIGHT
from muport.integration.spaces._ridge_regression import RidgeRegression, fit_ridge
from muport.integration.spaces._scaling import fit_scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._scaling import Coordinates

__all__ = ["SharedSpace", "denoise", "fit_shared_space"]


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Regressions that denoise the shared coordinates; their size does not grow with the number of cells.

    - `center`, `scale`: Modality -> (d_m,) mean of its own representation, and root mean square distance to it.
    - `regressions`: Modality -> regression of the shared coordinates on the standardized own representation.
    - `denoised_center`: Modality -> (d_s,) mean of its denoised coordinates.
    - `rescaling`: Modality -> (d_s,) factors that give its denoised coordinates the same standard deviations as the
      others'.
    """

    center: dict[str, Annotated[NDArray[np.float32], "*"]]
    scale: dict[str, Annotated[float, "0.."]]
    regressions: dict[str, RidgeRegression]
    denoised_center: dict[str, Annotated[NDArray[np.float32], "S"]]
    rescaling: dict[str, Annotated[NDArray[np.float32], "S"]]

    def check_consistency(self) -> None:
        """Raise a ValueError unless each modality has its statistics and a regression of their widths."""
        for name, regression in self.regressions.items():
            expected = (len(self.center[name]), len(self.denoised_center[name]))
            if regression.widths != expected or name not in self.scale or name not in self.rescaling:
                raise ValueError(f"the regression of {name!r} has the widths {regression.widths}, expected {expected}.")


def fit_shared_space(own: Coordinates, shared: Coordinates, random_state: int = 0) -> SharedSpace:
    """Fit the denoising of coordinates that modalities share, where each also has a representation of its own.

    Modalities often share few features, and the values s of one cell are mostly noise. The cell's own representation x
    is made from all features, so the prediction E[s | x] by ridge regression has less noise; but it lacks what x does
    not predict, in the first place rare types. As in the joint space, a prediction therefore counts a third of a
    measurement: (s + E[s | x] / 3) / (1 + 1 / 3). Each axis is then rescaled, in each modality, to the geometric mean
    of its standard deviations over the modalities: an axis that one modality cannot predict shrinks in all.

    - `own`: Modality -> (n_m, d_m) own representation.
    - `shared`: Modality -> (n_m, d_s) shared coordinates, row by row.
    """
    center, scale = fit_scaling(own)
    regressions, denoised_center, deviation = {}, {}, {}
    for m, x in own.items():
        order = canonical_order(np.concatenate([x, shared[m]], axis=1))
        rows, s = standardize(x[order], center[m], scale[m]), shared[m][order]
        regressions[m] = fit_ridge(rows, s, random_state)
        denoised = _average_with_prediction(rows, s, regressions[m])
        denoised_center[m] = denoised.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation[m] = np.maximum(denoised.std(axis=0, dtype=np.float64), np.finfo(np.float32).tiny)
    common = np.exp(np.mean([np.log(values) for values in deviation.values()], axis=0))
    rescaling = {m: (common / values).astype(np.float32) for m, values in deviation.items()}
    return SharedSpace(center, scale, regressions, denoised_center, rescaling)


def denoise(
    space: SharedSpace, modality: str, own: NDArray[np.float32], shared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Denoise the shared coordinates of cells of a modality, each cell by itself.

    - `own`: (n, d_m) own representation.
    - `shared`: (n, d_s) shared coordinates.

    Returns (n, d_s) denoised coordinates, of mean 0 in each modality.
    """
    x = standardize(own, space.center[modality], space.scale[modality])
    denoised = _average_with_prediction(x, shared, space.regressions[modality])
    denoised -= space.denoised_center[modality]
    denoised *= space.rescaling[modality]
    return denoised


def _average_with_prediction(
    x: NDArray[np.float32], s: NDArray[np.float32], regression: RidgeRegression
) -> NDArray[np.float32]:
    average = regression.predict(x)
    average *= np.float32(PREDICTION_WEIGHT)
    average += s
    average /= np.float32(1 + PREDICTION_WEIGHT)
    return average
