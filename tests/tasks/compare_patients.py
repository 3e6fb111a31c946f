"""Cells of patients: distances between patients, and the condition of new ones."""

import muport

cohort = muport.datasets.simulated_cohort(
    n_patients=24, n_cells=100, n_dims=10, n_genes=20, state_effect=4.0, noise=1.0, random_state=0
)
condition = cohort.obs.groupby("sample", observed=True)["condition"].first()
is_new = cohort.obs["sample"].isin(condition.index[:4])
new_patients, cohort = cohort[is_new].copy(), cohort[~is_new].copy()
del new_patients.obs["condition"]

muport.GMM.setup_anndata(cohort, use_rep="X_pca", sample_key="sample", labels_key="condition")
model = muport.GMM(cohort)
model.train(k_comps=5, progress=False)
distances = model.get_sample_distances()
predicted = model.predict(new_patients)
scores = model.cross_validate(n_folds=3)

assert distances.shape == (20, 20)
assert (predicted.astype(str) == condition.loc[predicted.index].astype(str)).mean() >= 0.75
assert scores.balanced_accuracy > 0.6, scores.balanced_accuracy
muport.pl.patient_embedding(model.get_sample_embedding(), condition.iloc[4:])
