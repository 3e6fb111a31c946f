"""RNA and ATAC of the same cells: one space, the weight of each modality, and a modality that some cells lack."""

import mudata

import muport

mdata = muport.datasets.simulated_multiome(n_cells=300, n_genes=200, n_peaks=400, paired=True, random_state=0)

muport.pp.prepare(mdata, umap=False)
muport.Integration.setup_mudata(mdata, use_rep={"rna": "X_pca", "atac": "X_lsi"}, batch_key="batch")
model = muport.Integration(mdata)
model.train(progress=False)
mdata.obsm["X_muport"] = model.get_latent_representation()
weights = model.get_modality_weights()

only_atac = mudata.MuData({"atac": mdata["atac"][:20].copy()})
expression = model.impute("rna", mdata=only_atac)

assert mdata.obsm["X_muport"].shape[0] == mdata.n_obs
assert abs(weights.sum(axis=1) - 1).max() < 1e-5
assert expression.shape == (20, mdata["rna"].n_vars)
