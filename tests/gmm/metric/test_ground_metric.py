"""The learned metric against sums over pairs, dense generalized eigenvectors and known truths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from muport.gmm.metric._component_plans import ComponentPlans, component_roots, plan_components
from muport.gmm.metric._discriminant_axes import discriminant_axes, pair_weights
from muport.gmm.metric._gradient_training import TrainingSettings, compute_triplet_loss, matrix_norm, train_metric
from muport.gmm.metric._ground_metric import (
    IDENTITY,
    GroundMetric,
    metric_distances,
    select_least_loss,
    squared_state_distances,
)
from muport.gmm.metric._kernel_ridge import balanced_loss, ridge_scores, to_probabilities
from muport.gmm.metric._metric_candidates import MetricCandidate, fit_metric_candidates
from muport.gmm.metric._metric_settings import RIDGES, MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans, PairScatters
from muport.gmm.metric._reference_states import fit_reference, squared_composition_distances
from muport.gmm.mixtures._mixtures import Mixtures

P, K, D = 16, 4, 6


def fit_candidates(
    mixtures: Mixtures,
    condition: np.ndarray,
    group: np.ndarray | None = None,
    plans: CohortPlans | None = None,
    **options: Any,
) -> list[MetricCandidate]:
    return fit_metric_candidates(mixtures, condition, MetricSettings.from_options(options), group=group, plans=plans)


def fit_metric(mixtures: Mixtures, condition: np.ndarray, **options: Any) -> GroundMetric:
    return select_least_loss([candidate.metric for candidate in fit_candidates(mixtures, condition, **options)])


def cohort(
    seed: int = 0, *, p: int = P, shift: float = 0.0, share: float = 0.0, offset: float = 0.0, rotate: bool = False
) -> tuple[Mixtures, np.ndarray, np.ndarray]:
    """Patients whose condition moves state 0 along an axis, or multiplies the share of state 1."""
    rng = np.random.default_rng(seed)
    condition = rng.permutation(np.arange(p) % 2)
    state = rng.normal(size=(K, D)) * 4
    axis = np.eye(D)[0] if not rotate else np.linalg.qr(rng.normal(size=(D, D)))[0][0]
    means = state + 0.3 * rng.normal(size=(p, K, D)) + offset * rng.normal(size=(p, 1, D))
    means[:, 0] += shift * condition[:, None] * axis
    logit = 0.3 * rng.normal(size=(p, K))
    logit[:, 1] += share * condition
    weights = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    factor = 0.2 * rng.normal(size=(p, K, D, D)) + np.eye(D)
    return Mixtures(weights, means, factor @ factor.swapaxes(2, 3), "full", 0.0), condition, axis


def slow_scatter(mix: Mixtures, plan: np.ndarray, weight: np.ndarray, bures: bool) -> np.ndarray:
    root = np.array([[_root(s) for s in one] for one in mix.covariances])
    total = np.zeros((D, D))
    for i in range(len(mix)):
        for j in range(len(mix)):
            for k in range(K):
                for l in range(K):
                    gap = mix.means[i, k] - mix.means[j, l]
                    part = np.outer(gap, gap)
                    if bures:
                        change = root[i, k] - root[j, l]
                        part = part + change @ change.T
                    total += weight[i, j] * plan[i, j, k, l] * part
    return total


def _root(s: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(s)
    return vectors * np.sqrt(values) @ vectors.T


def scatters(plans: ComponentPlans, weights: Sequence[np.ndarray], root: np.ndarray | None = None) -> np.ndarray:
    return PairScatters(plans, np.eye(D) if root is None else root).scatters(np.stack(weights))


def axes_of(
    plans: ComponentPlans, condition: np.ndarray, within: np.ndarray, ridges: tuple[float, ...], n_comps: int
) -> tuple[np.ndarray, np.ndarray]:
    """W (R, n_comps, d) in the coordinates as they are, and ratios."""
    root = np.linalg.cholesky(within)
    found = scatters(plans, pair_weights(condition), root)[:, None]
    w, ratios = discriminant_axes(*found, ridges, n_comps=n_comps)
    return np.linalg.solve(root.T, w[0].swapaxes(1, 2)).swapaxes(1, 2), ratios[0]


@pytest.mark.parametrize("bures", [False, True])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_scatter_and_distances_are_sums_over_pairs(bures, tau):
    mix, condition, _ = cohort(1, p=5, shift=2.0)
    plans, _ = plan_components(mix, tau=tau, bures=bures)
    np.testing.assert_allclose(plans.plan.sum((2, 3)), 1)
    weight = pair_weights(condition)[1]
    wanted = slow_scatter(mix, plans.plan, weight, bures)
    np.testing.assert_allclose(scatters(plans, [weight])[0], wanted, atol=1e-10)
    w = np.random.default_rng(2).normal(size=(2, D))
    squared = plans.squared(w)
    assert (squared * weight).sum() == pytest.approx(np.trace(w @ wanted @ w.T))
    one = np.zeros_like(weight)
    one[1, 3] = one[3, 1] = 0.5
    assert squared[1, 3] == pytest.approx(np.trace(w @ slow_scatter(mix, plans.plan, one, bures) @ w.T))
    np.testing.assert_allclose(squared, squared.T, atol=1e-10)
    np.testing.assert_allclose(squared.diagonal(), 0, atol=1e-10)


def test_pairs_of_a_small_condition_count_as_much():
    condition = np.array([0, 0, 0, 0, 1, 1])
    equal, other = pair_weights(condition)
    assert equal.sum() == pytest.approx(1)
    assert other.sum() == pytest.approx(1)
    assert equal[:4, :4].sum() == pytest.approx(0.5)
    assert (equal.diagonal() == 0).all()
    assert pair_weights(np.array([0, 0, 1]))[0][2].sum() == 0  # a patient alone has no pair


def test_the_axes_solve_the_generalized_problem():
    mix, condition, _ = cohort(3, shift=1.0)
    plans, _ = plan_components(mix)
    within = fit_reference(mix).within
    found = axes_of(plans, condition, within, (0.7, 5.0), n_comps=3)
    equal, other = scatters(plans, pair_weights(condition))
    unit = np.median(np.linalg.eigvals(np.linalg.solve(within, equal)).real)
    for ridge, w, ratios in zip((0.7, 5.0), *found, strict=True):
        noise = equal + ridge * unit * within
        values = np.sort(np.linalg.eigvals(np.linalg.solve(noise, other)).real)[::-1]
        np.testing.assert_allclose(ratios, values[:3], rtol=1e-5)
        # W'W = sum of g v v' with v' noise v = 1, whatever rows carry it
        np.testing.assert_allclose(np.trace(w @ noise @ w.T), values[:3].sum(), rtol=1e-5)
        np.testing.assert_allclose(np.trace(w @ other @ w.T), np.square(values[:3]).sum(), rtol=1e-5)


def test_weights_of_some_patients_are_theirs_alone():
    condition, rows = np.array([0, 1, 0, 1, 0, 0]), np.array([0, 1, 3, 4])
    for part, whole in zip(pair_weights(condition[rows]), pair_weights(condition, rows), strict=True):
        np.testing.assert_array_equal(whole[np.ix_(rows, rows)], part)
        assert whole.sum() == pytest.approx(part.sum())


def test_shares_that_vary_do_not_hide_a_shift():
    """Far states whose shares differ between patients make a few axes of C huge: the ridge is not measured by these."""
    mix, condition, axis = cohort(21, p=24)
    rng = np.random.default_rng(22)
    line = np.linalg.qr(np.column_stack([axis, rng.normal(size=D)]))[0][:, 1]
    means = 0.3 * rng.normal(size=mix.means.shape) + 100 * np.arange(K)[:, None] * line
    means[:, 0] += condition[:, None] * axis
    spread = replace(mix, means=means, weights=rng.dirichlet(np.full(K, 5.0), 24))
    plans, _ = plan_components(spread)
    within = fit_reference(spread).within
    w, hidden = axes_of(plans, condition, within, (RIDGES[0], 1e4), n_comps=1)[0]
    assert abs(w[0] @ axis) / np.linalg.norm(w[0]) > 0.9
    assert abs(hidden[0] @ axis) / np.linalg.norm(hidden[0]) < 0.5


def test_the_unit_of_the_coordinates_does_not_matter():
    mix, condition, _ = cohort(24, shift=1.0)
    wide = replace(mix, means=1000 * mix.means, covariances=1e6 * mix.covariances)
    ratios = [fit_metric(one, condition, ridge=1.0, offset=False, mix=1.0).ratios for one in (mix, wide)]
    np.testing.assert_allclose(*ratios, rtol=1e-5)


def test_w_is_canonical():
    mix, condition, _ = cohort(4, shift=1.0)
    w = fit_metric(mix, condition, ridge=1.0, tau=1.0, offset=False, mix=1.0).w
    gram = w @ w.T
    np.testing.assert_allclose(gram, np.diag(gram.diagonal()), atol=1e-9 * gram.max())
    assert (np.diff(gram.diagonal()) <= 0).all()
    assert (np.take_along_axis(w, np.abs(w).argmax(1)[:, None], 1) > 0).all()


def test_the_axis_of_the_shift_is_found():
    mix, condition, axis = cohort(5, p=24, shift=3.0, rotate=True)
    metric = fit_metric(mix, condition, n_comps=1, ridge=3.0, tau=0.5, offset=True, mix=1.0)
    assert abs(metric.w[0] @ axis) / np.linalg.norm(metric.w[0]) > 0.9
    assert metric.latent(np.ones((7, D))).shape == (7, 1)


def test_a_change_of_shares_is_the_compositions():
    mix, condition, _ = cohort(6, p=24, share=3.0)
    alone = fit_metric(mix, condition, ridge=1.0, mix=0.0)
    assert alone.loss < 0.2
    moved, condition, _ = cohort(6, p=24, shift=3.0)
    assert fit_metric(moved, condition, ridge=1.0, mix=0.0).loss > 0.5


def test_offsets_are_removed_where_that_helps():
    mix, condition, _ = cohort(7, p=24, shift=2.0, offset=3.0)
    how = {"mix": 1.0, "ridge": 1.0, "tau": 1.0}
    metric = fit_metric(mix, condition, **how)
    assert metric.offset
    assert metric.loss < fit_metric(mix, condition, offset=False, **how).loss


def test_rounding_gives_no_signal():
    """Without their offsets patients of one component are alike: such views are at chance, whatever rounding leaves."""
    mix, condition, _ = cohort(28, p=12, shift=3.0)
    one = mix.subset(np.arange(12))
    one = Mixtures(np.ones((12, 1)), one.means[:, :1], one.covariances[:, :1], "full", 0.0)
    found = fit_candidates(one, condition, offset=True, bures=False, mix=1.0)
    assert [view.metric.loss for view in found[1:]] == pytest.approx([np.log(2)] * 3)
    assert fit_metric(one, condition, offset=False, bures=False, mix=1.0).loss < 0.3


def test_the_offset_is_the_median_shift():
    mix, _, _ = cohort(8, p=6)
    reference = fit_reference(mix, K)
    same = replace(mix, means=mix.means + np.arange(6)[:, None, None] * 0.01)
    np.testing.assert_allclose(reference.remove_offsets(same).means, reference.remove_offsets(mix).means, atol=1e-9)


def test_permuted_conditions_are_not_predicted():
    mix, condition, _ = cohort(9, p=24, shift=3.0)
    rng = np.random.default_rng(0)
    losses = [fit_metric(mix, rng.permutation(condition), ridge=3.0, tau=1.0, mix=1.0, offset=False).loss
              for _ in range(5)]  # fmt: skip
    assert np.mean(losses) > 0.6


def test_distances_mix_state_and_composition():
    mix, condition, _ = cohort(10, shift=2.0, share=1.0)
    metric = fit_metric(mix, condition, mix=0.25, ridge=1.0, tau=0.5, offset=True)
    state = squared_state_distances(mix, None, metric)
    composition = squared_composition_distances(mix, None, metric.reference)
    above = np.triu_indices(P, 1)
    assert metric.units == pytest.approx((np.median(state[above]), np.median(composition[above])))
    wanted = np.sqrt(0.25 * state / metric.units[0] + 0.75 * composition / metric.units[1])
    np.testing.assert_allclose(metric_distances(mix, None, metric), wanted)
    # new patients are measured as the training patients are
    np.testing.assert_allclose(metric_distances(mix.subset([2, 5]), mix, metric), wanted[[2, 5]], atol=1e-6)


def test_composition_is_hellingers():
    mix, _, _ = cohort(11, p=5)
    reference = fit_reference(mix, K)
    share = reference.composition(mix)
    np.testing.assert_allclose(share.sum(1), 1)
    np.testing.assert_allclose(np.sort(share, 1), np.sort(mix.weights, 1), atol=1e-6)
    found = squared_composition_distances(mix, None, reference)
    assert found[0, 3] == pytest.approx(1 - np.sqrt(share[0] * share[3]).sum())


def test_components_in_another_order_change_nothing():
    mix, condition, _ = cohort(12, shift=2.0)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(K), (P, 1)), axis=1)
    rows = np.arange(P)[:, None]
    mixed = Mixtures(mix.weights[rows, order], mix.means[rows, order], mix.covariances[rows, order], "full", 0.0)
    how = {"ridge": 1.0, "tau": 1.0, "offset": False, "mix": 1.0}
    one, two = (fit_metric(each, condition, **how) for each in (mix, mixed))
    np.testing.assert_allclose(
        metric_distances(mixed, None, two), metric_distances(mix, None, one), rtol=1e-5, atol=1e-6
    )


def test_padding_changes_nothing():
    mix, condition, _ = cohort(13, shift=2.0)
    one, two = (fit_metric(each, condition, ridge=1.0, tau=(1.0, 0.5), mix=0.5) for each in (mix, mix.padded(K + 2)))
    np.testing.assert_allclose(one.w, two.w, rtol=1e-6, atol=1e-8)


def test_candidates_cover_the_grid_and_composition_comes_once():
    mix, condition, _ = cohort(14)
    found = fit_candidates(mix, condition, ridge=(1.0, 2.0), tau=(1.0, 0.5), offset=False, mix=(1.0, 0.0))
    assert len(found) == 10
    assert sum(one.metric.mix == 0 for one in found) == 1
    assert sum(one.metric.bures for one in found) == 4
    assert sum(one.metric.method == IDENTITY for one in found) == 1
    alone = fit_candidates(mix, condition, ridge=(1.0, 2.0), tau=(1.0, 0.5), mix=0.0)
    assert [one.metric.mix for one in alone] == [0]


def test_the_metric_that_is_not_learned_moves_means_as_they_are():
    mix, condition, _ = cohort(25, p=5)
    metric = fit_candidates(mix, condition, offset=False)[0].metric
    assert metric.method == IDENTITY
    moved = np.square(mix.means[:, None, :, None] - mix.means[None, :, None, :]).sum(-1)
    wanted = (plan_components(mix)[0].plan * moved).sum((2, 3))
    np.testing.assert_allclose(squared_state_distances(mix, None, metric), wanted, atol=1e-9)


def test_the_metric_is_one_that_uses_its_axes():
    """Where compositions alone tell patients best, their W has never been tried."""
    mix, condition, _ = cohort(6, p=24, share=3.0)
    found = [one.metric for one in fit_candidates(mix, condition, offset=False)]
    metrics = [replace(one, loss=-1.0) if one.mix == 0 else one for one in found]
    best = select_least_loss(metrics)
    assert best.mix > 0
    assert best.loss == min(one.loss for one in metrics if one.mix > 0 and one.method != IDENTITY)
    assert fit_metric(mix, condition, offset=False).loss == best.loss
    assert select_least_loss([one for one in metrics if one.mix == 0]).mix == 0
    assert select_least_loss([replace(best, loss=np.nan), best]) is best


def test_a_held_out_loss_is_that_of_fits_without_the_patient():
    """Metric, units and classifier of every fold are those of a cohort that never had its patient."""
    mix, condition, _ = cohort(26, p=9, shift=1.5)
    how = {"ridge": 1.0, "tau": 1.0, "offset": False, "mix": 0.75, "bures": False}
    _, found = fit_candidates(mix, condition, **how)
    reference, alone = fit_reference(mix), []
    for i in range(9):
        rest = np.delete(np.arange(9), i)
        cohort_plans = CohortPlans(mix)
        cohort_plans.mixtures, cohort_plans._roots = mix.subset(rest), component_roots(mix.subset(rest))
        metric = fit_candidates(mix.subset(rest), condition[rest], plans=cohort_plans, **how)[1].metric
        assert metric.reference.within == pytest.approx(reference.within)
        unit = np.median(squared_composition_distances(mix, None, reference)[np.triu_indices(9, 1)])
        squared = [
            0.75 * squared_state_distances(one, mix.subset(rest), metric) / metric.units[0]
            + 0.25 * squared_composition_distances(one, mix.subset(rest), reference) / unit
            for one in (mix.subset(rest), mix.subset([i]))
        ]
        alone.append(ridge_scores(*squared, condition[rest])[found.calibration.penalty, 0])
    p = to_probabilities(np.array(alone), found.calibration.slope)
    assert found.metric.loss == pytest.approx(balanced_loss(p, condition), rel=1e-6)


def test_plans_serve_other_conditions():
    mix, condition, _ = cohort(27, p=10, shift=1.0)
    cohort_plans, other = CohortPlans(mix), np.roll(condition, 3)
    for code in (condition, other):
        again, fresh = (
            select_least_loss([one.metric for one in fit_candidates(mix, code, plans=known)])
            for known in (cohort_plans, None)
        )
        np.testing.assert_array_equal(again.w, fresh.w)
        assert again.loss == fresh.loss


def test_groups_are_held_out_together():
    """Twins with random conditions: held out alone each is predicted from its twin, held out together they are not."""
    mix, condition, _ = cohort(15, p=12)
    twins = Mixtures.stack([mix, replace(mix, means=mix.means + 1e-3)])
    both, group = np.tile(condition, 2), np.tile(np.arange(12), 2)
    how = {"ridge": 0.3, "tau": 1.0, "offset": False, "mix": 1.0}
    assert fit_metric(twins, both, group=group, **how).loss > fit_metric(twins, both, **how).loss + 0.2


def test_gradient_training_lowers_its_loss_and_is_repeatable():
    mix, condition, _ = cohort(16, p=8, shift=1.0)
    how = {"method": "triplet", "ridge": 1.0, "tau": 1.0, "offset": False, "mix": 1.0, "training": {"max_iter": 8}}
    metric = fit_metric(mix, condition, **how)
    assert metric.history[-1] < metric.history[0]
    np.testing.assert_array_equal(fit_metric(mix, condition, **how).w, metric.w)


@pytest.mark.parametrize("change", [{"reg_type": 1}, {"reg_type": "nuc"}, {"entropic_reg": 0.1}, {"mi_reg": 0.1}])
def test_options_of_the_triplets(change):
    mix, condition, _ = cohort(17, p=6, shift=1.0)
    plans, _ = plan_components(mix, bures=True)
    w = axes_of(plans, condition, fit_reference(mix).within, (1.0,), n_comps=2)[0][0]
    plain = train_metric(plans.a, plans.plan, w, condition, TrainingSettings(max_iter=5, reg=0.1))
    other = train_metric(plans.a, plans.plan, w, condition, TrainingSettings(**{"max_iter": 5, "reg": 0.1, **change}))
    assert np.isfinite(other[0]).all()
    assert not np.allclose(plain[0], other[0])


def test_triplets_are_counted_by_hand():
    rng = np.random.default_rng(18)
    d, condition = rng.uniform(size=(6, 6)), np.array([0, 1, 0, 1, 1, 0])
    terms = [
        max(d[i, j] - d[i, k] + 0.3, 0) for i in range(6) for j in range(6) for k in range(6)
        if i != j and condition[i] == condition[j] != condition[k]
    ]  # fmt: skip
    found = compute_triplet_loss(torch.from_numpy(d), torch.from_numpy(condition), 0.3)
    assert float(found) == pytest.approx(np.mean(terms))


def test_norms():
    w = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    assert [float(matrix_norm(w, kind)) for kind in ("fro", 1, "nuc")] == [5, 7, 7]


def test_bad_input():
    mix, condition, _ = cohort(19, p=6)
    with pytest.raises(ValueError, match="one value only"):
        fit_metric(mix, condition * 0)
    with pytest.raises(ValueError, match="one code"):
        fit_metric(mix, condition[:-1])
    for name, value in (("tau", 0.0), ("ridge", -1.0), ("mix", 1.5), ("method", "lda"), ("n_comps", 0)):
        with pytest.raises(ValueError, match=name):
            fit_metric(mix, condition, **{name: value})
    plans, _ = plan_components(mix)
    with pytest.raises(ValueError, match="bures"):
        train_metric(plans.a, plans.plan, np.eye(D), condition, TrainingSettings(mi_reg=1.0))
    with pytest.raises(ValueError, match="reg_type"):
        TrainingSettings(reg_type="max")
