"""Choosing the number of components: scores against scikit-learn's, sharing, refits, splits, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from muport.gmm.mixtures import _component_number
from muport.gmm.mixtures._component_number import DEFAULT_COMPONENTS, SelectedMixtures, SelectionSettings
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import mean_log_likelihood, responsibilities


def select_mixtures(x, sample, *, weight=None, names=None, **options: Any) -> SelectedMixtures:
    return _component_number.select_mixtures(
        x, sample, SelectionSettings.from_options(options), weight=weight, names=names
    )  # fmt: skip


RNG = np.random.default_rng(0)
KINDS = np.array([1, 2, 3])
SAMPLE = np.repeat([0, 1, 2], 200)
X = RNG.normal(size=(600, 2)) + 15 * RNG.integers(0, KINDS[SAMPLE])[:, None]


@pytest.mark.parametrize("metric", ["aic", "bic", "heldout_nll"])
def test_finds_the_clusters_of_each_patient(metric: str) -> None:
    found = select_mixtures(X, SAMPLE, k_comps=[1, 2, 3], k_selection_metric=metric, shrinkage=False, n_init=3)
    assert found.best_k.tolist() == [1, 2, 3]
    assert found.mixtures.n_components.tolist() == [1, 2, 3]
    assert found.scores[metric].shape == (3, 3)
    assert np.array_equal(found.scores[metric].argmin(axis=1), [0, 1, 2])


def test_criteria_are_scikit_learns() -> None:
    found = select_mixtures(X, SAMPLE, k_comps=[1, 2], shrinkage=False, covariance_type="diag")
    for p in range(3):
        cells, rest = X[found.train & (SAMPLE == p)], X[~found.train & (SAMPLE == p)]
        model = GaussianMixture(1, covariance_type="diag", reg_covar=1e-4).fit(cells)
        assert found.scores["aic"][p, 0] == pytest.approx(model.aic(cells))
        assert found.scores["bic"][p, 0] == pytest.approx(model.bic(cells))
        assert found.scores["heldout_nll"][p, 0] == pytest.approx(-model.score(rest))


def test_refit_none_keeps_the_training_fit_and_full_takes_all_cells() -> None:
    none, full = (
        select_mixtures(X, SAMPLE, k_comps=[1, 3], refit=refit, shrinkage=False) for refit in ("none", "full")
    )
    assert np.bincount(SAMPLE[none.train]).tolist() == [100, 100, 100]
    assert full.train.all()
    assert np.array_equal(none.best_k, full.best_k)
    assert np.allclose(none.mixtures.means[0, 0], X[none.train & (SAMPLE == 0)].mean(axis=0))
    assert np.allclose(full.mixtures.means[0, 0], X[SAMPLE == 0].mean(axis=0))


def test_one_number_is_fitted_to_all_cells() -> None:
    found = select_mixtures(X, SAMPLE, k_comps=2, shrinkage=False)
    plain = fit_mixtures(X, SAMPLE, 2)
    assert np.array_equal(found.mixtures.means, plain.mixtures.means)
    assert found.train.all()
    assert found.scores == {}
    assert found.best_k.tolist() == [2, 2, 2]


def test_default_candidates() -> None:
    found = select_mixtures(X[:, :1], SAMPLE, max_iter=5)
    assert found.candidates == DEFAULT_COMPONENTS == tuple(range(1, 11))
    assert np.isin(found.best_k, DEFAULT_COMPONENTS).all()


def test_global_mixture_has_the_patients_mean_responsibilities_as_weights() -> None:
    found = select_mixtures(X, SAMPLE, component_sharing="global", k_comps=3)
    assert found.sharing == "global"
    assert np.array_equal(found.mixtures.means[0], found.mixtures.means[2])
    shared = fit_mixtures(X, None, 3).mixtures
    assert np.allclose(found.mixtures.means[0], shared.means[0])
    r = responsibilities(X, shared)
    for p in range(3):
        assert np.allclose(found.mixtures.weights[p], r[SAMPLE == p].mean(axis=0))
    chosen = select_mixtures(X, SAMPLE, component_sharing="global", k_comps=[1, 2, 3], k_selection_metric="bic")
    assert chosen.best_k.tolist() == [3, 3, 3]
    assert chosen.scores["bic"].shape == (3, 3)


def test_auto_is_global_where_all_patients_have_the_same_points() -> None:
    centroids = RNG.normal(size=(20, 2))
    same, sample = np.tile(centroids, (3, 1)), np.repeat([0, 1, 2], 20)
    weight = RNG.random(60)
    assert select_mixtures(same, sample, component_sharing="auto", k_comps=2, weight=weight).sharing == "global"
    assert select_mixtures(X, SAMPLE, component_sharing="auto", k_comps=2).sharing == "sample_specific"


def test_shrinkage_is_on_by_default_and_raises_the_held_out_likelihood() -> None:
    rng = np.random.default_rng(1)
    x, sample = rng.normal(size=(300, 12)), np.repeat(np.arange(6), 50)
    options: dict[str, Any] = {"k_comps": [3], "k_selection_metric": "heldout_nll"}
    on, off = select_mixtures(x, sample, **options), select_mixtures(x, sample, shrinkage=False, **options)
    assert on.prior[3].nu == 24
    assert off.prior == {}
    assert (on.scores["heldout_nll"] < off.scores["heldout_nll"]).all()
    assert select_mixtures(x, sample, k_comps=2, shrinkage=5.0).prior[2].nu == 5


def test_merged_fits_are_those_of_the_chosen_candidates() -> None:
    found = select_mixtures(X, SAMPLE, k_comps=[3, 1, 2], k_selection_metric="bic", shrinkage=False)
    train = found.train
    again = mean_log_likelihood(X[train], found.mixtures, SAMPLE[train])
    assert np.allclose(again, found.fit.log_likelihood)
    n, best = 100, np.searchsorted([1, 2, 3], found.best_k)
    p = found.mixtures.n_parameters()
    column = np.array([1, 2, 0])[best]
    assert np.allclose(found.scores["bic"][np.arange(3), column], -2 * n * again + p * np.log(n))


def test_strict_judges_the_chosen_candidate_alone() -> None:
    x = np.random.default_rng(2).normal(size=(40, 4))  # 20 components of 20 training cells are singular
    assert select_mixtures(x, None, k_comps=[1, 20], k_selection_metric="bic", singularity_handling="strict",
                           shrinkage=False, max_iter=1, eps=1.0).best_k.tolist() == [1]  # fmt: skip
    with pytest.raises(ValueError, match="of sample 'only' is singular"):
        select_mixtures(x, None, k_comps=20, singularity_handling="strict", shrinkage=False, names=["only"])


def test_weights_zero_cells_are_spread_out_of_the_way() -> None:
    weight = np.tile([1.0, 0.0], 300)
    found = select_mixtures(X, SAMPLE, k_comps=[1, 2], weight=weight, k_selection_metric="heldout_nll")
    assert weight[found.train].sum() == 150
    assert np.isfinite(found.scores["heldout_nll"]).all()


def test_same_seed_same_result() -> None:
    first, again, other = (select_mixtures(X, SAMPLE, k_comps=[2, 3], random_state=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.mixtures.means, again.mixtures.means)
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"component_sharing": "none"}, "component_sharing='none' is unknown"),
        ({"k_selection_metric": "nll"}, "k_selection_metric='nll' is unknown"),
        ({"refit": "half"}, "refit='half' is unknown"),
        ({"k_comps": []}, "k_comps"),
        ({"k_comps": [2, 2]}, "k_comps"),
        ({"k_comps": 0}, "k_comps=0"),
        ({"k_comps": [1.5]}, "k_comps"),
        ({"k_comps": True}, "k_comps=True"),
        ({"train_size": 1.0}, "train_size=1.0"),
        ({"shrinkage": -1.0}, "shrinkage=-1.0"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"k_comps": [1, 2]} | change
    with pytest.raises(ValueError, match=message):
        select_mixtures(X, SAMPLE, **given)


def test_a_patient_of_one_cell_cannot_hold_any_out() -> None:
    x, sample = X[:11], np.repeat([0, 1], [10, 1])
    with pytest.raises(ValueError, match="sample 'b' has 1 cell"):
        select_mixtures(x, sample, k_comps=[1, 2], k_selection_metric="heldout_nll", names=["a", "b"])
    found = select_mixtures(x, sample, k_comps=[1, 2], names=["a", "b"])
    assert np.isfinite(found.mixtures.covariances).all()


def test_one_number_for_all_is_that_of_the_best_mean_score():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(201, 4)) + 6 * rng.integers(0, 3, (201, 1))
    # a patient of one cell has none to hold out, and no say
    sample = np.append(np.repeat([0, 1], 100), 2)
    how: dict[str, Any] = {"k_comps": (1, 2, 3, 4), "k_selection_metric": "heldout_nll", "refit": "full"}
    found = select_mixtures(x, sample, common_k=True, **how)
    assert found.best_k.tolist() == [3, 3, 3]
    assert found.best_k[0] == 1 + found.scores["heldout_nll"].mean(axis=0).argmin()
    with pytest.raises(ValueError):  # noqa: PT011 - its words are tested above
        select_mixtures(x, sample, **how)
