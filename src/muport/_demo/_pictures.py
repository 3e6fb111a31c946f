"""The pictures of the demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from muport import pl
from muport._keys import RESULT_KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from muport._demo._integrate import Outcome
    from muport._demo._move import Motion

_DPI = 130


def draw(outcome: Outcome, folder: Path, seed: int) -> list[Path]:
    """Write the pictures of one case, and put the UMAP coordinates into its data."""
    cells = _cells(outcome)
    for stage in ("before", "after"):
        cells.obsm[stage] = _umap(cells.obsm[f"{stage}_space"], seed)
    outcome.mdata.obsm["X_umap_before"], outcome.mdata.obsm["X_umap"] = cells.obsm["before"], cells.obsm["after"]
    written = [folder / f"{outcome.name}_umap.png"]
    _save(_umaps(cells, outcome.name), written[0])
    if outcome.truth is not None:
        written.append(folder / f"{outcome.name}_confusion.png")
        _save(_confusion(outcome), written[1])
    return written


def draw_motion(motion: Motion, folder: Path, seed: int) -> Path:
    """Write the stream of one case, and put the UMAP coordinates and the velocities in it into its data."""
    (part,) = motion.mdata.mod.values()
    space, velocity = np.asarray(motion.mdata.obsm[RESULT_KEYS.LATENT]), motion.model.get_velocity()
    xy = _umap(space, seed)
    arrows = motion.model.project_to_embedding(xy)
    motion.mdata.obsm["X_umap"], motion.mdata.obsm["velot_velocity_umap"] = xy, arrows
    motion.mdata.obsm["velot_velocity_integration"] = velocity
    drawn: dict[str, Any] = {"X_umap": xy, "velot_velocity_umap": arrows}
    cells = anndata.AnnData(obs=part.obs[["batch", "cell_type", "time"]], obsm=drawn)
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, key in zip(figure.subplots(1, 2), ("cell_type", "batch"), strict=True):
        pl.velocity_stream(cells, color=key, ax=ax)
    figure.suptitle(f"{motion.name}: velocity of {cells.n_obs:,} cells of two batches, integrated")
    path = folder / f"{motion.name}_stream.png"
    _save(figure, path)
    return path


def _cells(outcome: Outcome) -> anndata.AnnData:
    """All cells with what is drawn: both spaces, and everything known about a cell, the hidden types too."""
    mdata, parts = outcome.mdata, outcome.mdata.mod
    kind = pd.concat([part.obs["cell_type"].astype(str) for part in parts.values() if "cell_type" in part.obs])
    if outcome.truth is not None:
        kind = pd.concat([kind, outcome.truth])
    frames = [part.obs[["batch"]].astype(str).assign(modality=name.upper()) for name, part in parts.items()]
    obs = pd.concat(frames).assign(cell_type=kind).loc[mdata.obs_names]
    key = "X_pca" if len(parts) == 1 else "X_shared"
    before = pd.concat([pd.DataFrame(np.asarray(part.obsm[key]), index=part.obs_names) for part in parts.values()])
    after = np.asarray(mdata.obsm[RESULT_KEYS.LATENT])
    spaces: dict[str, Any] = {"before_space": before.loc[mdata.obs_names].to_numpy(), "after_space": after}
    return anndata.AnnData(obs=obs if len(parts) > 1 else obs.drop(columns="modality"), obsm=spaces)


def _umap(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    space: dict[str, Any] = {"space": x}
    work = anndata.AnnData(obsm=space)
    sc.pp.neighbors(work, use_rep="space", random_state=seed)
    sc.tl.umap(work, min_dist=0.3, random_state=seed)
    return np.asarray(work.obsm["X_umap"], dtype=np.float32)


def _umaps(cells: anndata.AnnData, name: str) -> Figure:
    """One row per column of ``obs``, before on the left and after on the right."""
    rows = [key for key in ("modality", "batch", "cell_type") if key in cells.obs]
    figure = Figure(figsize=(9.5, 3.6 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for row, key in zip(axes, rows, strict=True):
        for ax, stage in zip(row, ("before", "after"), strict=True):
            title = f"{stage} integration" if key == rows[0] else ""
            pl.embedding(cells, stage, key, ax, title=title, legend=stage == "after")
            ax.set(xlabel="UMAP1", ylabel="UMAP2" if stage == "before" else "")
        if legend := row[1].get_legend():
            legend.set_title(key.replace("_", " "), prop={"weight": "bold", "size": "small"})
            legend.set_alignment("left")
    figure.suptitle(f"{name}: {cells.n_obs:,} cells")
    return figure


def _confusion(outcome: Outcome) -> Figure:
    truth = outcome.truth
    types = 1 if truth is None else truth.nunique()
    figure = Figure(figsize=(3.4 + 0.5 * types, 2.2 + 0.4 * types), layout="constrained")
    FigureCanvasAgg(figure)
    ax = pl.confusion(truth, outcome.mdata.obs[RESULT_KEYS.PREDICTION], figure.subplots())
    ax.set_title(f"{outcome.name}: labels carried from RNA to ATAC", fontsize="medium")
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
