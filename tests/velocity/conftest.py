"""Small data whose velocity is known, and models of them that the tests share."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

import muport
from muport.velocity import Velocity

CPU = {"accelerator": "cpu", "progress": False}


class Kit:
    """What the tests of the model and of its functions draw, fit and compare."""

    @staticmethod
    def draw(kind: str = "bifurcation", n_cells: int = 500, **kwargs) -> AnnData:
        adata = muport.datasets.simulated_dynamics(kind, n_cells=n_cells, n_dims=8, random_state=1, **kwargs)
        adata.obsm["X_umap"] = adata.obsm["X_true"] @ np.linalg.svd(adata.obsm["X_true"])[2][:2].T
        return adata

    @staticmethod
    def fit(adata: AnnData, setup: dict | None = None, model: dict | None = None, **train) -> Velocity:
        Velocity.setup_anndata(adata, **{"use_rep": "X_pca", "time_key": "time", **(setup or {})})
        fitted = Velocity(adata, **(model or {}))
        fitted.train(**{"n_steps": 60, **CPU, **train})
        return fitted

    @staticmethod
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture(scope="session")
def branching(kit) -> AnnData:
    """500 cells that part at t = .4 into A and B; not to be written to."""
    return kit.draw()


@pytest.fixture(scope="session")
def fitted(kit, branching) -> Velocity:
    """A model of them with labels, trained well enough to tell the branches apart."""
    return kit.fit(branching.copy(), {"labels_key": "branch"}, n_steps=200)
