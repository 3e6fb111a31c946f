"""The hyperparameters have the defaults of the model, and values out of range are named."""

from __future__ import annotations

import inspect

import pytest

from muport.velocity import Velocity, compute_ot_velocity, velocity
from muport.velocity._hyperparameters import VelocityHyperparameters


def defaults(function) -> dict:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def test_what_the_functions_add_has_the_defaults_of_the_model():
    for function in (compute_ot_velocity, velocity):
        for name in {"tau", "difference"} & defaults(function).keys():
            assert defaults(function)[name] == defaults(VelocityHyperparameters)[name]


def test_settings_are_those_of_the_model():
    both = {**defaults(Velocity.train), **defaults(Velocity.__init__)}
    assert {name: both[name] for name in defaults(VelocityHyperparameters)} == defaults(VelocityHyperparameters)


@pytest.mark.parametrize(("name", "value"), [
    ("windows", "square"), ("difference", "backward"), ("tail_handling", "keep"), ("window_fraction", 0.7),
    ("window_fraction", 0), ("window_size", 1), ("window_size", 20.5), ("n_clusters", 0), ("overlap_fraction", 1.0),
    ("overlap_fraction", -0.1), ("min_window_size", 0), ("min_window_size", 1), ("tail_threshold", -1), ("reg", 0.0),
    ("reg", -1), ("reg_scale", 0), ("tau", 0.0), ("tau", 1.1),
    ("relaxation", 0), ("relaxation", float("inf")), ("lambda_time", -1),
    ("lambda_knn", float("nan")), ("n_steps", 1), ("n_steps", 2.5),
    ("batch_size", 0), ("lr", 0), ("hidden_dim", 0), ("n_latent", 0), ("lambda_smooth", -1), ("lambda_curl", "much"),
    ("lambda_divergence", float("inf")), ("k_smooth", 0), ("n_bootstrap", -1), ("random_state", -1),
    ("random_state", True), ("use_time", 1),
])  # fmt: skip
def test_values_out_of_range_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}={value!r}"):
        VelocityHyperparameters(**{name: value})


def test_whole_floats_are_integers():
    hyperparameters = VelocityHyperparameters(window_size=50.0, n_steps=100.0, n_bootstrap=0.0, random_state=3.0)
    assert hyperparameters == VelocityHyperparameters(window_size=50, n_steps=100, n_bootstrap=0, random_state=3)
    values = (hyperparameters.window_size, hyperparameters.n_steps, hyperparameters.random_state)
    assert [type(value) for value in values] == [int] * 3
