"""Pictures of a result, as PNG files in the folder of ``--plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from muport.cli._report import Report

__all__ = ["draw_cells", "draw_patients", "draw_velocity"]


def draw_cells(data: Any, key: str, colors: list[str], folder: Path, report: Report) -> None:
    """Draw a UMAP of ``obsm[key]``, one panel for each column, and the confidence of the labels if there is one."""
    import anndata
    import scanpy as sc

    from muport import pl
    from muport.data import compute_graph, joined_column, write_results

    work = anndata.AnnData(obs=data.obs[[]].copy(), obsm={key: data.obsm[key]})
    for name in colors:
        column = joined_column(data, name)
        values = [*column.names, None]
        work.obs[name] = [values[code] for code in column.codes]
    write_results(work, compute_graph(work.obsm[key], min(15, work.n_obs - 1), key))
    sc.tl.umap(work)
    _save(report, folder, "cells", lambda path: pl.embedding(work, "X_umap", colors or None, save=path))
    if "prediction_confidence" in data.obs:
        for name in ("prediction", "prediction_confidence"):
            work.obs[name] = data.obs[name]
        _save(report, folder, "confidence", lambda path: pl.prediction_confidence(work, save=path))


def draw_patients(model: Any, condition: str | None, folder: Path, report: Report) -> None:
    """Draw the samples in two dimensions, and the distances between them."""
    from muport import pl

    patients = model.to_adata()
    known = patients.obs[condition] if condition is not None else None
    embedding, distances = model.get_sample_embedding(), model.get_sample_distances()
    _save(report, folder, "patients", lambda path: pl.patient_embedding(embedding, known, save=path))
    _save(report, folder, "distances", lambda path: pl.distance_map(distances, known, save=path))


def draw_velocity(data: Any, basis: str, color: str | None, folder: Path, report: Report) -> None:
    """Draw the velocities as streamlines over an embedding."""
    from muport import pl

    key = f"velot_velocity_{basis.removeprefix('X_')}"
    _save(report, folder, "velocity", lambda path: pl.velocity_stream(data, basis, key, color=color, save=path))


def _save(report: Report, folder: Path, name: str, draw: Any) -> None:
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(exist_ok=True)
    draw(folder / f"{name}.png")
    report.wrote(folder / f"{name}.png")
