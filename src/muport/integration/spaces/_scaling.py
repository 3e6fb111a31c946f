"""Center and scale of a representation, by which its coordinates are standardized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order
from muport.integration.prototypes._standardized_cells import measure_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    #: Modality -> (n_m, d_m) coordinates of its rows.
    type Coordinates = Mapping[str, NDArray[np.float32]]

__all__ = ["fit_scaling"]


def fit_scaling(x: Coordinates) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Compute the mean (d_m,) of each modality, and the root mean square distance to it.

    - `x`: Modality -> (n_m, d_m) coordinates.
    """
    center, scale = {}, {}
    for m, values in x.items():
        # sums are taken in an order that does not depend on that of the cells
        rows = values[canonical_order(values)]
        center[m] = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale[m] = measure_scale(rows - center[m], float(np.abs(center[m]).max(initial=0)))
    return center, scale
