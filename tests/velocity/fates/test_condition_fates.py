"""Fates between conditions: oracles, level under permuted labels, power, designs that cannot be tested."""

import numpy as np
import pytest
from scipy import stats

from muport.velocity.fates._condition_fates import SampleDesign, check_design, compare_conditions, sample_shares


def samples(n, shift, rng, spread=0.3, n_cells=200):
    """Shares of a fate in n samples of each of two conditions: logits vary between samples."""
    logit = rng.normal(0, spread, 2 * n) + shift * np.repeat([0, 1], n)
    share = rng.binomial(n_cells, 1 / (1 + np.exp(-logit))) / n_cells
    return np.stack([share, 1 - share], axis=1), np.full(2 * n, float(n_cells))


def design(n, stratum=None):
    condition = np.repeat([0, 1], n)
    return SampleDesign(condition, np.zeros(2 * n, np.int64) if stratum is None else np.asarray(stratum))


def test_without_strata_it_is_the_t_test_of_logits():
    shares, n_cells = samples(5, 1.0, np.random.default_rng(0))
    corrected = (shares[:, 0] * n_cells + 0.5) / (n_cells + 1)
    logit = np.log(corrected / (1 - corrected))
    expected = stats.ttest_ind(logit[5:], logit[:5])
    found = compare_conditions(shares, n_cells, design(5), 10, 0)
    np.testing.assert_allclose(found.loc[0, ["t", "p"]].astype(float), [expected.statistic, expected.pvalue])
    np.testing.assert_allclose(found.loc[1, "t"], -found.loc[0, "t"])


def test_all_permutations_of_three_against_three_have_p_of_at_least_a_tenth():
    shares, n_cells = samples(3, 5.0, np.random.default_rng(0))
    found = compare_conditions(shares, n_cells, design(3), 10_000, 0)
    assert found["p_permutation"].to_list() == [0.1, 0.1]
    assert found["p"].max() < 0.01


def test_p_is_uniform_when_labels_are_permuted():
    rng = np.random.default_rng(1)
    fixed, n_cells = samples(6, 0.0, rng)
    stratum = np.tile([0, 1], 6)
    p, p_permutation = [], []
    for _ in range(200):
        condition = np.repeat([0, 1], 6)
        for code in (0, 1):
            condition[stratum == code] = rng.permutation(condition[stratum == code])
        permuted = SampleDesign(condition, stratum)
        # Student's t is right over samples, the permutation test also for each set of samples
        p.append(compare_conditions(samples(6, 0.0, rng)[0], n_cells, permuted, 1, 0).loc[0, "p"])
        p_permutation.append(compare_conditions(fixed, n_cells, permuted, 500, 0).loc[0, "p_permutation"])
    assert stats.kstest(p, "uniform").pvalue > 0.05
    assert stats.kstest(p_permutation, "uniform").pvalue > 0.05


def test_a_shift_is_found_with_three_against_three_samples():
    rng = np.random.default_rng(2)
    found = [compare_conditions(*samples(3, 1.2, rng), design(3), 1, 0).loc[0, "p"] < 0.05 for _ in range(100)]
    assert np.mean(found) >= 0.8
    null = [compare_conditions(*samples(3, 0.0, rng), design(3), 1, 0).loc[0, "p"] < 0.05 for _ in range(150)]
    assert np.mean(null) < 0.11


def test_strata_remove_a_difference_between_batches():
    rng = np.random.default_rng(3)
    stratum = np.tile([0, 1], 4)
    batch = np.where(stratum == 1, 2.0, 0.0)
    logit = rng.normal(0, 0.2, 8) + batch + np.repeat([0, 1], 4)
    shares = 1 / (1 + np.exp(-logit))[:, None]
    with_strata, without = (
        compare_conditions(shares, np.full(8, 1e4), design(4, s), 500, 0).loc[0] for s in (stratum, None)
    )
    assert with_strata["p"] < 0.01 < without["p"]
    assert with_strata["p_permutation"] == pytest.approx(2 / 36)


def test_shares_are_means_over_the_cells_of_a_sample():
    fates = np.array([[1.0, 0], [0, 1], [0, 0], [0.4, 0.6]])
    shares, n_cells = sample_shares(fates, np.array([1.0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(shares, [[0.5, 0.5], [0.4, 0.6]])
    assert n_cells.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("condition", "stratum", "names", "text"),
    [
        ([0, 0, 1], [0, 0, 0], ("a", "b"), "two samples each"),
        ([0, 1, 2, 2], [0, 0, 0, 0], ("a", "b", "c"), "two conditions"),
        ([0, 0, 1, 1], [0, 0, 1, 1], ("a", "b"), "no stratum"),
        ([0, 0, 1, 1], [0, 1, 2, 0], ("a", "b"), "merge strata"),
    ],
)
def test_designs_that_cannot_be_tested_are_refused(condition, stratum, names, text):
    with pytest.raises(ValueError, match=text):
        check_design(SampleDesign(np.array(condition), np.array(stratum)), names, "condition")
