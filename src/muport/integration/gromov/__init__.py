"""Modalities without shared features or paired cells, aligned by Gromov-Wasserstein transport.

In the order of reading:

- ``_cell_geometry``: distances between the cells of one modality, from several graphs and metrics
- ``_gromov_plans``: many descents from random plans, the choice of one, and its refinement
- ``_gromov_space``: the fit, and the map of cells into the common space
"""
