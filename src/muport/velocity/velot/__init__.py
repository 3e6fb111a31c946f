"""The method as functions of an AnnData or MuData, under the names of VelOT.

In the order of reading:

- ``_stored_results``: keys under which results are written, and how they are read back
- ``_projection_functions``: velocities in an embedding
- ``_velocity_steps``: windows, couplings, network, and all of them in one call
- ``_trajectory_functions``: trajectories and flows
- ``_gridsearch``: a search over hyperparameters
"""
