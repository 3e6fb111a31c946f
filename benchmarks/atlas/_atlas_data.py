"""Simulated atlases on disk, written block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 100_000
N_BATCHES, N_DIMS, N_TYPES = 20, 50, 12


def write_atlas(path: Path, n_cells: int, seed: int = 0) -> None:
    """Write a zarr that anndata reads: cells of 20 batches in random order, drawn as by ``synthetic``."""
    import pandas as pd
    import zarr
    from anndata.io import write_elem

    rng = np.random.default_rng(seed)
    spread = (1 / np.sqrt(1 + np.arange(N_DIMS))).astype(np.float32)
    types = (rng.normal(size=(N_TYPES, N_DIMS)) * spread * 4).astype(np.float32)
    shift = rng.normal(size=(N_BATCHES, 1, N_DIMS)) + 0.3 * rng.normal(size=(N_BATCHES, N_TYPES, N_DIMS))
    place = (types + shift * spread).astype(np.float32)
    share = rng.dirichlet(np.full(N_TYPES, 2.0), size=N_BATCHES).cumsum(1)
    root = zarr.open_group(path, mode="w")
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    write_elem(root, "var", pd.DataFrame(index=pd.Index([], dtype=str)))
    obs = root.create_group("obs")
    columns = {"_index": "_index", "column-order": ["batch", "cell_type"]}
    obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"} | columns)
    names = obs.create_array("_index", shape=(n_cells,), chunks=(BLOCK,), dtype=str)
    names.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    codes = {}
    for key, number in (("batch", N_BATCHES), ("cell_type", N_TYPES)):
        write_elem(obs, key, pd.Categorical.from_codes([0], [f"{key}{i:02d}" for i in range(number)]))
        del obs[f"{key}/codes"]
        codes[key] = obs[key].create_array("codes", shape=(n_cells,), chunks=(BLOCK,), dtype="int8")
        codes[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    obsm = root.create_group("obsm")
    obsm.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    x = obsm.create_array("X_pca", shape=(n_cells, N_DIMS), chunks=(BLOCK, N_DIMS), dtype="float32", compressors=None)
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start in range(0, n_cells, BLOCK):
        rows = slice(start, min(start + BLOCK, n_cells))
        n = rows.stop - rows.start
        batch = rng.integers(N_BATCHES, size=n)
        kind = (rng.random(n)[:, None] > share[batch]).sum(1).clip(max=N_TYPES - 1)
        x[rows] = place[batch, kind] + rng.standard_normal((n, N_DIMS), dtype=np.float32) * spread
        codes["batch"][rows], codes["cell_type"][rows] = batch.astype(np.int8), kind.astype(np.int8)
        names[rows] = np.arange(rows.start, rows.stop).astype(np.dtypes.StringDType())
