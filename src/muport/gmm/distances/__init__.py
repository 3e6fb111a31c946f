"""Distances between patients.

In the order of reading:

- ``_bures``: squared Bures distances between covariances
- ``_mixture_wasserstein``: mixture Wasserstein distances (MW2)
- ``_cell_distances``: sliced and exact Wasserstein distances between the cells of patients
"""
