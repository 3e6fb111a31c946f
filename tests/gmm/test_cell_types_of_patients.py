"""Annotated cell types as a view of the cohort: set-up, prediction, save and load."""

from __future__ import annotations

import numpy as np
import pytest

from muport import GMM
from muport.gmm.prediction._patient_classifier import FAMILIES


@pytest.fixture(scope="module")
def annotated(drawn):
    return drawn(10, 40, state_effect=0.0, composition_effect=3.0)


@pytest.fixture(scope="module")
def typed(annotated, set_up) -> GMM:
    """Not to be changed."""
    model = set_up(annotated, cell_type_key="cell_type")
    model.fit_gmm(k_comps=2, verbose=False)
    model.train_gmm(2, ridge=0.1, mix=(1.0, 0.0), offset=False)
    return model


def test_types_are_counted_and_weighted(typed, annotated):
    assert typed.state_.types == ("S0", "S1", "S2")
    assert typed.state_.counts.types.sum() == annotated.n_obs
    assert typed.metrics_["weight_types"] > 0.5
    families = [name for name in typed.metrics_ if name.startswith("weight_")]
    assert sum(typed.metrics_[name] for name in families) == pytest.approx(1)


def test_new_patients_need_their_types(typed, annotated):
    new = annotated.copy()
    np.testing.assert_allclose(typed.predict(new, soft=True).sum(axis=1), 1)
    del new.obs["cell_type"]
    with pytest.raises(KeyError, match="cell_type"):
        typed.predict(new)


def test_cells_of_unknown_types_count_as_without_a_type(typed, annotated):
    new = annotated.copy()
    new.obs["cell_type"] = new.obs["cell_type"].astype(str)
    new.obs.loc[new.obs_names[:5], "cell_type"] = "new"
    missing = new.copy()
    missing.obs.loc[new.obs_names[:5], "cell_type"] = None
    with pytest.warns(UserWarning, match=r"cell_type_key='cell_type' holds \['new'\]"):
        found = typed.predict(new, soft=True)
    np.testing.assert_array_equal(found, typed.predict(missing, soft=True))


def test_saved_and_loaded(typed, annotated, tmp_path):
    typed.save(tmp_path / "m")
    expected = typed.predict(annotated, soft=True)
    for data in (annotated.copy(), False):
        again = GMM.load(tmp_path / "m", adata=data)
        np.testing.assert_array_equal(again.predict(annotated, soft=True), expected)


def test_folds_count_the_types(typed):
    found = typed.cross_validate(n_folds=5)
    assert found.families.shape == (5, len(FAMILIES))
    assert found.balanced_accuracy > 0.7


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        ("type", KeyError, "'type'"),
        (3, TypeError, "cell_type_key=3 must be the name of a column"),
        ("one", ValueError, "cell_type_key='one' holds 1 types in 400 cells"),
        ("barcode", ValueError, "cell_type_key='barcode' holds 400 types"),
    ],
)
def test_bad_columns_are_refused_before_anything_is_written(annotated, key, error, match):
    data = annotated.copy()
    for column in [c for c in data.obs if str(c).startswith("_scvi")]:
        del data.obs[column]
    data.obs["one"], data.obs["barcode"] = "T", data.obs_names
    columns = list(data.obs)
    with pytest.raises(error, match=match):
        GMM.setup_anndata(data, labels_key="condition", cell_type_key=key)
    assert list(data.obs) == columns
