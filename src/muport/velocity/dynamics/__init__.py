"""Paths along a velocity field.

In the order of reading:

- ``_paths``: the problem to solve, why a path ends, how its points are stored
- ``_runge_kutta``: solvers of ordinary differential equations
- ``_ode``: deterministic paths
- ``_sde``: stochastic paths, by the Euler-Maruyama scheme
- ``_tangent_space``: local tangent spaces of the data, for noise within them
- ``_manifold``: nearest cells, a rule for paths that leave the data, a field interpolated from cells
- ``_start_cells``: the choice of the cells from which paths start
- ``_path_clusters``: paths with the cells and clusters they pass
- ``_trajectories``: trajectories of cells and flows of particles
- ``_embedding_projection``: velocities in a two-dimensional embedding
"""
