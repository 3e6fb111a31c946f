"""Cells whose types and batch effects are known, and short ways to integrate them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport.integration._fitted_state import transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._fit import IntegrationFit, fit_shared_centers
from muport.neighbors import knn

OFF = {"strength": 0.5, "conservation": 0.5, "prototypes": 0.5, "sharpen": 0.0, "supervision": 0.0, "projector": 0.0}


@dataclass(frozen=True, eq=False)
class Sim:
    """Cells (n, d), their batches and types."""

    x: np.ndarray
    batch: np.ndarray
    kind: np.ndarray

    def __getitem__(self, rows: Any) -> Sim:
        return Sim(self.x[rows], self.batch[rows], self.kind[rows])

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.square(self.x - self.x.mean(0)).sum(1).mean()))


def draw(
    n: int = 600,
    d: int = 8,
    n_batches: int = 2,
    n_types: int = 5,
    shift: float = 4.0,
    local: float = 0.5,
    noise: float = 0.7,
    seed: int = 0,
    rare: float | None = None,
    lacking: tuple[tuple[int, int], ...] = (),
) -> Sim:
    """Types far apart, each batch moved by `shift`, each type of it by `local` more; `lacking` are (batch, type)."""
    rng = np.random.default_rng(seed)
    center = 3 * rng.normal(size=(n_types, d))
    way = rng.normal(size=(n_batches, 1, d))
    way *= shift / np.linalg.norm(way, axis=2, keepdims=True)
    batch, kind = rng.integers(n_batches, size=n), rng.integers(n_types, size=n)
    if rare is not None:
        kind = np.where(rng.random(n) < rare, n_types, rng.integers(n_types, size=n))
        center = np.vstack([center, 3 * rng.normal(size=(1, d))])
    for absent_from, one in lacking:
        gone = (batch == absent_from) & (kind == one)
        batch[gone] = (absent_from + 1 + rng.integers(max(1, n_batches - 1), size=int(gone.sum()))) % n_batches
    way = way + local * rng.normal(size=(n_batches, len(center), d)) * (shift > 0)
    x = center[kind] + way[batch, kind] + noise * rng.normal(size=(n, d))
    return Sim(x.astype(np.float32), batch, kind)


def integrate(
    sim: Sim,
    label: np.ndarray | None = None,
    seed: int = 0,
    max_iter: int = 15,
    reference: tuple = (),
    **hyperparameters: float,
) -> tuple[np.ndarray, IntegrationFit]:
    """Coordinates after a fit on arrays; hyperparameters that are not named are as in `OFF`."""
    names = tuple(f"b{i}" for i in range(sim.batch.max() + 1))
    cells = standardize_cells(sim.x, sim.batch, names, label)
    fixed = tuple(i for i, name in enumerate(cells.group_names) if name in reference)
    found = fit_shared_centers(
        cells,
        Hyperparameters(**{**OFF, **hyperparameters}),
        FitOptions(seed=seed, max_iter=max_iter, fixed_groups=fixed),
    )
    code = np.array([found.state.groups.index(name) for name in names])[sim.batch]
    return transform_cells(sim.x, code, found.state), found


def neighbor_accuracy(z: np.ndarray, kind: np.ndarray, k: int = 15) -> np.ndarray:
    """(n_types,) share of each type's cells whose neighbours, by majority, are of their type."""
    near = kind[knn(z, k, method="exact").indices]
    votes = np.stack([(near == t).sum(1) for t in range(kind.max() + 1)], 1)
    right = votes.argmax(1) == kind
    return np.array([right[kind == t].mean() if (kind == t).any() else np.nan for t in range(kind.max() + 1)])


def as_anndata(sim: Sim, prefix: str = "c") -> AnnData:
    adata = AnnData(np.ones((len(sim.x), 1), np.float32))
    adata.var_names = [f"{prefix}_feature"]
    adata.obs_names = [f"{prefix}{i}" for i in range(len(sim.x))]
    adata.obs["batch"] = pd.Categorical([f"b{b}" for b in sim.batch])
    adata.obs["cell_type"] = pd.Categorical([f"T{t}" for t in sim.kind])
    adata.obsm["X_pca"] = sim.x.copy()
    return adata


def model_of(
    adata: AnnData, train: dict[str, Any] | None = None, labels_key: str | None = None, **hyperparameters: Any
) -> Any:
    """Set up and train on the CPU without a progress bar."""
    from muport import Integration

    Integration.setup_anndata(adata, "X_pca", batch_key="batch", labels_key=labels_key)
    model = Integration(adata, **hyperparameters)
    model.train(**{"accelerator": "cpu", "progress": False, **(train or {})})
    return model


@dataclass(frozen=True)
class Kit:
    """What the tests of this folder share; a conftest cannot be imported from."""

    draw = staticmethod(draw)
    integrate = staticmethod(integrate)
    neighbor_accuracy = staticmethod(neighbor_accuracy)
    as_anndata = staticmethod(as_anndata)
    model_of = staticmethod(model_of)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def measured():
    """Reader of measured cells: name -> Sim; skips without the folder."""

    def read(name: str) -> Sim:
        folder = os.environ.get("MUPORT_DATA")
        if not folder or not (Path(folder) / f"{name}.h5ad").exists():
            pytest.skip(f"MUPORT_DATA holds no {name}")
        from muport.datasets import load

        adata = load(name)
        code = {c: pd.Categorical(adata.obs[c]).codes.astype(np.int64) for c in ("batch", "cell_type")}
        return Sim(np.asarray(adata.obsm["X_pca"], np.float32), code["batch"], code["cell_type"])

    return read
