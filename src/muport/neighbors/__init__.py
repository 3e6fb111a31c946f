"""Nearest neighbors and k-means of arrays, by faiss and torch.

In reading order:

- ``_points``: checks and conversion of points.
- ``_far_points``: points far from all others, whose neighbors are computed in float64.
- ``_knn``: k nearest neighbors, exact or approximate.
- ``_fuzzy_graph``: the neighbor graph of scanpy and UMAP.
- ``_kmeans``: k-means of one set of points, by faiss.
- ``_batched_kmeans``: k-means of many small sets of points at once, by torch.
"""

from muport.neighbors._batched_kmeans import BatchedKMeans, batched_kmeans
from muport.neighbors._kmeans import KMeansResult, kmeans
from muport.neighbors._knn import Neighbors, knn
from muport.neighbors._points import as_points

__all__ = ["BatchedKMeans", "KMeansResult", "Neighbors", "as_points", "batched_kmeans", "kmeans", "knn"]
