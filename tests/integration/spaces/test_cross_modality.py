"""Predictions of one modality from another."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._cross_modality import fit_predictor, impute_modalities, predict_modality

WIDTH = {"rna": 6, "atac": 5, "adt": 4}


def _draw(n: int = 400, noise: float = 0.1, seed: int = 0) -> dict[str, np.ndarray]:
    """Three linear views of the same cells, of about unit scale."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    views = {m: hidden @ rng.normal(size=(3, d)) + noise * rng.normal(size=(n, d)) for m, d in WIDTH.items()}
    return {m: (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32) for m, x in views.items()}


def test_a_chain_of_regressions_predicts_a_modality_without_common_cells():
    full = _draw()
    cell = {"rna": np.arange(200), "atac": np.arange(100, 300), "adt": np.arange(200, 400)}
    x = {m: full[m][rows] for m, rows in cell.items()}
    predictor = fit_predictor(x, cell, 400, None, 0)
    assert predictor.paths["rna"]["adt"] == ("atac", "adt")
    assert "adt" not in predictor.direct["rna"]
    predicted = predict_modality(predictor, "rna", "adt", full["rna"][:100], None)
    expected = predictor.direct["atac"]["adt"].predict(predictor.direct["rna"]["atac"].predict(full["rna"][:100]))
    np.testing.assert_array_equal(predicted, expected)
    truth = full["adt"][:100]
    assert np.square(predicted - truth).sum() < 0.2 * np.square(truth - truth.mean(axis=0)).sum()


def test_shared_coordinates_predict_where_no_cells_are_paired():
    full = _draw()
    cell = {"rna": np.arange(200), "atac": np.arange(200, 400)}
    x = {m: full[m][rows] for m, rows in cell.items()}
    shared = {m: full["adt"][rows] for m, rows in cell.items()}
    with pytest.raises(ValueError, match="no chain of paired cells"):
        fit_predictor(x, cell, 400, None, 0)
    predictor = fit_predictor(x, cell, 400, shared, 0)
    assert predictor.shared.assisted["rna"]["atac"].regression is None
    s = (shared["rna"] - predictor.shared.center["rna"]) / np.float32(predictor.shared.scale["rna"])
    predicted = predict_modality(predictor, "rna", "atac", x["rna"], s)
    np.testing.assert_array_equal(predicted, predictor.shared.from_shared["atac"].predict(s))
    np.testing.assert_array_equal(predict_modality(predictor, "rna", "atac", x["rna"], None), 0)


def test_missing_modalities_are_predicted_by_the_mean_weighted_by_r2():
    full = _draw(noise=0.5)
    cell = {"rna": np.arange(400), "atac": np.arange(400), "adt": np.arange(300)}
    predictor = fit_predictor({m: full[m][rows] for m, rows in cell.items()}, cell, 400, None, 0)
    x = {m: np.random.default_rng(0).normal(size=(3, WIDTH[m])).astype(np.float32) for m in WIDTH}
    observed = {"rna": np.full(3, True), "atac": np.full(3, True), "adt": np.full(3, False)}
    r2 = {b: predictor.direct[b]["adt"].r2 for b in ("rna", "atac")}
    expected = sum(r2[b] * predict_modality(predictor, b, "adt", x[b], None) for b in r2) / sum(r2.values())
    imputed = impute_modalities(predictor, x, None, observed)
    np.testing.assert_allclose(imputed["adt"], expected, atol=1e-5)
    np.testing.assert_array_equal(imputed["rna"], x["rna"])
