"""Distances between patients.

In the order of reading:

- ``_bures``: Bures distances between covariances
- ``_mixture_wasserstein``: transport of components between two mixtures (MW2)
- ``_nearest_patients``: the nearest patients in large cohorts, with a linearized distance first
- ``_moment_distances``: coordinates from moments of the cells, without their sampling error
- ``_cell_distances``: sliced and exact Wasserstein distances between cells
- ``_classical_scaling``: coordinates of patients from their distances

Symbols: W (r, d) is a metric, under which a cell x is at W x and a covariance S is W S W'; P_kl is the plan between
the components k and l of two patients.
"""
