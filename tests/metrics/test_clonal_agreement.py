from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from muport.metrics import clonal_agreement

FATES = ["B", "T"]


def _draw(seed, n=150, n_clones=25):
    rng = np.random.default_rng(seed)
    clones = np.zeros((n, n_clones))
    clones[np.arange(n), rng.integers(n_clones, size=n)] = 1
    clones[rng.integers(n, size=5), rng.integers(n_clones, size=5)] = 1
    labels = np.array(["stem", "B", "T", "other"])[rng.integers(4, size=n)]
    day = rng.choice([2, 4, 6], size=n)
    fates = rng.dirichlet([1.0, 1.0, 1.0], size=n)[:, :2]
    return np.round(fates, 1), clones, labels, day


def _oracle(fates, clones, labels, day, early, late, threshold):
    """Cell by cell and clone by clone."""
    score, truth = [], []
    for i in np.flatnonzero(day == early):
        count = dict.fromkeys(FATES, 0)
        for clone in np.flatnonzero(clones[i]):
            for j in np.flatnonzero(clones[:, clone]):
                if day[j] == late and labels[j] in FATES:
                    count[labels[j]] += 1
        total = sum(count.values())
        if total:
            score.append(fates[i] / fates[i].sum() if fates[i].sum() else fates[i])
            truth.append([count[f] / total > threshold for f in FATES])
    return np.array(score), np.array(truth)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), threshold=st.sampled_from([0.0, 0.3, 0.5]))
def test_auroc_against_a_loop_and_sklearn(seed, threshold):
    fates, clones, labels, day = _draw(seed)
    table = clonal_agreement(
        fates, sparse.csr_matrix(clones), labels, day, names=FATES, early=2, late=4, threshold=threshold
    )
    score, truth = _oracle(fates, clones, labels, day, 2, 4, threshold)
    for f, name in enumerate(FATES):
        assert table.loc[name, "n_positive"] == truth[:, f].sum()
        assert table.loc[name, "n_negative"] == (~truth[:, f]).sum()
        if 0 < truth[:, f].sum() < len(truth):
            assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(truth[:, f], score[:, f]))


def test_dense_sparse_frame_and_defaults_agree():
    fates, clones, labels, day = _draw(1)
    one = clonal_agreement(fates, clones, labels, day, names=FATES)
    frame = pd.DataFrame(fates, columns=FATES)
    assert one.equals(clonal_agreement(frame, sparse.csc_array(clones), list(labels), list(day), early=2, late=6))
    assert one.equals(clonal_agreement(frame, 5 * clones, labels, day))


def test_clones_are_counted_where_they_join_both_days():
    clones = np.eye(3)[[0, 0, 1, 2, 2, 1]]
    labels = np.array(["stem", "B", "stem", "stem", "T", "stem"])
    table = clonal_agreement(np.full((6, 2), 0.5), clones, labels, [2, 6, 2, 2, 6, 6], names=FATES)
    assert table["n_clones"].tolist() == [2, 2]
    assert table["auroc"].tolist() == [0.5, 0.5]


def test_one_fate_only_has_no_auroc():
    table = clonal_agreement([[1.0, 0.0]] * 2, [[1], [1]], ["stem", "B"], [2, 6], names=FATES)
    assert table["auroc"].isna().all()
    assert table["n_positive"].tolist() == [1, 0]


def test_bad_input_is_named():
    fates, clones, labels, day = _draw(2)
    for change, message in (
        ({"names": ["B"]}, "fates has shape"),
        ({"names": None}, "fates has shape"),
        ({"fates": -fates}, "not negative"),
        ({"clones": clones[:9]}, "clones has .9,. rows"),
        ({"labels": labels[:9]}, "labels has .9,. rows"),
        ({"day": day[:9]}, "day has .9,. rows"),
        ({"early": 6, "late": 2}, "the early one first"),
        ({"early": 3}, "early=3 and late=6"),
        ({"names": ["X", "Y"]}, "No clone has a cell on day 2"),
    ):
        kwargs = {"fates": fates, "clones": clones, "labels": labels, "day": day, "names": FATES} | change
        with pytest.raises(ValueError, match=message):
            clonal_agreement(**kwargs)
