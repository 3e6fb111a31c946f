"""Nearest neighbours and k-means between arrays, one interface over faiss, pynndescent and torch."""

from muport.neighbors._arrays import as_points
from muport.neighbors._batched import BatchedKMeans, batched_kmeans
from muport.neighbors._kmeans import KMeansResult, kmeans
from muport.neighbors._knn import Neighbors, knn

__all__ = ["BatchedKMeans", "KMeansResult", "Neighbors", "as_points", "batched_kmeans", "kmeans", "knn"]
