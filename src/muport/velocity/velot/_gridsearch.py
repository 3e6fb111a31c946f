"""Search over hyperparameters: a table of scores, with the runs that failed."""

from __future__ import annotations

import inspect
import time
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.progress import track

from muport.data import accept_data_names
from muport.metrics import cbdir, iccoh
from muport.velocity.velot._stored_results import read_matrix
from muport.velocity.velot._velocity_steps import velocity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata

__all__ = ["gridsearch"]


@accept_data_names
def gridsearch(
    adata: anndata.AnnData,
    param_grid: Mapping[str, Sequence[Any]],
    cluster_edges: Sequence[tuple[str, str]] | None = None,
    cluster_key: str = "clusters",
    velocity_metric_key: str = "velocity_umap",
    fixed_params: Mapping[str, Any] | None = None,
    pseudotime_key: str = "pseudotime",
    verbose: bool = True,
) -> pd.DataFrame:
    """Run :func:`velocity` for every combination of hyperparameters, each on a copy of the data, and score the result.

    Parameters
    ----------
    adata
        Cells with a representation, a time, clusters, and the embedding in which velocities are scored.
    param_grid
        Argument of :func:`velocity` -> values to try.
    cluster_edges
        Known transitions, (from, to), for the cross-boundary direction; without them only coherence is scored.
    cluster_key
        Column with the clusters.
    velocity_metric_key
        Velocities that are scored, with or without the prefix ``"velot_"``: ``"velocity_umap"`` in the embedding,
        ``"velocity_pca"`` in the basis.
    fixed_params
        Arguments of :func:`velocity` for all runs.
    pseudotime_key
        Column with the time.
    verbose
        Show a progress bar.

    Returns
    -------
    One row for each combination: its hyperparameters; ``iccoh_mean`` (in-cluster coherence) and ``iccoh_<cluster>``;
    with edges also ``cbdir_mean``, ``cbdir_reverse_mean``, ``contrast_mean`` (the mean over edges of half the
    difference between forward and reversed direction, which noise cannot raise) and ``cbdir_<from>-><to>``;
    ``seconds``; and ``status``, which is ``"ok"`` or the error of a run that failed, whose scores are missing.

    Raises
    ------
    KeyError
        If a column is missing, or an edge names an unknown cluster.
    ValueError
        If the grid is empty, or a name is no argument of :func:`velocity`.
    """
    fixed = {"time_key": pseudotime_key, "verbose": False, **(fixed_params or {})}
    _check(adata, param_grid, fixed, cluster_edges, cluster_key, pseudotime_key)
    combinations = [dict(zip(param_grid, values, strict=True)) for values in product(*param_grid.values())]
    rows = []
    for combination in track(combinations, "combinations", disable=not verbose, transient=True):
        start = time.perf_counter()
        try:
            scores = _score_run(adata, {**fixed, **combination}, cluster_edges, cluster_key, velocity_metric_key)
            status = "ok"
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            scores, status = {}, f"{type(error).__name__}: {error}"
        rows.append({**combination, **scores, "seconds": time.perf_counter() - start, "status": status})
    return pd.DataFrame(rows)


def _check(
    adata: anndata.AnnData,
    grid: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any],
    edges: Sequence[tuple[str, str]] | None,
    cluster_key: str,
    time_key: str,
) -> None:
    if not grid or not all(isinstance(v, list | tuple | np.ndarray) and len(v) for v in grid.values()):
        raise ValueError(f"param_grid={dict(grid)} must map at least one argument to a list of values.")
    valid = set(inspect.signature(velocity).parameters) - {"adata"}
    if unknown := sorted({*grid, *fixed} - valid):
        raise ValueError(f"{unknown} are no arguments of muport.velocity.velocity, which has {sorted(valid)}.")
    for name, key in (("cluster_key", cluster_key), ("pseudotime_key", time_key)):
        if key not in adata.obs:
            raise KeyError(f"{name}={key!r} is not in obs; the columns are {sorted(map(str, adata.obs.columns))}.")
    clusters = set(adata.obs[cluster_key].astype(str))
    if absent := sorted({str(c) for edge in edges or () for c in edge} - clusters):
        raise KeyError(f"cluster_edges name {absent}, which obs[{cluster_key!r}] lacks: it has {sorted(clusters)}.")


def _score_run(
    adata: anndata.AnnData,
    arguments: Mapping[str, Any],
    edges: Sequence[tuple[str, str]] | None,
    cluster_key: str,
    velocity_metric_key: str,
) -> dict[str, float]:
    copy = adata.copy()
    keys = (velocity_metric_key, f"velot_{velocity_metric_key}")
    for earlier in keys:
        # what another run, or another program, has written must not be scored in place of this run
        copy.obsm.pop(earlier, None)
    velocity(copy, **arguments)
    key = next((k for k in keys if k in copy.obsm), None)
    if key is None:
        raise KeyError(f"velocity_metric_key={velocity_metric_key!r} was not written; obsm has {sorted(copy.obsm)}.")
    embedding = arguments.get("project_basis", "X_umap")
    basis = embedding if key.endswith(embedding.removeprefix("X_")) else arguments.get("basis", "X_pca")
    labels = copy.obs[cluster_key].astype(str).to_numpy()
    x, v = (read_matrix(copy, name, "velocity_metric_key") for name in (basis, key))
    return _scores(x, v, labels, edges)


def _scores(
    x: np.ndarray[Any, Any],
    v: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    edges: Sequence[tuple[str, str]] | None,
) -> dict[str, float]:
    coherence = iccoh(x, v, labels)["coherence"]
    scores = {"iccoh_mean": float(coherence.mean())}
    if edges:
        table = cbdir(x, v, labels, edges)
        scores |= {
            "cbdir_mean": float(table["forward"].mean()),
            "cbdir_reverse_mean": float(table["reverse"].mean()),
            "contrast_mean": float(table["contrast"].mean()),
        }
        names = table["source"].astype(str) + "->" + table["target"].astype(str)
        scores |= {f"cbdir_{name}": float(value) for name, value in zip(names, table["forward"], strict=True)}
    return scores | {f"iccoh_{name}": float(value) for name, value in coherence.items()}
