"""The six knobs: what they accept, and what they set at 0, .5 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport.integration._hyperparameters import Knobs

NAMES = ("strength", "conservation", "prototypes", "sharpen", "supervision", "projector")
READ = {
    "strength": ("step", "theta"),
    "conservation": ("agreement",),
    "prototypes": ("resolution",),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1.3, -0.1, float("nan"), float("inf"), "a", None, True, [0.5], 1j], ids=repr)
def test_a_knob_outside_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.*number between 0 \(off\) and 1"):
        Knobs(**{name: value})


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float32(0.25), np.float64(0.25), np.int64(1)], ids=repr)
def test_numbers_of_any_kind_are_taken(value):
    assert Knobs(strength=value).step == min(1.0, 2 * float(value))


def test_values_at_the_marks():
    off, half, full = (Knobs(*(6 * [v])) for v in (0.0, 0.5, 1.0))
    assert (off.step, half.step, full.step) == (0, 1, 1)
    assert (off.theta, half.theta, full.theta) == (2, 2, 8)
    assert (off.resolution, half.resolution, full.resolution) == (0, 1, 2)
    assert (off.agreement, half.agreement, full.agreement) == (0, 0.5, 1)
    assert (off.shape, half.shape, full.shape) == (1, 1, 0)


def test_caution():
    assert [Knobs(conservation=c).caution(0.0) for c in (0.0, 0.25, 0.5, 1.0)] == [1, 0.5, 0, 0]
    assert all(Knobs(conservation=c).caution(1.0) == 1 for c in (0.0, 0.5, 1.0))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_a_knob_sets_is_monotone(one, two, evidence):
    low, high = sorted((one, two))
    for name, properties in READ.items():
        for read in properties:
            assert getattr(Knobs(**{name: low}), read) <= getattr(Knobs(**{name: high}), read)
    assert Knobs(conservation=low).shape >= Knobs(conservation=high).shape
    assert Knobs(conservation=low).caution(evidence) >= Knobs(conservation=high).caution(evidence)
    assert Knobs(conservation=low).caution(evidence) >= Knobs(conservation=low).caution(evidence / 2)
