"""Cells with a pseudotime: velocities, trajectories, and the fate of each cell."""

import muport

cells = muport.datasets.simulated_dynamics("bifurcation", n_cells=400, n_dims=10, random_state=0)

muport.Velocity.setup_anndata(cells, time_key="time", labels_key="branch")
model = muport.Velocity(cells)
model.train(n_steps=150, n_bootstrap=4, progress=False)
cells.obsm["velocity_fit"] = model.get_velocity()
fates = model.get_fates()
drivers = model.get_drivers(fates)
paths = model.compute_trajectories(start_cluster="trunk", n_trajectories=5, n_steps=50)

assert muport.metrics.velocity_error(cells.obsm["velocity_fit"], cells.obsm["velocity"]).cosine > 0.9
assert set(fates.columns) == {"A", "B"}
assert set(drivers["fate"]) == {"A", "B"}
assert len(paths.terminal) == 5
