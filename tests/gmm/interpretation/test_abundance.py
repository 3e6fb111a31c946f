"""Differential abundance with samples as replicates, on counts whose changes are known."""

from __future__ import annotations

import numpy as np
import pytest

from muport.gmm.interpretation._abundance import Covariate, abundance_effects
from muport.gmm.metric._log_ratios import centered_log_ratios

T = 10


def cohort(seed: int, effect: float = 1.0, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (n, T): types 0 and 1 change with the condition, all types with a batch, and one sample is odd."""
    rng = np.random.default_rng(seed)
    condition = np.arange(n) % 2
    # two thirds of the batch have the condition, and one third of the other
    batch = (rng.random(n) < np.where(condition == 1, 2 / 3, 1 / 3)).astype(float)
    logit = rng.normal(size=T) + 0.4 * rng.normal(size=(n, T)) + batch[:, None] * rng.normal(size=T)
    logit[:, 0] += effect * condition
    logit[:, 1] -= effect * condition
    logit[0] += 3 * rng.normal(size=T)
    shares = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    return np.stack([rng.multinomial(500, row) for row in shares]).astype(float), condition, batch


def effects_of(counts: np.ndarray, condition: np.ndarray, **covariates: Covariate):
    ratios = centered_log_ratios(counts, counts.sum(1))
    shares = counts / counts.sum(1, keepdims=True)
    return abundance_effects(ratios, shares, condition, ["a", "b"], [f"T{i}" for i in range(T)], covariates)


def rates(with_batch: bool, n_cohorts: int = 60) -> tuple[float, float]:
    """False discovery rate at q <= .05, and power."""
    wrong, found = [], []
    for seed in range(n_cohorts):
        counts, condition, batch = cohort(seed)
        table = effects_of(counts, condition, **({"batch": Covariate(batch, True)} if with_batch else {}))
        hits = (table["q"] <= 0.05).to_numpy()
        wrong.append(hits[2:].sum() / max(hits.sum(), 1))
        found.append(hits[:2].mean())
    return float(np.mean(wrong)), float(np.mean(found))


def test_false_discoveries_are_few_with_an_odd_sample_and_a_batch():
    wrong, power = rates(with_batch=True)
    assert wrong <= 0.1
    assert power >= 0.6
    assert rates(with_batch=False)[0] > wrong


def test_p_values_without_effect_are_uniform():
    p = []
    for seed in range(60):
        counts, condition, batch = cohort(seed, effect=0.0)
        p.append(effects_of(counts, condition, batch=Covariate(batch, True))["p"])
    p = np.concatenate(p)
    assert abs((p < 0.05).mean() - 0.05) < 0.03
    # the median effect is subtracted, so that small effects are a little smaller
    assert 0.4 < (p < 0.5).mean() < 0.53


def test_effects_are_log_fold_changes_against_most_types():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(10**6, np.full(T, 1 / T), size=20).astype(float)
    condition = np.arange(20) % 2
    counts[condition == 1, 3] *= np.e
    table = effects_of(counts, condition)
    assert table.loc["T3", "effect"] == pytest.approx(1.0, abs=0.01)
    assert np.abs(table["effect"].drop("T3")).max() < 0.01
    assert list(table["reference"].unique()) == ["a"]


def test_a_batch_that_equals_the_condition_is_refused():
    counts, condition, _ = cohort(0)
    with pytest.raises(ValueError, match=r"covariate_keys=\['batch'\] cannot be distinguished"):
        effects_of(counts, condition, batch=Covariate(condition.astype(float), True))
    with pytest.raises(ValueError, match="too few"):
        effects_of(counts[:2], condition[:2])


def test_numbers_are_one_column_and_categories_several():
    values = np.array([1.0, 2.0, 2.0, 5.0])
    assert Covariate(values, False).columns().shape == (4, 1)
    assert Covariate(values, True).columns().tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]
