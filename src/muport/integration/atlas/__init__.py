"""``integrate_centroids``: any number of cells, from file to file.

In the order of reading:

- ``_integrate_centroids``: the public function: read, fit, map, write, resume
- ``_sampling``: cells that are read by rows, and a sample of every group in one sequential pass
- ``_centroid_fit``: weighted centroids of the sample, and their transport
- ``_earlier_runs``: results on disk of earlier calls, which are returned, continued or refused
- ``_chunk_map``: application of the fitted map to all cells in chunks, in this process or on a cluster
"""
