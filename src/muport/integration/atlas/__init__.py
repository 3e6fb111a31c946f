"""``integrate_centroids``: any number of cells, from file to file.

In the order of reading:

- ``_sampling``: a sample of every group in one sequential pass
- ``_centroid_fit``: weighted centroids of the sample, and their transport
- ``_chunk_map``: all cells through the fitted map, chunk by chunk, here or on a cluster
- ``_integrate_centroids``: the public function: read, fit, map, write, resume
"""
