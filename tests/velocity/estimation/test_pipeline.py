"""All steps together: the network is fitted to a sample of many cells."""

from __future__ import annotations

from muport.datasets import simulated_dynamics
from muport.metrics import velocity_error
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation import _pipeline
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import InputCells, fit_network, pair_windows, transport_cells


def test_beyond_a_number_of_cells_the_network_is_fitted_to_a_sample_of_them(monkeypatch):
    adata = simulated_dynamics("bifurcation", 3_000)
    cells = InputCells(adata.obsm["X_pca"], adata.obs["time"].to_numpy())
    settings = VelocityHyperparameters(n_steps=150)
    raw = transport_cells(cells, pair_windows(cells, settings), settings)
    whole = fit_network(cells, raw, settings)
    seen = []
    monkeypatch.setattr(_pipeline, "_MAX_FITTED", 1_500)
    fit = _pipeline.fit_field
    monkeypatch.setattr(
        _pipeline,
        "fit_field",
        lambda x, time, raw, *rest, **options: seen.append(raw) or fit(x, time, raw, *rest, **options),
    )
    sample = fit_network(cells, raw, settings)
    assert (seen[0].weight > 0).sum() == 1_500
    errors = [
        velocity_error(evaluate(one.field(), cells.x, cells.time), adata.obsm["velocity"]).cosine
        for one in (whole, sample)
    ]
    assert errors[1] > errors[0] - 0.01
