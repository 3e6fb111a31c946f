"""Train the three models and the VAE on small data in a process of its own; the results go to an npz file.

Usage: ``python determinism_worker.py OUT MODULE[,MODULE...] [VARIANT ...]``: the modules are imported first, in order.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import numpy as np

N = 240


def cells(variant: str) -> Any:
    """Two batches, three types, six patients of two conditions, and a time; changed as `variant` says."""
    import anndata
    import pandas as pd

    rng = np.random.default_rng(0)
    kind, batch, patient = rng.integers(3, size=N), rng.integers(2, size=N), np.arange(N) % 6
    names = {"names of batches": ["zebra", "ant"], "sorted names": ["m", "n"]}.get(variant, ["b0", "b1"])
    prefix = "x" if variant == "names of cells" else "c"
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(N)])
    obs["batch"], obs["type"] = np.array(names)[batch], np.array(["A", "B", "C"])[kind]
    obs["sample"], obs["condition"] = [f"p{i}" for i in patient], np.array(["k", "s"])[patient % 2]
    time = rng.uniform(size=N)
    obs["time"] = time
    x = 4 * np.eye(3, 6)[kind] + batch[:, None] + 0.5 * (patient % 2)[:, None] + 0.4 * rng.normal(size=(N, 6))
    path = np.stack([np.cos(3 * time), np.sin(3 * time), time], axis=1) + 0.05 * rng.normal(size=(N, 3))
    arrays = {"X_pca": x.astype(np.float32), "X_path": path.astype(np.float32)}
    adata = anndata.AnnData(np.ones((N, 2), np.float32), obs, obsm=arrays)
    return adata[order()].copy() if variant == "order of cells" else adata


def order() -> np.ndarray:
    return np.random.default_rng(1).permutation(N)


def results(variant: str) -> dict[str, np.ndarray]:
    """Return (n_cells, d) of each model, in the order of the cells that nothing was done to."""
    import muport

    seed = 1 if variant == "seed" else 0
    quiet = {"progress": False, "accelerator": "cpu", "random_state": seed}

    def fitted(name: str, setup: dict[str, Any], options: dict[str, Any], training: dict[str, Any]) -> Any:
        data, cls = cells(variant), getattr(muport, name)
        cls.setup_anndata(data, **setup)
        model = cls(data, **options)
        model.train(**training, **quiet)
        return model

    batches = {"batch_key": "batch", "labels_key": "type"}
    integration = fitted("Integration", batches, {}, {"max_iter": 3})
    found = {
        "Integration": integration.get_latent_representation(),
        "Labels": integration.predict(soft=True).to_numpy(),
        "VAE": fitted(
            "Integration", batches, {"refine": "vae"}, {"max_iter": 3, "max_epochs": 3}
        ).get_latent_representation(),
        "GMM": fitted(
            "GMM", {"sample_key": "sample", "labels_key": "condition"}, {}, {"k_comps": [2, 3], "n_comps": 2}
        ).get_latent_representation(),
        "Velocity": fitted(
            "Velocity", {"use_rep": "X_path", "time_key": "time", "batch_key": "batch"}, {}, {"n_steps": 120}
        ).get_velocity(),
    }
    if variant == "order of cells":
        found = {name: values[np.argsort(order())] for name, values in found.items()}
    return found


def main() -> None:
    """Write what each variant gives, as ``variant/model``."""
    out, modules, *variants = sys.argv[1:]
    for module in modules.split(","):
        importlib.import_module(module)
    warnings.simplefilter("ignore")
    np.savez(out, **{f"{v}/{name}": x for v in (variants or ["base"]) for name, x in results(v).items()})


if __name__ == "__main__":
    main()
