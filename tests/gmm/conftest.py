"""A small cohort whose conditions differ in one cell state, and a model of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anndata import AnnData

import muport

#: Small ones: shares that differ between patients would hide a shift otherwise.
RIDGES = (0.01, 0.1, 1.0)


def draw(n_patients: int = 12, n_cells: int = 60, **settings: Any) -> AnnData:
    """Three states in five dimensions; one moves by four standard deviations."""
    plain = {
        "n_dims": 5, "n_states": 3, "n_genes": 20, "state_effect": 4.0, "noise": 1.0, "patient_offset": 0.1,
        "composition_noise": 0.0, "random_state": 0,
    }  # fmt: skip
    return muport.datasets.simulated_cohort(n_patients, n_cells, **plain | settings)


def model_of(adata: AnnData, labels_key: str | None = "condition", **settings: Any) -> muport.GMM:
    """A model that is set up but not fitted."""
    muport.GMM.setup_anndata(adata, labels_key=labels_key, **settings)
    return muport.GMM(adata)


@pytest.fixture(scope="session")
def drawn() -> Callable[..., AnnData]:
    return draw


@pytest.fixture(scope="session")
def set_up() -> Callable[..., muport.GMM]:
    return model_of


@pytest.fixture(scope="session")
def cohort() -> AnnData:
    """Not to be changed."""
    return draw()


@pytest.fixture(scope="session")
def model(cohort) -> muport.GMM:
    """Fitted; not to be changed."""
    fitted = model_of(cohort)
    fitted.fit_gmm(k_comps=3, refit="full", verbose=False)
    fitted.train_gmm(n_comps=2, ridge=RIDGES)
    return fitted
