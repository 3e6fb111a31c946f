"""Draw the pictures of the gallery: `python docs/gallery_figures.py [FOLDER]` writes one a function of `pl`.

The cells are measured ones where `MUPORT_DATA` names their folder, and simulated ones otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("agg")

import numpy as np
import scanpy as sc
from matplotlib import pyplot as plt

import muport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "_static" / "gallery"
PRESENT = muport.datasets.available()
BATCHES, MOVING, PATIENTS = "pancreas_wang_xin_scclassify", "pancreas_velocity_739", "melanoma_scfeatures_550"


def read_batches() -> anndata.AnnData:
    """Cells of two batches; the types of one batch are hidden in ``known_type``."""
    if BATCHES in PRESENT:
        cells = muport.datasets.load(BATCHES)
        known = cells.obs["batch"] == "xin"
    else:
        cells = muport.datasets.simulated_multiome(n_cells=900, n_peaks=10, random_state=0)["rna"].copy()
        muport.pp.prepare(cells, umap=False)
        known = cells.obs["batch"] != "batch0"
    cells.obs["known_type"] = cells.obs["cell_type"].astype(str).where(known, "unknown")
    return cells


def draw_integration() -> Iterator[tuple[str, Figure]]:
    cells = read_batches()
    muport.Integration.setup_anndata(cells, batch_key="batch", labels_key="known_type")
    model = muport.Integration(cells)
    model.train(progress=False)
    model.write(cells, overwrite=True)
    cells.obs["confidence"] = cells.obs["prediction_confidence"]
    sc.tl.umap(cells)
    before = cells.copy()
    sc.pp.neighbors(before, use_rep="X_pca")
    sc.tl.umap(before)
    cells.obsm["X_umap_before"] = before.obsm["X_umap"]
    gene = cells.var_names[int(np.argmax(cells.to_df().std()))]
    yield "embedding", muport.pl.embedding(cells, "umap", ["cell_type", gene], vmax="p99", return_fig=True)
    yield (
        "before_and_after",
        muport.pl.before_and_after(
            cells, "X_umap_before", "X_umap", ["batch", "cell_type"], model.metrics_, return_fig=True
        ),
    )
    query = cells[cells.obs["known_type"] == "unknown"].copy()
    truth, prediction = query.obs["cell_type"].astype(str), query.obs["prediction"].astype(str)
    sure = prediction.where(query.obs["confidence"] > 0.6, "unknown")
    yield "confusion", muport.pl.confusion(truth, sure, return_fig=True)
    yield "sankey", muport.pl.sankey(truth, sure, return_fig=True)
    yield (
        "prediction_confidence",
        muport.pl.prediction_confidence(query, "umap", truth="cell_type", threshold=0.6, return_fig=True),
    )


def read_moving_cells() -> tuple[anndata.AnnData, str]:
    """Cells with a pseudotime and a UMAP, and the column with their types."""
    if MOVING in PRESENT:
        cells, column = muport.datasets.load(MOVING), "clusters"
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
        muport.pp.pseudotime(cells, root_cluster="Ductal", labels_key=column)
    else:
        cells, column = muport.datasets.simulated_dynamics("bifurcation", n_cells=800, random_state=0), "branch"
        cells.obs["pseudotime"] = cells.obs["time"]
    sc.pp.neighbors(cells, use_rep="X_pca")
    sc.tl.umap(cells)
    return cells, column


def draw_velocity() -> Iterator[tuple[str, Figure]]:
    cells, column = read_moving_cells()
    muport.Velocity.setup_anndata(cells, time_key="pseudotime", labels_key=column)
    model = muport.Velocity(cells)
    model.train(n_bootstrap=5, progress=False)
    cells.obsm["velot_velocity"] = model.get_velocity()
    cells.obs["velot_confidence"] = model.get_confidence()
    start = cells.obs[column].iloc[cells.obs["pseudotime"].argmin()]
    yield "velocity_stream", muport.pl.velocity_stream(cells, color=column, return_fig=True)
    yield "velocity_quiver", muport.pl.velocity_quiver(cells, color=column, return_fig=True)
    yield "confidence", muport.pl.confidence(cells, return_fig=True)
    yield "training_curves", muport.pl.training_curves(model.history, return_fig=True)
    paths = model.compute_trajectories(start_cluster=start, n_trajectories=12)
    yield "trajectories", muport.pl.trajectories(cells, paths, color=column, return_fig=True)
    yield "flow", muport.pl.flow(cells, model.simulate_flow(n_particles=100), return_fig=True)
    muport.velocity.build_windows(cells)
    yield "windows", muport.pl.windows(cells, return_fig=True)
    ends = {"Alpha", "Beta", "Delta", "Epsilon", "A", "B"} & set(cells.obs[column])
    fates = model.get_fates(terminal_states=sorted(ends))
    yield "fate_summary", muport.pl.fate_summary(fates, cells, column, return_fig=True)
    if fates.shape[1] > 2:
        yield "circular_projection", muport.pl.circular_projection(fates, cells, column, return_fig=True)
    yield "coarse_graph", muport.pl.coarse_graph(model.get_states(), cells, groupby=column, return_fig=True)
    drivers = model.get_drivers(fates)
    first = drivers.groupby("fate").head(3)["feature"].unique()[:6].tolist()
    yield "gene_trends", muport.pl.gene_trends(cells, first, fates=fates, ncols=3, return_fig=True)
    fate = fates.columns[1]
    genes = drivers[drivers["fate"] == fate].head(30)["feature"].tolist()
    yield "driver_heatmap", muport.pl.driver_heatmap(cells, genes, fate=fates[fate], title=fate, return_fig=True)


def read_patients() -> tuple[anndata.AnnData, str]:
    """Cells of patients with a PCA and its loadings, and the column with the cell types."""
    if PATIENTS in PRESENT:
        cells = muport.datasets.load(PATIENTS)
        sc.pp.pca(cells, n_comps=10, random_state=0)
        return cells, "cellTypes"
    return muport.datasets.simulated_cohort(n_patients=20, n_cells=100, n_dims=10, random_state=0), "cell_type"


def draw_patients() -> Iterator[tuple[str, Figure]]:
    cells, column = read_patients()
    sample = "patient" if "patient" in cells.obs else "sample"
    muport.GMM.setup_anndata(cells, use_rep="X_pca", sample_key=sample, labels_key="condition")
    model = muport.GMM(cells)
    model.train(k_comps=5, n_comps=2, progress=False)
    condition = cells.obs.groupby(sample, observed=True)["condition"].first()
    yield "patient_embedding", muport.pl.patient_embedding(model.get_sample_embedding(), condition, return_fig=True)
    yield "distance_map", muport.pl.distance_map(model.get_sample_distances(), condition, return_fig=True)
    groups = model.match_components()
    types = model.get_component_types(column, groups)
    w = model.get_metric()
    yield (
        "components",
        muport.pl.components(
            model.get_latent_representation(), groups.means @ w.T, w @ groups.covariances @ w.T,
            weights=groups.shares.mean(axis=0), color=types.share.idxmax(axis=1), labels=cells.obs[column],
            return_fig=True,
        ),
    )  # fmt: skip
    ranking = model.rank_features(cells.varm["PCs"], cells.var_names, n=12)
    yield "feature_ranking", muport.pl.feature_ranking(ranking, "axis 1", return_fig=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (draw_integration, draw_velocity, draw_patients):
        for name, figure in draw():
            figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight", pil_kwargs={"optimize": True})
            plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
