"""Fit once, save, and map new cells in a later session, from their counts."""

import numpy as np

import muport

cells = muport.datasets.simulated_multiome(n_cells=600, n_peaks=10, random_state=0)["rna"]
is_new = np.arange(cells.n_obs) % 5 == 0  # held out before anything is computed
new_cells, cells = cells[is_new].copy(), cells[~is_new].copy()
truth = new_cells.obs["cell_type"].astype(str)

muport.pp.prepare(cells, umap=False)
muport.Integration.setup_anndata(cells, batch_key="batch", labels_key="cell_type")
model = muport.Integration(cells)
model.train(progress=False)
model.save("fitted_model", save_anndata=False)

loaded = muport.Integration.load("fitted_model", adata=False)
coordinates = loaded.map_query(new_cells)
labels = loaded.predict(mdata=new_cells)

assert np.array_equal(coordinates, model.map_query(new_cells))
assert (labels.astype(str) == truth).mean() > 0.85
