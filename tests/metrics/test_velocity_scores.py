from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from muport.datasets import simulated_dynamics
from muport.metrics import cbdir, direction_free, iccoh, velocity_error


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    return x, rng.normal(size=(120, 4)), np.array(["a", "b", "c"])[rng.integers(3, size=120)]


def _found(x, k):
    return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[1][:, 1:]


def _cos(a, b):
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


def _cbdir_loop(x, v, labels, source, target, found):
    scores = []
    for i in np.flatnonzero(labels == source):
        each = [_cos(x[j] - x[i], v[i]) for j in found[i] if j >= 0 and labels[j] == target]
        if each:
            scores.append(np.mean(each))
    return (np.mean(scores) if scores else np.nan), len(scores)


def _iccoh_loop(v, labels, group, found):
    scores = []
    for i in np.flatnonzero(labels == group):
        each = [_cos(v[i], v[j]) for j in found[i] if j >= 0 and labels[j] == group]
        if each:
            scores.append(np.mean(each))
    return (np.mean(scores) if scores else np.nan), len(scores)


def test_cbdir_is_the_written_formula(cells):
    x, v, labels = cells
    table = cbdir(x, v, labels, [("a", "b"), ("c", "a")], k=7)
    found = _found(x, 7)
    for row in table.itertuples():
        forward = _cbdir_loop(x, v, labels, row.source, row.target, found)
        reverse = _cbdir_loop(x, v, labels, row.target, row.source, found)
        np.testing.assert_allclose((row.forward, row.n_forward), forward, atol=1e-6)
        np.testing.assert_allclose((row.reverse, row.n_reverse), reverse, atol=1e-6)
        assert row.contrast == pytest.approx((forward[0] - reverse[0]) / 2)


def test_iccoh_is_the_written_formula(cells):
    x, v, labels = cells
    table = iccoh(x, v, labels, k=7)
    found = _found(x, 7)
    for group in "abc":
        np.testing.assert_allclose(table.loc[group].to_numpy(float), _iccoh_loop(v, labels, group, found), atol=1e-6)


def test_given_neighbors_may_be_missing(cells):
    x, v, labels = cells
    found = _found(x, 6)
    found[::2, 3:] = -1
    found[5] = -1
    row = cbdir(x, v, labels, [("a", "b")], neighbors=found).iloc[0]
    assert row["forward"] == pytest.approx(_cbdir_loop(x, v, labels, "a", "b", found)[0])
    coherence = iccoh(x, v, labels, neighbors=found).loc["c", "coherence"]
    assert coherence == pytest.approx(_iccoh_loop(v, labels, "c", found)[0])
    null = direction_free(x, neighbors=found)
    assert (null[5] == 0).all()
    np.testing.assert_allclose(null[2], x[found[2, :3]].mean(axis=0) - x[2], atol=1e-6)


def test_blocks_do_not_change_the_scores(cells, monkeypatch):
    x, v, labels = cells
    whole = cbdir(x, v, labels, [("a", "b")]), iccoh(x, v, labels), direction_free(x)
    monkeypatch.setattr("muport.metrics._velocity_scores._BLOCK", 300)
    assert whole[0].equals(cbdir(x, v, labels, [("a", "b")]))
    assert whole[1].equals(iccoh(x, v, labels))
    assert (whole[2] == direction_free(x)).all()


def test_only_the_contrast_sees_the_direction():
    adata = simulated_dynamics("linear", n_cells=3000, noise=0.25)
    x, time = adata.obsm["X_pca"], adata.obs["time"].to_numpy()
    labels = np.where(time < 0.5, "early", "late")
    edge = [("early", "late")]
    true = cbdir(x, adata.obsm["velocity"], labels, edge).iloc[0]
    null = cbdir(x, direction_free(x), labels, edge).iloc[0]
    assert null["forward"] > true["forward"] > 0.1
    assert null["reverse"] > 0.3 > 0 > true["reverse"]
    assert abs(null["contrast"]) < 0.05 < 0.15 < true["contrast"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_reversed_field_has_the_reversed_scores(seed, scale):
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, 40, 3))
    labels = rng.integers(2, size=40)
    one, back = (cbdir(x, f * v, labels, [(0, 1)], k=5).iloc[0] for f in (1, -scale))
    for name in ("forward", "reverse", "contrast"):
        assert one[name] == pytest.approx(-back[name])
    assert iccoh(x, v, labels, k=5).equals(iccoh(x, v, labels, k=5))
    assert (iccoh(x, v, labels, k=5)["coherence"] - iccoh(x, -scale * v, labels, k=5)["coherence"]).abs().max() < 1e-9


def test_groups_that_do_not_touch_have_no_score():
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    table = cbdir(x, np.ones_like(x), ["a", "a", "b", "b"], [("a", "b")], k=1).iloc[0]
    assert np.isnan(table["forward"])
    assert table["n_forward"] == 0
    lone = iccoh(x, np.ones_like(x), ["a", "a", "b", "c"], k=1)
    assert lone["n_cells"].tolist() == [2, 0, 0]
    assert lone["coherence"].isna().tolist() == [False, True, True]


def test_zero_velocity_counts_as_no_direction():
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    v = np.array([[1.0], [0.0], [1.0], [1.0]])
    assert cbdir(x, v, ["a", "a", "b", "b"], [("a", "b")], k=2)["forward"].tolist() == [0.5]
    assert velocity_error([[0.0, 0.0], [1.0, 0.0]], np.ones((2, 2))).cosine == pytest.approx(0.5**0.5 / 2)


def test_velocity_error_in_true_units():
    rng = np.random.default_rng(3)
    truth, noise = rng.normal(size=(2, 200, 5))
    v = 1.2 * truth + 0.3 * noise
    cosine = [_cos(a, b) for a, b in zip(v, truth, strict=True)]
    size = [abs(np.linalg.norm(a) / np.linalg.norm(b) - 1) for a, b in zip(v, truth, strict=True)]
    error = velocity_error(v, truth)
    assert error.cosine == pytest.approx(np.mean(cosine))
    assert error.cosine_p05 == pytest.approx(np.quantile(cosine, 0.05))
    assert error.magnitude == pytest.approx(np.median(size))
    assert velocity_error(3 * truth, truth).magnitude == pytest.approx(2)
    truth[:50] = 0
    assert velocity_error(v, truth).n_cells == 150


def test_bad_input_is_named(cells):
    x, v, labels = cells
    hole = v.copy()
    hole[3] = np.nan
    for call, message in (
        (lambda: cbdir(x, v[:5], labels, [("a", "b")]), "velocity .5, 4."),
        (lambda: cbdir(x, hole, labels, [("a", "b")]), "velocity has 1 rows"),
        (lambda: cbdir(x, v, labels[:4], [("a", "b")]), "labels has shape"),
        (lambda: cbdir(x, v, labels, []), "edges is empty"),
        (lambda: iccoh(x, v, labels, neighbors=np.full((120, 2), 120)), "must be in -1..119"),
        (lambda: iccoh(x, v, labels, neighbors=np.zeros((120, 2))), "integer positions"),
        (lambda: direction_free(x, 0), "k=0"),
        (lambda: velocity_error(v, np.zeros_like(v)), "zero in every cell"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(KeyError, match="'nowhere'"):
        cbdir(x, v, labels, [("a", "nowhere")])
