"""Outcomes through the model: what a column is taken for, predictions, files, and bad columns."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport import GMM
from muport.gmm._outcome_columns import read_outcome

EVENTS = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0])


@pytest.fixture(scope="module")
def patients(drawn) -> AnnData:
    """Twelve patients; not to be changed."""
    adata = drawn(12, 40)
    code = adata.obs["sample"].cat.codes.to_numpy()
    case = (adata.obs["condition"] == "case").groupby(code).first().to_numpy()
    rng = np.random.default_rng(0)
    score = case + 0.2 * rng.normal(size=12)
    adata.obs["score"] = score[code]
    adata.obs["grade"] = np.digitize(score, [0.1, 0.9])[code]
    levels = np.array(["low", "middle", "high"])
    adata.obs["stage"] = pd.Categorical(levels[np.digitize(score, [0.1, 0.9])][code], categories=levels, ordered=True)
    adata.obs["time"] = np.exp(-score + 0.1 * rng.normal(size=12))[code]
    adata.obs["dead"] = EVENTS[code]
    return adata


def fitted(adata: AnnData, labels_key: str, **settings) -> GMM:
    data = adata.copy()
    GMM.setup_anndata(data, labels_key=labels_key, **settings)
    model = GMM(data)
    model.fit_gmm(k_comps=3, refit="full", verbose=False)
    model.train_gmm(n_comps=1, ridge=1.0, offset=False, bures=False)
    return model


def test_what_is_taken(patients):
    data = patients.copy()
    for key, event, kind in (("condition", None, "class"), ("score", None, "continuous"), ("grade", None, "class"),
                             ("stage", None, "ordinal"), ("time", "dead", "survival")):  # fmt: skip
        GMM.setup_anndata(data, labels_key=key, event_key=event)
        assert GMM(data).outcome == kind
    GMM.setup_anndata(data)
    assert GMM(data).outcome is None
    GMM.setup_anndata(data, labels_key="grade", outcome="ordinal")
    assert GMM(data).outcome == "ordinal"


@pytest.mark.parametrize(
    ("key", "settings"),
    [("score", {}), ("stage", {}), ("grade", {"outcome": "ordinal"}), ("time", {"event_key": "dead"})],
)
def test_predictions_survive_saving(patients, tmp_path, key, settings):
    known = patients.copy()
    known.obs[key] = known.obs[key].where(known.obs["sample"] != "P03")
    model = fitted(known, key, **settings)
    plain, soft = model.predict(), model.predict(soft=True)
    assert list(plain.index) == list(model.state_.samples) == list(soft.index)
    assert not plain.isna().any()
    new = patients[patients.obs["sample"].isin(["P03", "P05"])].copy()
    del new.obs[key]
    pd.testing.assert_frame_equal(model.predict(new, soft=True), GMM.load(
        saved(model, tmp_path), accelerator="cpu").predict(new, soft=True))  # fmt: skip
    case = (patients.obs["condition"] == "case").groupby(patients.obs["sample"], observed=True).first()
    if model.outcome == "continuous":
        assert plain[case].mean() > plain[~case].mean() + 0.5
        assert (soft["lower"] < soft["value"]).all()
        assert (soft["value"] < soft["upper"]).all()
        assert plain.index.equals(soft.index)
    elif model.outcome == "ordinal":
        assert plain.cat.ordered
        np.testing.assert_allclose(soft.sum(axis=1), 1)
        assert plain.cat.codes[case].mean() > plain.cat.codes[~case].mean()
    else:
        assert plain[case].mean() > plain[~case].mean()
        curves = soft.to_numpy()
        assert (np.diff(curves, axis=1) <= 0).all()
        assert ((curves > 0) & (curves <= 1)).all()
        assert soft.columns[0] == 0
    assert model.get_metric().shape == (1, 5)
    assert model.get_sample_distances("learnt").shape == (12, 12)


def saved(model: GMM, folder) -> str:
    model.save(folder / "model", save_anndata=True)
    return str(folder / "model")


def test_cross_validation_is_deterministic(patients):
    model = fitted(patients, "score")
    first, second = (model.cross_validate(n_folds=3, n_permutations=1, strata_key="grade") for _ in range(2))
    np.testing.assert_array_equal(first.value, second.value)
    np.testing.assert_array_equal(first.null, second.null)
    assert first.samples == model.state_.samples
    assert first.scores["spearman"] > 0.3
    with pytest.raises(ValueError, match="tune compares options for classes"):
        model.tune()


def changed(**columns):
    def change(adata: AnnData) -> AnnData:
        data = adata.copy()
        for name, value in columns.items():
            data.obs[name] = value
        return data

    return change


BAD = {
    "numbers as classes": (changed(), {"labels_key": "score", "outcome": "class"}, ValueError, "not whole.*continuous"),
    "unknown outcome": (changed(), {"labels_key": "score", "outcome": "ranks"}, ValueError, "outcome='ranks'"),
    "no column": (changed(), {"outcome": "continuous"}, ValueError, "labels_key"),
    "no event column": (changed(), {"labels_key": "time", "outcome": "survival"}, ValueError, "needs event_key"),
    "missing event column": (changed(), {"labels_key": "time", "event_key": "died"}, KeyError, "died"),
    "event of a class": (
        changed(), {"labels_key": "stage", "outcome": "ordinal", "event_key": "dead"}, ValueError, "event_key='dead'",
    ),
    "negative time": (changed(time=-1.0), {"labels_key": "time", "event_key": "dead"}, ValueError, "time -1"),
    "events of two": (changed(dead=2), {"labels_key": "time", "event_key": "dead"}, ValueError, "'2'"),
    "no event": (changed(dead=None), {"labels_key": "time", "event_key": "dead"}, ValueError, "12 samples with a time"),
    "words": (changed(), {"labels_key": "condition", "outcome": "continuous"}, ValueError, "'case'.*finite number"),
    "no order": (changed(), {"labels_key": "condition", "outcome": "ordinal"}, ValueError, "ordered categorical"),
    "two numbers in a sample": (
        lambda a: changed(score=np.arange(a.n_obs) + 0.5)(a), {"labels_key": "score"}, ValueError, "'P00'",
    ),
}  # fmt: skip


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("kind", BAD)
def test_bad_outcomes(patients, kind):
    change, settings, error, match = BAD[kind]
    data = change(patients)
    before, began = list(data.obs), time.process_time()
    with pytest.raises(error, match=match):
        GMM.setup_anndata(data, **settings)
    assert time.process_time() - began < 1
    assert list(data.obs) == before


def test_one_value_is_refused_before_the_mixtures(patients):
    data = changed(score=1.5)(patients)
    GMM.setup_anndata(data, labels_key="score")
    began = time.process_time()
    with pytest.raises(ValueError, match="labels_key='score' has one value"):
        GMM(data).train(progress=False)
    assert time.process_time() - began < 1


def test_events_as_text_are_the_numbers_they_read_as(patients):
    values = []
    for form in (int, float, bool, {0: "0.0", 1: "1.0"}, {0: "False", 1: "1"}):
        data, events = patients.copy(), patients.obs["dead"].astype(int)
        data.obs["dead"] = events.map(form) if isinstance(form, dict) else events.astype(form)
        GMM.setup_anndata(data, labels_key="time", event_key="dead")
        model = GMM(data)
        values.append(read_outcome(data, model._rows(), np.arange(12), "survival", "time", "dead").event)
    assert values[0].any()
    assert all(np.array_equal(values[0], other) for other in values)
