"""A cohort as the model keeps it, new patients by it, and cross-validation through the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from muport.gmm._fitted_state import fit_cohort, fit_new_patients, label_samples, labeled_patients, make_fitter
from muport.gmm.metric._reference_states import fit_reference
from muport.gmm.mixtures._component_number import SelectionSettings
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import mean_log_likelihood, responsibilities


@pytest.fixture(scope="module")
def cells(cohort) -> tuple[np.ndarray, np.ndarray]:
    return cohort.obsm["X_pca"].astype(float), cohort.obs["sample"].cat.codes.to_numpy().astype(np.int64)


def test_new_patients_are_fitted_by_the_prior_of_the_cohort(cells):
    x, sample = cells
    settings = SelectionSettings(k_comps=3)
    cohort, found = fit_cohort(x, sample, settings)
    assert set(cohort.priors) == {"3"}
    new = fit_new_patients(cohort, x[:60], sample[:60], settings)
    direct = fit_mixtures(x[:60], sample[:60], 3, prior=found.prior[3])
    assert np.array_equal(new.means, direct.mixtures.means)
    # a patient of the cohort is fitted as it was
    assert np.allclose(new.means[0], cohort.mixtures.means[0], atol=1e-6)


@pytest.mark.parametrize("k", [3, [2, 3]])
def test_the_order_of_cells_does_not_matter(k):
    rng = np.random.default_rng(0)
    # components overlap, so that EM has several solutions
    x, sample = rng.normal(size=(180, 3)).astype(np.float32), np.repeat(np.arange(6), 30)
    weight, order = rng.uniform(0.5, 2, 180), rng.permutation(180)
    for settings in (SelectionSettings(k_comps=k), SelectionSettings(k_comps=k, shrinkage=False)):
        first, _ = fit_cohort(x, sample, settings, weight)
        again, _ = fit_cohort(x[order], sample[order], settings, weight[order])
        assert np.array_equal(first.mixtures.means, again.mixtures.means)
        new = [fit_new_patients(first, x[i], sample[i], settings, weight[i]) for i in (slice(None), order)]
        assert np.array_equal(new[0].means, new[1].means)


def test_number_of_components_of_new_patients_is_one_of_the_cohort(cells):
    x, sample = cells
    cohort, _ = fit_cohort(x, sample, SelectionSettings(k_comps=[1, 4]))
    for best in ([1, 4] * 6, [1] * 7 + [4] * 5, [1] * 5 + [4] * 7):
        mine = type(cohort)(
            cohort.mixtures, np.array(best), "sample_specific", cohort.priors, cohort.log_likelihood, 1.0
        )  # fmt: skip
        new = fit_new_patients(mine, x[:60], sample[:60], SelectionSettings())
        assert new.means.shape[1] in (1, 4)


def test_new_patients_under_shared_components(cells):
    x, sample = cells
    cohort, _ = fit_cohort(x, sample, SelectionSettings(k_comps=3, component_sharing="global"))
    weight = np.random.default_rng(0).integers(1, 4, 120)
    new = fit_new_patients(cohort, x[:120], sample[:120], SelectionSettings(), weight)
    assert np.array_equal(new.means[1], cohort.mixtures.means[0])
    shared = type(new)(cohort.mixtures.weights.mean(0)[None], new.means[:1], new.covariances[:1])
    r = responsibilities(x[:120], shared)
    expected = [np.average(r[sample[:120] == i], axis=0, weights=weight[sample[:120] == i]) for i in (0, 1)]
    assert np.allclose(new.weights, expected)


def test_shifted_patients_are_aligned(drawn):
    """Compositions are those of the unshifted patients, and the mixtures lie where the cells are."""
    adata = drawn(8, 60, patient_offset=2.0, composition_noise=1.0, state_effect=0.0)
    x, sample = adata.obsm["X_pca"].astype(float), adata.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    settings = SelectionSettings(k_comps=3)
    cohort, _ = fit_cohort(x, sample, settings)
    mixtures = cohort.mixtures
    assert cohort.shared_states is not None
    assert mixtures.offsets is not None
    mean = np.stack([x[sample == i].mean(axis=0) for i in range(8)])
    # shrinkage toward the aligned components of all patients
    assert np.abs((mixtures.weights[:, :, None] * mixtures.means).sum(1) - mean).max() < 2.0
    truth = pd.crosstab(sample, adata.obs["cell_type"], normalize="index").to_numpy()
    found = fit_reference(mixtures).composition(mixtures)
    assert all(np.corrcoef(np.hstack([truth[:, [t]], found]).T)[0, 1:].max() > 0.95 for t in range(3))
    new = fit_new_patients(cohort, x[:60], sample[:60], settings)
    assert np.allclose(new.offsets, mixtures.offsets[:1])
    assert np.allclose(new.means, mixtures.means[:1])


def test_patients_without_shrinkage_do_not_depend_on_others(drawn):
    adata = drawn(4, 40, patient_offset=2.0)
    x, sample = adata.obsm["X_pca"].astype(float), adata.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    for options in ({"shrinkage": False}, {"component_sharing": "global"}):
        cohort, _ = fit_cohort(x, sample, SelectionSettings(k_comps=2, **options))
        assert cohort.shared_states is None
        assert cohort.mixtures.offsets is None


def test_shrinkage_helps_small_patients(drawn):
    """Cells that were not fitted are likelier under the mixtures that the cohort has drawn together."""
    adata = drawn(12, 80, composition_noise=0.5)
    x, sample = adata.obsm["X_pca"].astype(float), adata.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    train = np.arange(len(x)) % 80 < 30
    value = {}
    for shrinkage in (True, False):
        cohort, _ = fit_cohort(x[train], sample[train], SelectionSettings(k_comps=3, shrinkage=shrinkage))
        value[shrinkage] = mean_log_likelihood(x[~train], cohort.mixtures, sample[~train]).mean()
    assert value[True] > value[False] + 0.1


def test_the_fitter_uses_the_weights(cells):
    x, sample = cells
    weight = np.random.default_rng(0).integers(1, 4, len(x)).astype(float)
    settings = SelectionSettings(k_comps=2, refit="full")
    plain, weighted = (make_fitter(settings)(x, sample, given)(x, sample, given).means for given in (None, weight))
    cohort, _ = fit_cohort(x, sample, settings, weight)
    direct = fit_new_patients(cohort, x, sample, settings, weight)
    assert np.array_equal(weighted, direct.means)
    assert not np.allclose(plain, direct.means, atol=1e-4)


def test_conditions_of_samples():
    sample, label = np.array([0, 0, 1, 1, 2]), np.array([1, -1, 0, 0, -1])
    assert label_samples(sample, label, ("a", "b", "c"), ("x", "y"), "key").tolist() == [1, 0, -1]
    assert label_samples(sample, label * 0 - 1, ("a", "b", "c"), (), "key").tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match=r"key: 1 samples.*more than one person.*'a' \['x', 'y'\]"):
        label_samples(sample, np.array([0, 1, 0, 0, 0]), ("a", "b", "c"), ("x", "y"), "key", "person")
    assert labeled_patients(np.array([0, -1, 1]), "key").tolist() == [0, 2]
    with pytest.raises(ValueError, match="labels_key='key' has 1 conditions of 2 patients"):
        labeled_patients(np.array([0, -1, 0]), "key")
