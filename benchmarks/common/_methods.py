"""The methods compared, each at its defaults.

The names of a function's arguments say what the method sees: ``X`` (n, d) principal components, ``log`` (n, g) log
values of variable features, ``counts`` (n, g), ``batch`` and ``label`` (n,). All return (n, e) coordinates. Imports are
inside: the peers live in environments that do not know each other.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import pkgutil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata
    from numpy.typing import NDArray
    from scvi.model import SCVI

PACKAGE = {
    "unintegrated": "numpy",
    "combat": "scanpy",
    "harmony1": "harmonypy",
    "harmony": "harmonypy",
    "scanorama": "scanorama",
    "scvi": "scvi.model",
    "scanvi": "scvi.model",
    "concord": "concord",
    "scbiot": "scbiot.ot",
    "muport": "muport:Integration",
}


def _adata(X: NDArray[np.float32], batch: NDArray[np.str_]) -> anndata.AnnData:
    import anndata as ad
    import pandas as pd

    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=[f"cell{i}" for i in range(len(X))])
    return ad.AnnData(np.zeros((len(X), 1), np.float32), obs=obs, obsm={"X_pca": X})


def _expression(values: NDArray[np.float32], batch: NDArray[np.str_], **columns: NDArray[np.str_]) -> anndata.AnnData:
    adata = _adata(values, batch)
    return type(adata)(values.copy(), obs=adata.obs.assign(**columns))


def unintegrated(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """The input itself."""
    return X


def combat(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """scanpy's ComBat on the coordinates: a mean and a variance of each batch and coordinate."""
    import scanpy as sc

    adata = _expression(X, batch)
    sc.pp.combat(adata, key="batch")
    return np.asarray(adata.X, np.float32)


def harmony(X: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """harmonypy's ``run_harmony``."""
    import harmonypy
    import pandas as pd

    meta = pd.DataFrame({"batch": batch})
    out = np.asarray(harmonypy.run_harmony(X, meta, "batch", verbose=False).Z_corr)
    return out if out.shape == X.shape else out.T


def scanorama(log: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """Scanorama's ``integrate``."""
    import scanorama as package

    rows = [np.flatnonzero(batch == name) for name in np.unique(batch)]
    genes = [f"gene{i}" for i in range(log.shape[1])]
    with contextlib.redirect_stdout(io.StringIO()):
        parts, _ = package.integrate([log[r] for r in rows], [genes] * len(rows))
    out = np.empty((len(log), parts[0].shape[1]), np.float32)
    out[np.concatenate(rows)] = np.concatenate(parts)
    return out


def scvi(counts: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """scVI of scvi-tools."""
    return _trained_scvi(counts, batch, np.repeat("", len(batch))).get_latent_representation()


def scanvi(counts: NDArray[np.float32], batch: NDArray[np.str_], label: NDArray[np.str_]) -> NDArray[np.float32]:
    """scANVI of scvi-tools, from a trained scVI. It sees the labels of all cells."""
    from scvi.model import SCANVI

    model = SCANVI.from_scvi_model(_trained_scvi(counts, batch, label), unlabeled_category="unknown")
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation()


def _trained_scvi(counts: NDArray[np.float32], batch: NDArray[np.str_], label: NDArray[np.str_]) -> SCVI:
    import scvi as package

    package.settings.verbosity = 30
    package.settings.seed = 0
    adata = _expression(counts, batch, label=label)
    package.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="label")
    model = package.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def concord(log: NDArray[np.float32], batch: NDArray[np.str_]) -> NDArray[np.float32]:
    """CONCORD, with the batch as its domain."""
    import tempfile

    from concord import Concord

    adata = _expression(log, batch)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = Concord(adata, save_dir=folder, domain_key="batch", device="cpu", seed=0)
        model.fit_transform(output_key="Concord", save_model=False)
    return np.asarray(adata.obsm["Concord"], np.float32)


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


METHODS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "unintegrated": unintegrated,
    "combat": combat,
    "harmony1": harmony,
    "harmony": harmony,
    "scanorama": scanorama,
    "scvi": scvi,
    "scanvi": scanvi,
    "concord": concord,
    "scbiot": scbiot,
    "muport": muport,
}


def inputs(method: str) -> tuple[str, ...]:
    """The fields of ``Cells`` that the method sees."""
    return tuple(inspect.signature(METHODS[method]).parameters)


def load(method: str) -> Callable[..., NDArray[np.float32]]:
    """The function of ``method``, its package imported."""
    pkgutil.resolve_name(PACKAGE[method])
    return METHODS[method]
