"""Scores that muport.metrics has not: scib-metrics' ten, overlap of neighbourhoods, moves, accuracies."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    balanced_accuracy_score,
    normalized_mutual_info_score,
)
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from benchmarks.common._data import Cells
    from numpy.typing import NDArray

MIN_CELLS = 30  # of a type, for its iLISI


def scib(cells: Cells, embeddings: Mapping[str, NDArray[np.float32]]) -> pd.DataFrame:
    """Ten scores and three aggregates (columns) of each embedding (rows), not min-max scaled."""
    import anndata as ad
    from scib_metrics.benchmark import Benchmarker

    adata = ad.AnnData(np.zeros((len(cells.X), 1), np.float32), obsm={"X_pre": cells.X, **embeddings})
    adata.obs["batch"], adata.obs["cell_type"] = cells.batch, cells.label
    adata.obs = adata.obs.astype("category")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Benchmarker(
            adata, "batch", "cell_type", list(embeddings), pre_integrated_embedding_obsm_key="X_pre", progress_bar=False
        )
        bench.benchmark()
        scores = bench.get_results(min_max_scale=False)
    return scores.loc[list(embeddings)].astype(float)


def kmeans_from_ten_starts(cells: Cells, Z: NDArray[np.float32]) -> tuple[float, float]:
    """NMI and ARI of the types and the tightest of ten k-means clusterings with as many clusters as types."""
    cluster = KMeans(len(np.unique(cells.label)), n_init=10, random_state=0).fit_predict(Z)
    nmi = normalized_mutual_info_score(cells.label, cluster)
    return float(nmi), float(adjusted_rand_score(cells.label, cluster))


def cilisi(cells: Cells, Z: NDArray[np.float32], k: int = 90) -> float:
    """Mean over the cells of scib-metrics' iLISI among the cells of the same type (types in one batch are left out).

    0: each cell's neighbors are of one batch; 1: of all batches alike. Mixing types does not raise it.
    """
    from scib_metrics import ilisi_knn
    from scib_metrics.nearest_neighbors import NeighborsResults

    scores, sizes = [], []
    for name in np.unique(cells.label):
        rows = np.flatnonzero(cells.label == name)
        batch = np.unique(cells.batch[rows], return_inverse=True)[1]
        if batch.max() == 0 or len(rows) < MIN_CELLS:
            continue
        found = NearestNeighbors(n_neighbors=min(k, len(rows))).fit(Z[rows]).kneighbors(Z[rows])
        scores.append(float(ilisi_knn(NeighborsResults(indices=found[1], distances=found[0]), batch)))
        sizes.append(len(rows))
    return float(np.average(scores, weights=sizes)) if scores else float("nan")


def neighbours(X: NDArray[np.float32], k: int = 15) -> NDArray[np.int64]:
    """Rows of the ``k`` nearest other cells, (n, k), exact Euclidean."""
    return NearestNeighbors(n_neighbors=k).fit(X).kneighbors(return_distance=False)


def overlap(X: NDArray[np.float32], Z: NDArray[np.float32], k: int = 15) -> float:
    """Mean share of a cell's ``k`` neighbours in ``X`` that are still so in ``Z``."""
    pairs = zip(neighbours(X, k), neighbours(Z, k), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in pairs]))


def kept_within_batches(cells: Cells, Z: NDArray[np.float32], k: int = 30) -> float:
    """Mean share of a cell's ``k`` neighbours in its own batch that are still so in ``Z``."""
    shares = np.ones(len(Z))
    for batch in np.unique(cells.batch):
        rows = np.flatnonzero(cells.batch == batch)
        if len(rows) > 2:
            shares[rows] = overlap(cells.X[rows], Z[rows], min(k, len(rows) - 2))
    return float(shares.mean())


def rms(X: NDArray[np.float32]) -> float:
    """Root mean square distance of a cell from the mean."""
    return float(np.sqrt(np.square(X - X.mean(0)).sum(1).mean()))


def move(X: NDArray[np.float32], Z: NDArray[np.float32]) -> float:
    """Mean distance a cell moved, over the root mean square distance of a cell from the mean."""
    return float(np.linalg.norm(Z - X, axis=1).mean()) / rms(X)


def label_accuracy(X: NDArray[np.float32], label: NDArray[np.str_], which: str, k: int = 15) -> float:
    """Share of the cells of type ``which`` whose ``k`` neighbours vote for it (ties: the first in the alphabet)."""
    types, code = np.unique(label, return_inverse=True)
    rows = np.flatnonzero(label == which)
    found = NearestNeighbors(n_neighbors=k + 1).fit(X).kneighbors(X[rows], return_distance=False)
    votes = [
        np.bincount(code[near[near != row][:k]], minlength=len(types)) for row, near in zip(rows, found, strict=True)
    ]
    return float(np.mean(np.argmax(votes, 1) == np.flatnonzero(types == which)[0]))


def accuracies(truth: NDArray[np.str_], found: NDArray[np.str_], known: NDArray[np.bool_]) -> tuple[float, float]:
    """Accuracy and balanced accuracy over the cells ``known`` to have a type of the reference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return (
            float(accuracy_score(truth[known], found[known])),
            float(balanced_accuracy_score(truth[known], found[known])),
        )
