"""The ground metric, learned so that transport between patients separates their conditions.

In the order of reading:

- ``_component_couplings``: plans between patients, and their displacements as a function of the metric W
- ``_pair_scatters``: the displacements of every pair of patients, as one matrix for each pair
- ``_kernel_ridge``: balanced, calibrated kernel ridge classification from distances
- ``_gradient_training``: iterative training of W (neighborhood components, triplets)
- ``_ground_metric``: the fit, and the distances under it
"""
