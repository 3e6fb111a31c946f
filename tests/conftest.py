"""One tiny unpaired MuData for every test: unequal modalities, one shared cell, a batch in ATAC only."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import settings
from mudata import MuData

# The same examples in every run; `pytest --hypothesis-profile=fuzz` searches among new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=400)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the promise that a test holds into the JUnit report, from which docs/reliability.md is made."""
    for item in items:
        item.user_properties += [("promise", mark.args[0]) for mark in item.iter_markers("promise")]


def modality(names: list[str], d: int, seed: int, prefix: str, batches: list[str]) -> AnnData:
    rng = np.random.default_rng(seed)
    adata = AnnData(rng.poisson(1.0, (len(names), 6)).astype(np.float32))
    adata.obs_names, adata.var_names = names, [f"{prefix}{j}" for j in range(6)]
    adata.obs["batch"] = pd.Categorical([batches[i % len(batches)] for i in range(len(names))])
    adata.obsm["X_own"] = rng.normal(size=(len(names), d))
    adata.obsm["X_shared"] = rng.normal(size=(len(names), 4)).astype(np.float32)
    return adata


@pytest.fixture
def mdata() -> MuData:
    """30 RNA and 20 ATAC cells, one in both (``shared0``); labels in RNA only; batch ``b2`` in ATAC only."""
    rna = modality([f"r{i}" for i in range(29)] + ["shared0"], 5, 0, "g", ["b0", "b1"])
    atac = modality([f"a{i}" for i in range(19)] + ["shared0"], 3, 1, "p", ["b2", "b1"])
    rna.obs["cell_type"] = [f"t{i % 3}" for i in range(30)]
    return MuData({"rna": rna, "atac": atac})


@pytest.fixture
def adata() -> AnnData:
    """40 cells of two batches and two types, separated in ``X_pca``."""
    rng = np.random.default_rng(3)
    adata = AnnData(rng.poisson(1.0, (40, 6)).astype(np.float32))
    adata.obs_names = [f"c{i}" for i in range(40)]
    adata.obs["batch"] = [f"b{i % 2}" for i in range(40)]
    adata.obs["cell_type"] = [f"t{i % 4 // 2}" for i in range(40)]
    kind = (np.arange(40) % 4 // 2)[:, None]
    adata.obsm["X_pca"] = rng.normal(size=(40, 5)) + 4.0 * kind
    return adata


@pytest.fixture(scope="session")
def fake() -> type:
    """The model of ``tests/data/fake_model.py``; loaded late, since it brings torch and scvi-tools."""
    spec = importlib.util.spec_from_file_location("fake_model", Path(__file__).parent / "data" / "fake_model.py")
    module = sys.modules["fake_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Fake
