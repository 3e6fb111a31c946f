"""Modalities without shared features or paired cells, aligned by Gromov-Wasserstein transport.

In the order of reading:

- ``_cell_geometry``: distances between the cells of one modality, by several graphs and metrics
- ``_gromov_plans``: descents from many plans, the choice of one, and its refinement
- ``_gromov_space``: the fit, and the map of cells to the common space
"""
