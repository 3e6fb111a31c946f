"""Simulated unpaired cells of two modalities: eight types, few and noisy shared features, other depths, other types."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import anndata as ad
import mudata as md
import numpy as np
from benchmarks.modalities._unpaired import Truth, zscore
from sklearn.decomposition import PCA

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("equal types", "rare types", "other proportions", "lacking types")
SETTINGS = tuple(product(KINDS, (300, 1000), (40, 150)))  # kind, cells of each modality, shared features
SEEDS = (10, 11, 12)
N_TYPES, N_STATES, N_OWN = 8, 12, 20


def proportions(kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, 8) proportions of the types in both modalities."""
    found = np.ones((2, N_TYPES))
    if kind == "rare types":
        found[:, -2:] = 0.08
    elif kind == "other proportions":
        found = rng.dirichlet(np.full(N_TYPES, 1.5), 2)
    elif kind == "lacking types":
        lacking = rng.permutation(N_TYPES)[:4]
        found[0, lacking[:2]], found[1, lacking[2:]] = 0, 0
    return found / found.sum(axis=1, keepdims=True)


def simulated(kind: str, n_cells: int, n_features: int, seed: int) -> tuple[md.MuData, Truth]:
    """RNA and ATAC of one setting; both measure the same cells where their proportions are the same.

    A cell has a state, near the center of its type in a tree of types. Shared features are linear in the state, times
    the depth of the cell, with noise; 30 % of the ATAC's do not follow the state, and the others have weights of their
    own. Own representations are the principal components of other, nonlinear features.
    """
    rng = np.random.default_rng(seed)
    levels = [rng.normal(size=(size, N_STATES)) for size in (2, 4, 8)]
    center = sum(
        w * level[np.arange(N_TYPES) * len(level) // N_TYPES] for w, level in zip((1.2, 1.2, 1), levels, strict=True)
    )
    share = proportions(kind, rng)
    paired = bool(np.array_equal(share[0], share[1]))
    spread = np.linspace(0.9, 0.2, N_STATES)
    types = [rng.choice(N_TYPES, n_cells, p=p) for p in share]
    states = [center[t] + spread * rng.normal(size=(n_cells, N_STATES)) for t in types]
    if paired:
        types[1], states[1] = types[0], states[0]
    depth = [rng.lognormal(0, sigma, size=(n_cells, 1)) for sigma in (0.3, 0.5)]
    weights = rng.normal(size=(2, N_STATES, n_features)) / np.sqrt(N_STATES)
    gain = rng.lognormal(0, 0.7, n_features) * (rng.random(n_features) < 0.7)
    loadings = (weights[0], weights[0] * gain + 0.4 * weights[1])
    noise = (2.0, 3.0)
    shared = [
        zscore(depth[m] * (states[m] @ loadings[m]) + noise[m] * rng.normal(size=(n_cells, n_features)))
        for m in range(2)
    ]
    axes = PCA(min(30, n_features - 1), random_state=0).fit(shared[0])
    order = (np.arange(n_cells), rng.permutation(n_cells))
    modalities = {}
    for m, name in enumerate(("rna", "atac")):
        signal = 2 * np.tanh(0.5 * states[m] @ rng.normal(size=(N_STATES, 40)) / np.sqrt(N_STATES))
        own = PCA(N_OWN, random_state=0).fit_transform(depth[m] * signal + 0.6 * rng.normal(size=(n_cells, 40)))
        adata = ad.AnnData(np.zeros((n_cells, 1), np.float32))
        adata.obs_names = [f"{name}:{i}" for i in order[m]]
        adata.obsm["X_shared"] = axes.transform(shared[m])[order[m]].astype(np.float32)
        adata.obsm["X_pca"] = own[order[m]].astype(np.float32)
        modalities[name] = adata
    modalities["rna"].obs["cell_type"] = [f"t{t}" for t in types[0]]
    label = np.array([f"t{t}" for t in types[1]])[order[1]]
    return md.MuData(modalities), Truth("simulated", "atac", label, paired, kind, order[1])
