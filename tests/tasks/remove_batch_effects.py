"""Counts of three batches to one space, clusters and a UMAP."""

import muport

cells = muport.datasets.simulated_multiome(n_cells=400, n_genes=200, n_peaks=10, random_state=0)["rna"]

muport.pp.prepare(cells, umap=False)
muport.Integration.setup_anndata(cells, batch_key="batch")
model = muport.Integration(cells)
model.train(progress=False)
model.write(cells, overwrite=True)  # obsm["X_muport"] and the neighbor graph that scanpy reads

before = muport.metrics.batch_mixing(cells.obsm["X_pca"], cells.obs["batch"])
after = muport.metrics.batch_mixing(cells.obsm["X_muport"], cells.obs["batch"])
assert after > before + 0.1, (before, after)
assert "connectivities" in cells.obsp
