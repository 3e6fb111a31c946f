"""The settings of the whole are those of its steps."""

from __future__ import annotations

import inspect

import pytest

from muport.datasets import simulated_dynamics
from muport.metrics import velocity_error
from muport.velocity import Velocity, compute_ot_velocity, velocity
from muport.velocity.estimation import _pipeline
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._field_training import fit_field
from muport.velocity.estimation._pipeline import Cells, Settings, fit_network, raw_velocity, windows_of
from muport.velocity.estimation._raw_velocity import ot_velocity


def defaults(function) -> dict:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize("step", [ot_velocity, fit_field])
def test_steps_and_model_have_the_same_defaults(step):
    model = {**defaults(Settings), **defaults(Velocity.train), **defaults(Velocity.__init__)}
    shared = (defaults(step).keys() & model.keys()) - {"progress"}
    assert len(shared) > 5
    assert {name: defaults(step)[name] for name in shared} == {name: model[name] for name in shared}


def test_what_the_functions_add_has_the_defaults_of_the_model():
    for function in (compute_ot_velocity, velocity):
        for name in {"tau", "difference"} & defaults(function).keys():
            assert defaults(function)[name] == defaults(Settings)[name]


def test_settings_are_those_of_the_model():
    both = {**defaults(Velocity.train), **defaults(Velocity.__init__)}
    assert {name: both[name] for name in defaults(Settings)} == defaults(Settings)


@pytest.mark.parametrize(("name", "value"), [
    ("windows", "square"), ("difference", "backward"), ("tail_handling", "keep"), ("window_fraction", 0.7),
    ("window_fraction", 0), ("window_size", 1), ("window_size", 20.5), ("n_clusters", 0), ("overlap_fraction", 1.0),
    ("overlap_fraction", -0.1), ("min_window_size", 1), ("tail_threshold", -1), ("reg", 0.0),
    ("reg", -1), ("reg_scale", 0), ("tau", 0.0), ("tau", 1.1), ("lambda_time", -1),
    ("lambda_knn", float("nan")), ("n_steps", 1), ("n_steps", 2.5),
    ("batch_size", 0), ("lr", 0), ("hidden_dim", 0), ("n_latent", 0), ("lambda_smooth", -1), ("lambda_curl", "much"),
    ("lambda_divergence", float("inf")), ("k_smooth", 0), ("n_bootstrap", -1), ("random_state", -1),
    ("random_state", True), ("use_time", 1),
])  # fmt: skip
def test_values_out_of_range_are_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name}={value!r}"):
        Settings(**{name: value})


def test_beyond_a_number_of_cells_the_network_is_fitted_to_a_sample_of_them(monkeypatch):
    adata = simulated_dynamics("bifurcation", 3_000)
    cells = Cells(adata.obsm["X_pca"], adata.obs["time"].to_numpy())
    settings = Settings(n_steps=150)
    raw = raw_velocity(cells, windows_of(cells, settings), settings)
    whole = fit_network(cells, raw, settings)
    seen = []
    monkeypatch.setattr(_pipeline, "_FITTED", 1_500)
    fit = _pipeline.fit_field
    monkeypatch.setattr(
        _pipeline, "fit_field", lambda x, time, raw, **rest: seen.append(raw) or fit(x, time, raw, **rest)
    )
    sample = fit_network(cells, raw, settings)
    assert (seen[0].weight > 0).sum() == 1_500
    errors = [
        velocity_error(evaluate(one.field(), cells.x, cells.time), adata.obsm["velocity"]).cosine
        for one in (whole, sample)
    ]
    assert errors[1] > errors[0] - 0.01
