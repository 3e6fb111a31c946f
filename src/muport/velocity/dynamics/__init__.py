"""Paths through a velocity field.

In the order of reading:

- ``_paths``: what an integration returns, and why each path ends
- ``_runge_kutta``: solvers of ordinary differential equations
- ``_tangent_space``: noise along the tangent space of the data
- ``_sde``: stochastic paths by the Euler-Maruyama scheme
- ``_integrate``: one function for both
- ``_manifold``: distances to the data, and a stop rule for paths that leave them
- ``_start_cells``: the cells where paths start
- ``_follow``: how a path is followed among cells
- ``_trajectories``: trajectories from cell to cluster, and flows of particles
- ``_embedding_projection``: velocities in a two-dimensional embedding
"""
