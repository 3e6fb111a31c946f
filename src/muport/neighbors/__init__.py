"""Nearest neighbours and k-means between arrays, one interface over faiss, pynndescent and torch."""

from muport.neighbors._batched_kmeans import BatchedKMeans, batched_kmeans
from muport.neighbors._kmeans import KMeansResult, kmeans
from muport.neighbors._knn import Neighbors, knn
from muport.neighbors._points import as_points

__all__ = ["BatchedKMeans", "KMeansResult", "Neighbors", "as_points", "batched_kmeans", "kmeans", "knn"]
