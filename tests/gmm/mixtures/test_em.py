"""EM against scikit-learn's from the same start; degenerate data, weights, seeds, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from muport.gmm.mixtures import _em
from muport.gmm.mixtures._em import EMResult, fit_mixture_candidates
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._mixtures import Mixtures, mean_log_likelihood, responsibilities
from muport.gmm.mixtures._pooled_prior import Prior


def fit_mixtures(x, sample, k, *, weight=None, prior=None, init=None, names=None, **settings) -> EMResult:
    return _em.fit_mixtures(
        x, sample, k, EMSettings(**settings), weight=weight, prior=prior, init=init, names=names
    )  # fmt: skip


def problem(seed: int) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(60, 300)), int(rng.integers(1, 9)), int(rng.integers(1, 7))
    centers = rng.normal(scale=2, size=(k, d))
    x = centers[rng.integers(0, k, n)] + rng.normal(size=(n, d)) * rng.uniform(0.2, 3, d) + rng.normal(scale=20, size=d)
    return x, k


def start(x: np.ndarray, k: int, covariance_type: str, seed: int) -> Mixtures:
    rng = np.random.default_rng(seed)
    d = x.shape[1]
    unit = np.eye(d) if covariance_type == "full" else np.ones(d)
    weights = rng.dirichlet(np.full(k, 5.0))[None]
    means = x[rng.choice(len(x), k, replace=False)][None]
    return Mixtures(weights, means, np.repeat(unit[None], k, axis=0)[None] * rng.uniform(1, 3), covariance_type)


def peer(x: np.ndarray, init: Mixtures, eps: float, max_iter: int) -> GaussianMixture:
    full = init.covariance_type == "full"
    precisions = np.linalg.inv(init.covariances[0]) if full else 1 / init.covariances[0]
    model = GaussianMixture(
        init.weights.shape[1], covariance_type=init.covariance_type, reg_covar=eps, tol=1e-3, max_iter=max_iter,
        weights_init=init.weights[0], means_init=init.means[0], precisions_init=precisions,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def assert_equal_to_peer(found: EMResult, row: int, model: GaussianMixture, x: np.ndarray, tol: float = 1e-6) -> None:
    mixtures = found.mixtures.subset(row)
    assert found.n_iter[row] == model.n_iter_
    assert found.converged[row] == model.converged_
    k = model.n_components
    for ours, theirs in (
        (mixtures.weights, model.weights_), (mixtures.means, model.means_), (mixtures.covariances, model.covariances_)
    ):  # fmt: skip
        assert np.abs(ours[0, :k] - theirs).max() <= tol * max(1, np.abs(theirs).max())
    assert found.log_likelihood[row] == pytest.approx(model.score(x), abs=tol)
    assert np.allclose(responsibilities(x, mixtures)[:, :k], model.predict_proba(x), atol=tol)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("seed", range(50))
def test_equals_scikit_learn_from_the_same_start(seed: int, covariance_type: str) -> None:
    x, k = problem(seed)
    init = start(x, k, covariance_type, seed)
    found = fit_mixtures(x, None, k, covariance_type=covariance_type, init=init, max_iter=60)
    assert_equal_to_peer(found, 0, peer(x, init, 1e-4, 60), x)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_patients_of_a_batch_do_not_touch(scale: float, covariance_type: str) -> None:
    """Each stops on its own, as scikit-learn does; far-out cells take the path that does not cancel."""
    rng = np.random.default_rng(0)
    sizes = [40, 90, 300, 45, 120, 60, 110, 41]
    patients = [rng.normal(size=(n, 3)) * scale + scale * rng.integers(0, 3, (n, 1)) for n in sizes]
    inits = [start(x, 3, covariance_type, i) for i, x in enumerate(patients)]
    inits = [Mixtures(m.weights, m.means, m.covariances * scale**2, covariance_type) for m in inits]
    sample = np.repeat(np.arange(8), sizes)
    shuffle = rng.permutation(len(sample))
    found = fit_mixtures(
        np.concatenate(patients)[shuffle], sample[shuffle], 3, init=Mixtures.stack(inits),
        covariance_type=covariance_type,
    )  # fmt: skip
    assert len(set(found.n_iter.tolist())) > 2
    for row, (x, init) in enumerate(zip(patients, inits, strict=True)):
        assert_equal_to_peer(found, row, peer(x, init, 1e-4, 100), x)


def test_default_start_is_as_good_as_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    centers = rng.normal(scale=3, size=(6, 4))
    x = centers[rng.integers(0, 6, (12, 200))] + rng.normal(size=(12, 200, 4))
    ours = fit_mixtures(x.reshape(-1, 4), np.repeat(np.arange(12), 200), 6).log_likelihood
    theirs = [GaussianMixture(6, reg_covar=1e-4, random_state=0).fit(cells).score(cells) for cells in x]
    assert ours.mean() >= np.mean(theirs) - 0.02


def test_history_rises_to_the_likelihood() -> None:
    x, _ = problem(3)
    found = fit_mixtures(x, None, 3, eps=0, tol=1e-5, max_iter=500)
    assert found.converged.all()
    assert (np.diff(found.history[0]) >= -1e-10).all()
    assert found.history.shape == (1, found.n_iter[0])
    assert found.log_likelihood[0] >= found.history[0, -1] - 1e-10
    assert found.log_likelihood == pytest.approx(mean_log_likelihood(x, found.mixtures))


def nasty() -> tuple[np.ndarray, np.ndarray]:
    """50 dimensions of std 1e-3 to 1e3; duplicates; one distinct cell; three cells; one cell; a constant column."""
    rng = np.random.default_rng(2)
    std = np.logspace(-3, 3, 50)
    wide = rng.normal(size=(200, 50)) * std
    doubled = np.repeat(rng.normal(size=(20, 50)) * std, 5, axis=0)
    flat = rng.normal(size=(60, 50))
    flat[:, 7] = 3.0
    patients = [wide, doubled, np.ones((10, 50)), wide[:3], wide[:1], flat, wide + 1e8]
    return np.concatenate(patients), np.repeat(np.arange(7), [len(cells) for cells in patients])


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("eps", [1e-4, 0.0])
@pytest.mark.parametrize("handling", ["guarded", "robust"])
@pytest.mark.parametrize("with_prior", [False, True])
def test_never_nan(covariance_type: str, eps: float, handling: str, with_prior: bool) -> None:
    x, sample = nasty()
    unit = np.eye(50) if covariance_type == "full" else np.ones(50)
    prior = Prior(np.full(30, 1 / 30), np.zeros((30, 50)), np.repeat(unit[None], 30, axis=0), covariance_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = fit_mixtures(
            x, sample, 30, covariance_type=covariance_type, eps=eps, max_iter=20, singularity_handling=handling,
            prior=prior if with_prior else None,
        )  # fmt: skip
    mixtures = found.mixtures
    for part in (mixtures.weights, mixtures.means, mixtures.covariances, found.log_likelihood, found.history):
        assert np.isfinite(part).all()
    assert np.allclose(mixtures.weights.sum(axis=1), 1)
    r = responsibilities(x, mixtures, sample)
    assert np.isfinite(r).all()
    assert np.allclose(r.sum(axis=1), 1)
    if not with_prior:
        assert mixtures.n_components.tolist() == [30, 20, 1, 3, 1, 30, 30]


def test_singular_covariances_are_handled_as_asked() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(80, 3))
    x[40:, 2] = 1.0  # the second patient lies in a plane
    sample, names = np.repeat([0, 1], 40), ["healthy", "ill"]
    quiet = fit_mixtures(x, sample, 1)
    assert quiet.mixtures.covariances[1, 0, 2, 2] == pytest.approx(1e-4)
    with pytest.warns(RuntimeWarning, match="component 0 of sample 'ill'"):
        robust = fit_mixtures(x, sample, 1, singularity_handling="robust", names=names)
    assert robust.n_singular.tolist() == [0, 1]
    assert robust.mixtures.covariances[1, 0, 2, 2] == pytest.approx(1e-4 + 0.01 * x[40:].var(axis=0).mean())
    assert np.array_equal(robust.mixtures.covariances[0], quiet.mixtures.covariances[0])
    with pytest.raises(ValueError, match="covariance of component 0 of sample 'ill' is singular"):
        fit_mixtures(x, sample, 1, singularity_handling="strict", names=names)
    strict = fit_mixtures(x[:40], None, 1, singularity_handling="strict")
    assert np.array_equal(strict.mixtures.covariances[0], quiet.mixtures.covariances[0])


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_weights_act_as_repeats(covariance_type: str) -> None:
    x, k = problem(5)
    weight = np.random.default_rng(5).integers(0, 4, len(x))
    init = start(x, k, covariance_type, 5)
    options = {"init": init, "covariance_type": covariance_type}
    weighted = fit_mixtures(x, None, k, weight=weight, **options)
    repeated = fit_mixtures(np.repeat(x, weight, axis=0), None, k, **options)
    assert np.allclose(weighted.mixtures.means, repeated.mixtures.means, atol=1e-8)
    assert np.allclose(weighted.mixtures.covariances, repeated.mixtures.covariances, atol=1e-8)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood)


def test_candidates_are_what_single_fits_give() -> None:
    rng = np.random.default_rng(6)
    x, sample = rng.normal(size=(300, 3)), np.repeat([0, 1, 2], 100)
    both = fit_mixture_candidates(x, sample, (1, 4))
    assert [fit.mixtures.weights.shape for fit in both] == [(3, 1), (3, 4)]
    assert np.allclose(both[0].mixtures.covariances[1, 0], np.cov(x[100:200].T, bias=True) + 1e-4 * np.eye(3))
    mixed = fit_mixtures(x, sample, np.array([1, 4, 1]))
    assert mixed.mixtures.n_components.tolist() == [1, 4, 1]
    assert np.allclose(mixed.mixtures.means[0, 0], x[:100].mean(axis=0))


def test_restarts_never_make_it_worse() -> None:
    x, _ = problem(7)
    one, five = (fit_mixtures(x, None, 6, n_init=n).log_likelihood[0] for n in (1, 5))
    assert five >= one


def test_same_seed_same_bits_and_global_seeds_left_alone() -> None:
    x, _ = problem(8)
    before, threads = torch.get_rng_state().clone(), torch.get_num_threads()
    first, again, other = (fit_mixtures(x, None, 5, random_state=seed).mixtures for seed in (3, 3, 4))
    assert np.array_equal(first.means, again.means)
    assert np.array_equal(first.covariances, again.covariances)
    assert not np.array_equal(first.means, other.means)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sample = np.repeat(np.arange(6), [30, 60, 120, 240, 480, 35])
    x = rng.normal(size=(len(sample), 3)) + 3 * rng.integers(0, 2, (len(sample), 1))
    found = []
    for cores in (1, 3):
        monkeypatch.setattr("muport._parallel.count_cores", lambda cores=cores: cores)
        found.append(fit_mixtures(x, sample, 2))
    for name in ("weights", "means", "covariances"):
        assert np.array_equal(*(getattr(one.mixtures, name) for one in found))
    assert np.array_equal(found[0].history, found[1].history)


def test_more_cells_than_features_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import muport.gmm.mixtures._em_blocks as em_blocks

    x, k = problem(9)
    init = start(x, k, "full", 9)
    single = fit_mixtures(x, None, k, init=init)
    monkeypatch.setattr(em_blocks, "_MAX_FEATURES", 10)
    monkeypatch.setattr(em_blocks, "_BUDGET", {"cpu": 1000})
    pieces = fit_mixtures(x, None, k, init=init)
    assert np.allclose(single.mixtures.covariances, pieces.mixtures.covariances, atol=1e-8)
    assert np.array_equal(single.n_iter, pieces.n_iter)


@pytest.mark.parametrize("cache", [50, 3000, 2**19])
def test_patients_of_one_block_end_one_by_one(monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    """Each is what it is alone, whoever ends before it and however few cells are worked on at once."""
    import muport.gmm.mixtures._em_blocks as em_blocks

    rng = np.random.default_rng(5)
    patients = rng.normal(size=(9, 70, 3)) + rng.uniform(0, 4, (9, 1, 1)) * rng.integers(0, 2, (9, 70, 1))
    init = Mixtures.stack([start(x, 2, "full", 5) for x in patients])
    alone = [fit_mixtures(x, None, 2, init=init.subset(i)) for i, x in enumerate(patients)]
    monkeypatch.setattr(em_blocks, "_CACHE", {"cpu": cache})
    found = fit_mixtures(patients.reshape(-1, 3), np.repeat(np.arange(9), 70), 2, init=init)
    assert len(set(found.n_iter.tolist())) > 4
    for i, one in enumerate(alone):
        assert found.n_iter[i] == one.n_iter[0]
        assert found.log_likelihood[i] == pytest.approx(one.log_likelihood[0], abs=1e-10)
        assert np.allclose(found.mixtures.covariances[i], one.mixtures.covariances[0], atol=1e-9)
        assert np.allclose(found.history[i, : one.n_iter[0]], one.history[0], atol=1e-10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0 must be at least 1"),
        ({"k": 2.0}, TypeError, "integer number"),
        ({"k": np.array([1, 2, 3])}, ValueError, "k has shape"),
        ({"sample": np.array([0, 0, 2, 2])}, ValueError, "sample 1 has no cells"),
        ({"sample": np.array(["a", "a", "b", "b"])}, TypeError, "integer codes"),
        ({"sample": np.array([0, 0, 1])}, ValueError, "x has 4 cells"),
        ({"weight": [1, 1, 0, 0]}, ValueError, "all cells of sample 1 have weight 0"),
        ({"weight": [1, -1, 1, 1]}, ValueError, "finite and >= 0"),
        ({"x": np.full((4, 2), np.nan)}, ValueError, "NaN"),
        ({"x": np.zeros(4)}, ValueError, "two axes"),
        ({"covariance_type": "tied"}, ValueError, "covariance_type='tied' is unknown"),
        ({"singularity_handling": "loose"}, ValueError, "singularity_handling='loose' is unknown"),
        ({"max_iter": 0}, ValueError, "max_iter=0"),
        ({"eps": -1.0}, ValueError, "eps=-1.0"),
        ({"init": Mixtures(np.ones((1, 1)), np.zeros((1, 1, 2)), np.eye(2)[None, None])}, ValueError, "init has"),
        ({"prior": Prior(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])}, ValueError, "no prior of 2 components"),
    ],
)  # fmt: skip
def test_refusals(change: dict, error: type[Exception], message: str) -> None:
    given = {"x": np.arange(8.0).reshape(4, 2), "sample": np.array([0, 0, 1, 1]), "k": 2} | change
    with pytest.raises(error, match=message):
        fit_mixtures(**given)
