"""Outcomes that are not classes: targets, hazards, slices, and their checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.prediction._outcomes import Outcome, OutcomeKind, cumulative_hazard, outcome_folds


def outcome(values: list[float], event: list[int] | None = None, kind: OutcomeKind = "continuous") -> Outcome:
    levels = ("a", "b", "c", "d") if kind == "ordinal" else ()
    events = np.zeros(len(values), np.int64) if event is None else np.array(event)
    return Outcome(kind, np.array(values, float), events, levels)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.floats(-2, 2)), min_size=2, max_size=12))
def test_hazard_is_the_sum_over_events(rows):
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    times, hazard = cumulative_hazard(time.astype(float), event, risk)
    assert (np.diff(times) > 0).all()
    for t in range(7):
        expected = sum(
            1 / np.exp(risk[time >= own]).sum() for own, e in zip(time, event, strict=True) if e and own <= t
        )
        assert hazard[np.searchsorted(times, t, side="right") - 1] == pytest.approx(expected)


def test_residuals_sum_to_zero_and_order_the_patients():
    o = outcome([1, 2, 2, 3, 5, 8], [1, 1, 0, 1, 0, 1], "survival")
    residuals = o.target()
    assert residuals.sum() == pytest.approx(0)
    assert residuals[0] == residuals.max()
    assert residuals[4] < residuals[2] < 0


def test_slices_are_even_and_follow_the_target():
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    codes = outcome(list(values)).slices()
    assert np.bincount(codes).tolist() == [20, 20, 20]
    assert all(values[codes == i].max() <= values[codes == i + 1].min() for i in range(2))
    # most patients have one value
    assert np.bincount(outcome([0.0] * 9 + [1.0, 2.0, 3.0]).slices()).tolist() == [9, 3]
    ranks = outcome([0, 0, 1, 3], kind="ordinal").target()
    assert ranks.tolist() == [0.25, 0.25, 0.625, 0.875]


def test_folds_keep_groups_and_the_range():
    values = list(np.arange(40.0))
    folds = outcome_folds(outcome(values), np.arange(40) // 2, 5)
    assert sorted(np.concatenate(folds)) == list(range(40))
    assert all(len(set(rows // 2)) == 4 and np.ptp(rows) > 25 for rows in folds)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (outcome([1, 2, 3]), "known for 3 patients"),
        (outcome([1, 1, 1, 1]), "one value"),
        (outcome([1, 2, 3, 4], [0, 0, 1, 0], "survival"), "happened in 1 patients"),
    ],
)
def test_too_little_is_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        bad.check_variation("labels_key='x'")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (outcome([1, np.inf]), "infinite"),
        (outcome([0, 4], kind="ordinal"), "no position"),
        (outcome([-1, 2], [0, 1], "survival"), "negative"),
    ],
)
def test_broken_states_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        bad.check_consistency()
