"""Write the saved models of the present format: ``python tests/golden/golden_models.py [FOLDER]``.

There is one folder for each schema version of `muport._schema_version`: version 0.1.0 wrote ``schema_1``. A folder that
was released is not written again: `test_golden.py` shows that later versions read it. `golden_results.py` writes the
results beside the models.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

import muport
from muport._schema_version import SCHEMA_VERSION

HERE = Path(__file__).parent
QUIET = {"progress": False, "accelerator": "cpu"}


def modality(n: int, d: int, prefix: str, seed: int) -> AnnData:
    """Cells of three types and two batches, with a representation of their own and a shared one."""
    rng = np.random.default_rng(seed)
    kind, batch = np.arange(n) % 3, np.arange(n) // 3 % 2
    adata = AnnData(rng.poisson(2.0, (n, 4)).astype(np.float32))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(n)], [f"{prefix}{j}" for j in range(4)]
    adata.obs["batch"] = pd.Categorical([f"b{b}" for b in batch])
    adata.obs["cell_type"] = pd.Categorical([f"t{t}" for t in kind])
    adata.obs["time"] = np.linspace(0, 1, n)
    adata.obs["sample"] = [f"p{i % 8}" for i in range(n)]
    adata.obs["condition"] = [("case", "control")[i % 2] for i in range(n)]
    center = 4 * np.random.default_rng(7).normal(size=(3, d))
    x = center[kind] + batch[:, None] + rng.normal(size=(n, d))
    x[:, 0] += 3 * adata.obs["time"]
    x[:, 1] += 2 * (np.arange(n) % 2)
    adata.obsm["X_own"] = x.astype(np.float32)
    adata.obsm["X_shared"] = (x[:, :4] + rng.normal(size=(n, 4))).astype(np.float32)
    return adata


def two_modalities(n: int = 120, both: int = 60, seed: int = 0) -> MuData:
    """`both` cells in two modalities, the others in one."""
    rna, atac = modality(n, 5, "g", seed), modality(n, 4, "p", seed + 1)
    atac.obs_names = [f"c{i}" if i < both else f"a{i}" for i in range(n)]
    return MuData({"rna": rna, "atac": atac})


OWN = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "rna:cell_type"}


def integration(data: MuData, setup: dict[str, Any], train: dict[str, Any] | None = None, **options: Any) -> Any:
    muport.Integration.setup_mudata(data, batch_key="batch", **setup)
    model = muport.Integration(data, **options)
    model.train(**QUIET, max_iter=4, **(train or {}))
    return model


def batches() -> Any:
    data = MuData({"rna": modality(240, 5, "g", 0)})
    return integration(data, {"use_rep": {"rna": "X_own"}, "labels_key": "cell_type"})


def joint() -> Any:
    return integration(two_modalities(), OWN)


def joint_with_shared() -> Any:
    return integration(two_modalities(), {**OWN, "shared_rep": "X_shared"})


def shared() -> Any:
    return integration(two_modalities(both=0), {**OWN, "shared_rep": "X_shared"})


def gromov() -> Any:
    return integration(two_modalities(both=0), OWN)


def vae() -> Any:
    data = MuData({"rna": modality(150, 5, "g", 0)})
    setup = {"use_rep": {"rna": "X_own"}, "labels_key": "cell_type"}
    return integration(data, setup, {"max_epochs": 2}, refine="vae", vae_kwargs={"n_latent": 4})


def scbiot() -> Any:
    return integration(MuData({"rna": modality(150, 5, "g", 0)}), {"use_rep": {"rna": "X_own"}}, algorithm="scbiot")


def gmm() -> Any:
    adata = modality(240, 5, "g", 0)
    muport.GMM.setup_anndata(adata, use_rep="X_own", labels_key="condition")
    model = muport.GMM(adata)
    model.train(k_comps=2, n_comps=2, **QUIET)
    return model


def velocity() -> Any:
    adata = modality(200, 5, "g", 0)
    muport.Velocity.setup_anndata(adata, use_rep="X_own", time_key="time", labels_key="cell_type")
    model = muport.Velocity(adata)
    model.train(n_steps=30, **QUIET)
    return model


MODELS = {f.__name__: f for f in (batches, joint, joint_with_shared, shared, gromov, vae, scbiot, gmm, velocity)}


def query_of(name: str) -> AnnData | MuData:
    """New cells of the kind that a model was fitted to."""
    if name in ("gmm", "velocity"):
        return modality(80, 5, "g", 5)
    return (
        MuData({"rna": modality(60, 5, "g", 5)}) if name in ("batches", "vae", "scbiot") else two_modalities(60, 20, 5)
    )


def answers(name: str, model: Any, query: AnnData | MuData) -> dict[str, np.ndarray]:
    """What the model says of new cells."""
    if name == "gmm":
        return {"latent": model.map_query(query), "predicted": model.predict(query, soft=True).to_numpy()}
    if name == "velocity":
        paths = model.query_velocity(query.obsm["X_own"], query.obs["time"].to_numpy())
        return {"velocity": model.get_velocity(query), "at points": np.asarray(paths)}
    results = {"latent": model.map_query(query)}
    if name not in ("scbiot",):
        results["labels"] = model.predict(soft=True, mdata=query).to_numpy()
    return results


#: Models that are saved with their cells, one an AnnData and one a MuData.
WITH_CELLS = ("gmm", "joint")


def main(folder: Path) -> None:
    """Train, save, and keep what the loaded models say."""
    for name, make in MODELS.items():
        model = make()
        model.save(folder / name, overwrite=True, save_anndata=name in WITH_CELLS)
        loaded = type(model).load(folder / name, adata=False, accelerator="cpu")
        np.savez_compressed(folder / name / "expected.npz", **answers(name, loaded, query_of(name)))
        if name in WITH_CELLS:
            np.save(folder / name / "expected_cells.npy", model.get_latent_representation())
        print(name, sum(f.stat().st_size for f in (folder / name).iterdir()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"schema_{SCHEMA_VERSION}")
