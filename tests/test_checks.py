"""Checks of arguments: what they accept, and that errors name the argument and its value."""

import anndata
import numpy as np
import pytest

from muport._checks import (
    check_flags,
    check_integers,
    check_not_negative,
    check_numbers,
    check_option,
    check_positive,
    check_seed,
)


def test_an_option_is_one_of_the_list():
    check_option("method", "exact", ["exact", None])
    check_option("method", None, ("exact", None))
    with pytest.raises(ValueError, match="method='slow' is unknown: use one of 'exact', None"):
        check_option("method", "slow", iter(["exact", None]))
    with pytest.raises(ValueError, match="(?s)metric=AnnData object .* is unknown"):
        check_option("metric", anndata.AnnData(np.zeros((2, 2))), ["mw2"])
    with pytest.raises(ValueError, match="is unknown"):
        check_option("metric", np.array(["mw2", "sliced"]), ["mw2"])


def test_flags_are_boolean():
    check_flags(scale=True, center=np.bool_(False))
    with pytest.raises(TypeError, match="center=1 must be True or False"):
        check_flags(scale=True, center=1)


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None])
def test_integers_have_a_least_value(value):
    check_integers(k=1, n=np.int64(3))
    with pytest.raises(ValueError, match=f"k={value!r} must be an integer of at least 1"):
        check_integers(n=1, k=value)


def test_a_seed_may_be_zero():
    check_seed(0)
    with pytest.raises(ValueError, match="random_state=-1 must be an integer of at least 0"):
        check_seed(-1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_numbers_lie_in_a_closed_range(value):
    check_numbers(0, 1, zero=0, one=1.0, half=np.float32(0.5))
    with pytest.raises(ValueError, match=f"share={value!r} must be a number from 0 to 1"):
        check_numbers(0, 1, share=value)


def test_a_number_without_bounds_is_called_a_number():
    with pytest.raises(ValueError, match="time='day 3' must be a number[.]$"):
        check_numbers(-np.inf, np.inf, time="day 3")


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1"])
def test_positive_numbers_are_finite(value):
    check_positive(reg=1e-9, tol=1)
    with pytest.raises(ValueError, match=f"reg={value!r} must be a finite number above 0"):
        check_positive(reg=value)


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan"), False, "1"])
def test_nonnegative_numbers_are_finite(value):
    check_not_negative(noise=0, effect=1.5)
    with pytest.raises(ValueError, match=f"noise={value!r} must be a finite number of at least 0"):
        check_not_negative(noise=value)
