"""Principal components by scikit-learn, in the form in which scanpy stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._global_state import preserve_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PrincipalComponents:
    """The result of a PCA.

    - `coordinates`: (n, k) coordinates of cells.
    - `loadings`: (g, k) loadings.
    - `variance`: (k,) variance of each component.
    - `variance_ratio`: (k,) its fraction of the variance of all values.
    """

    coordinates: NDArray[np.float32]
    loadings: NDArray[np.float32]
    variance: NDArray[Any]
    variance_ratio: NDArray[Any]

    def describe(self, **parameters: Any) -> dict[str, Any]:
        """Return what ``scanpy.pp.pca`` writes to ``uns["pca"]``."""
        params = {"zero_center": True, "use_highly_variable": False, "mask_var": None, **parameters}
        return {"params": params, "variance": self.variance, "variance_ratio": self.variance_ratio}


def principal_components(x: Any, n_comps: int, random_state: int) -> PrincipalComponents:
    """Return the components that ``scanpy.pp.pca`` computes of values (n, g); fewer if g or n is small.

    scanpy calls scikit-learn with the same arguments, but takes more than two seconds to import.
    """
    from sklearn.decomposition import PCA

    model = PCA(min(n_comps, min(x.shape) - 1), svd_solver="arpack", random_state=random_state)
    with preserve_generators():
        coordinates = np.asarray(model.fit_transform(x), np.float32)
    loadings = np.asarray(model.components_.T, np.float32)
    return PrincipalComponents(coordinates, loadings, model.explained_variance_, model.explained_variance_ratio_)
