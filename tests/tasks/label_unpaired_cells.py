"""RNA of some cells and ATAC of others: labels for the ATAC cells, with a confidence."""

import muport

mdata = muport.datasets.simulated_multiome(n_cells=800, random_state=0)
truth = mdata["atac"].obs["cell_type"].astype(str)
del mdata["atac"].obs["cell_type"]

muport.pp.prepare(mdata, umap=False)
muport.Integration.setup_mudata(
    mdata,
    use_rep={"rna": "X_pca", "atac": "X_lsi"},
    shared_rep="X_shared",
    batch_key="batch",
    labels_key="cell_type",
)
model = muport.Integration(mdata)
model.train(progress=False)
labels = model.predict(threshold=0.7)
confidence = model.predict(soft=True).max(axis=1)

scores = muport.metrics.label_transfer(truth, labels)
assert scores.accuracy / (1 - scores.rejected) > 0.85, scores
assert confidence.between(0, 1).all()
muport.pl.confusion(truth, labels)
