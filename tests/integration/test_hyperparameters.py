"""The six hyperparameters: what they accept, and what they set at 0, .5 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport.integration._hyperparameters import Hyperparameters

NAMES = ("strength", "conservation", "prototypes", "sharpen", "supervision", "projector")
READ = {
    "strength": ("step", "theta"),
    "conservation": ("full_agreement",),
    "prototypes": ("resolution",),
    "sharpen": ("sharpening",),
    "projector": ("mnn_fraction",),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1.3, -0.1, float("nan"), float("inf"), "a", None, True, [0.5], 1j], ids=repr)
def test_a_hyperparameter_outside_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.*number from 0 to 1"):
        Hyperparameters(**{name: value})


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float32(0.25), np.float64(0.25), np.int64(1)], ids=repr)
def test_numbers_of_any_kind_are_taken(value):
    assert Hyperparameters(strength=value).step == min(1.0, 2 * float(value))


def test_values_at_the_marks():
    off, half, full = (Hyperparameters(*(6 * [v])) for v in (0.0, 0.5, 1.0))
    assert (off.step, half.step, full.step) == (0, 1, 1)
    assert (off.theta, half.theta, full.theta) == (2, 2, 8)
    assert (off.resolution, half.resolution, full.resolution) == (0, 1, 2)
    assert (off.full_agreement, half.full_agreement, full.full_agreement) == (0, 0.5, 1)
    assert (off.sharpening, half.sharpening, full.sharpening) == pytest.approx((0, 0.63 / 32, 0.63))
    assert (off.mnn_fraction, half.mnn_fraction, full.mnn_fraction) == (0, 0.125, 0.5)
    assert (off.shape_fraction, half.shape_fraction, full.shape_fraction) == (1, 1, 0)


def test_step_factor():
    assert [Hyperparameters(conservation=c).step_factor(0.0) for c in (0.0, 0.25, 0.5, 1.0)] == [1, 0.5, 0, 0]
    assert all(Hyperparameters(conservation=c).step_factor(1.0) == 1 for c in (0.0, 0.5, 1.0))


def test_move_fraction_is_the_step_times_its_factor():
    assert Hyperparameters(strength=0.25).move_fraction(1.0) == 0.5
    assert Hyperparameters(strength=0.25, conservation=0.25).move_fraction(0.5) == 0.375


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_a_hyperparameter_sets_is_monotone(one, two, evidence):
    low, high = sorted((one, two))
    for name, properties in READ.items():
        for read in properties:
            assert getattr(Hyperparameters(**{name: low}), read) <= getattr(Hyperparameters(**{name: high}), read)
    assert Hyperparameters(conservation=low).shape_fraction >= Hyperparameters(conservation=high).shape_fraction
    assert Hyperparameters(conservation=low).step_factor(evidence) >= Hyperparameters(conservation=high).step_factor(
        evidence
    )
    assert Hyperparameters(conservation=low).step_factor(evidence) >= Hyperparameters(conservation=low).step_factor(
        evidence / 2
    )
