"""The methods compared, each at its defaults: (n, d) coordinates and n batch names in, (n, d) coordinates out.

Imports are inside: scBIOT and the others live in environments that do not know each other.
"""

from __future__ import annotations

import contextlib
import io
import pkgutil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata
    from numpy.typing import NDArray

PACKAGE = {
    "unintegrated": "numpy",
    "combat": "scanpy",
    "harmony": "harmonypy",
    "scbiot": "scbiot.ot",
    "muport": "muport:Integration",
}


def _adata(X: NDArray[np.float32], batch: NDArray[np.str_]) -> anndata.AnnData:
    import anndata as ad
    import pandas as pd

    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=[f"cell{i}" for i in range(len(X))])
    return ad.AnnData(np.zeros((len(X), 1), np.float32), obs=obs, obsm={"X_pca": X})


def unintegrated(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """The input itself."""
    return X


def combat(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """scanpy's ComBat on the coordinates: a mean and a variance of each batch and coordinate."""
    import scanpy as sc

    adata = _adata(X, batch)
    adata = type(adata)(X.copy(), obs=adata.obs)
    sc.pp.combat(adata, key="batch")
    return np.asarray(adata.X, np.float32)


def harmony(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """harmonypy's ``run_harmony``."""
    import harmonypy
    import pandas as pd

    meta = pd.DataFrame({"batch": batch})
    out = np.asarray(harmonypy.run_harmony(X, meta, "batch", verbose=False).Z_corr)
    return out if out.shape == X.shape else out.T


def scbiot(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """scBIOT's ``ot.integrate`` (1.2.1 finds the modality itself)."""
    from scbiot import ot

    adata = _adata(X, batch)
    with contextlib.redirect_stdout(io.StringIO()):
        adata, _ = ot.integrate(adata, obsm_key="X_pca", batch_key="batch", out_key="scBIOT")
    return np.asarray(adata.obsm["scBIOT"])


def muport(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """Our ``Integration``."""
    from muport.integration import Integration

    adata = _adata(X, batch)
    Integration.setup_anndata(adata, use_rep="X_pca", batch_key="batch")
    model = Integration(adata)
    model.train(progress=False)
    return model.get_latent_representation()


METHODS: dict[str, Callable[[NDArray[np.float32], NDArray[np.str_]], NDArray[np.float32]]] = {
    "unintegrated": unintegrated,
    "combat": combat,
    "harmony": harmony,
    "scbiot": scbiot,
    "muport": muport,
}


def load(method: str) -> Callable[[NDArray[np.float32], NDArray[np.str_]], NDArray[np.float32]]:
    """The function of ``method``, its package imported."""
    pkgutil.resolve_name(PACKAGE[method])
    return METHODS[method]
