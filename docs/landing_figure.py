"""Draw the figure of the landing page: `python docs/landing_figure.py` writes docs/_static/muport.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt

import muport

if TYPE_CHECKING:
    import anndata
    import pandas as pd

PATH = Path(__file__).parent / "_static" / "muport.png"


def integrated_batches() -> tuple[anndata.AnnData, anndata.AnnData]:
    rna = muport.datasets.simulated_multiome(n_cells=900, batch_effect=0.5, random_state=0)["rna"].copy()
    muport.pp.prepare(rna, umap=False)
    muport.Integration.setup_anndata(rna, batch_key="batch")
    model = muport.Integration(rna)
    model.train(progress=False)
    before, after = rna.copy(), rna.copy()
    muport.pp.umap(before, use_rep="X_pca")
    after.obsm["X_muport"] = model.get_latent_representation()
    muport.pp.umap(after)
    return before, after


def moving_cells() -> anndata.AnnData:
    adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=1000, random_state=0)
    muport.pp.umap(adata, use_rep="X_pca")
    muport.Velocity.setup_anndata(adata, time_key="time")
    model = muport.Velocity(adata)
    model.train(progress=False)
    adata.obsm["velot_velocity_pca"] = model.get_velocity()
    adata.obsm["velot_velocity_umap"] = model.project_to_embedding(adata.obsm["X_umap"])
    return adata


def compared_patients() -> tuple[pd.DataFrame, pd.Series]:
    adata = muport.datasets.simulated_cohort(n_patients=24, n_cells=200, n_dims=10, random_state=0)
    muport.GMM.setup_anndata(adata, labels_key="condition")
    model = muport.GMM(adata)
    model.train(k_comps=5, progress=False)
    condition = adata.obs.groupby("sample", observed=True)["condition"].first()
    return model.get_sample_embedding(), condition


def main() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
    before, after = integrated_batches()
    muport.pl.embedding(before, "X_umap", "batch", axes[0], title="Three batches, as measured", legend_loc=None)
    muport.pl.embedding(after, "X_umap", "cell_type", axes[1], title="Integration: cell types")
    muport.pl.velocity_stream(moving_cells(), color="branch", ax=axes[2])
    axes[2].set_title("Velocity: two fates")
    muport.pl.patient_embedding(*compared_patients(), axes[3], title="GMM: patients")
    figure.savefig(PATH, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
