"""Tables are matched by name: shuffled rows give the same answer, other names are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from muport import metrics

N = 60
RNG = np.random.default_rng(0)
CELLS = pd.Index([f"c{i}" for i in range(N)])
KIND = RNG.integers(3, size=N)
X = pd.DataFrame(RNG.normal(size=(N, 3)) + 3 * np.eye(3)[KIND], index=CELLS)
Y = X + RNG.normal(scale=0.3, size=X.shape)
LABELS = pd.Series(np.array(["A", "B", "C"])[KIND], index=CELLS)
DAY = pd.Series(np.repeat([2.0, 6.0], N // 2), index=CELLS)
CLONES = pd.DataFrame(np.eye(10)[np.arange(N) % 10], index=CELLS)
FATES = pd.DataFrame(RNG.dirichlet([1, 1, 1], N), index=CELLS, columns=["A", "B", "C"])

CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "knn_labels": (metrics.knn_labels, {"x": X, "labels": LABELS}),
    "batch_mixing": (metrics.batch_mixing, {"x": X, "batch": LABELS}),
    "foscttm": (metrics.foscttm, {"a": X, "b": Y}),
    "clonal_agreement": (metrics.clonal_agreement, {"fates": FATES, "clones": CLONES, "labels": LABELS, "day": DAY}),
    "cbdir": (
        lambda **kwargs: metrics.cbdir(**kwargs, edges=[("A", "B")]),
        {"x": X, "velocity": Y - X, "labels": LABELS},
    ),
    "iccoh": (metrics.iccoh, {"x": X, "velocity": Y - X, "labels": LABELS}),
    "velocity_error": (metrics.velocity_error, {"velocity": Y - X, "truth": Y}),
    "label_transfer": (metrics.label_transfer, {"truth": LABELS, "prediction": LABELS.shift(1, fill_value="A")}),
    "confusion_counts": (metrics.confusion_counts, {"truth": LABELS, "prediction": LABELS.shift(1, fill_value="A")}),
}


def numbers(result: Any) -> Any:
    if isinstance(result, pd.DataFrame):
        return result.select_dtypes("number").to_numpy()
    return np.array(list(vars(result).values())) if hasattr(result, "__dict__") else np.asarray(result)


@pytest.mark.promise("Rows in another order give the same answer")
@pytest.mark.parametrize("name", CALLS)
def test_shuffled_tables_are_matched_by_name(name, record_property):
    function, tables = CALLS[name]
    expected = numbers(function(**tables))
    arrays = {key: table.to_numpy() for key, table in tables.items()}
    if name != "clonal_agreement":
        assert np.array_equal(numbers(function(**arrays)), expected)
    for key in list(tables)[1:]:
        before = tables[key].copy()
        shuffled = tables | {key: tables[key].sample(frac=1, random_state=1)}
        assert np.array_equal(numbers(function(**shuffled)), expected), key
        # a plain range is no name: positions count
        plain = tables | {key: tables[key].reset_index(drop=True)}
        if not name.startswith(("label", "confusion")):
            assert np.array_equal(numbers(function(**plain)), expected), key
        assert tables[key].equals(before)
    record_property("tries", 2 * len(tables) - 1)


@pytest.mark.promise("Tables of other cells are refused")
@pytest.mark.parametrize("name", CALLS)
def test_other_names_are_refused(name, record_property):
    function, tables = CALLS[name]
    for key in list(tables)[1:]:
        renamed = tables[key].rename(index={"c7": "other"})
        with pytest.raises((ValueError, KeyError), match=rf"{key}.*'(other|c7)'"):
            function(**tables | {key: renamed})
        if not name.startswith(("label", "confusion")):
            repeated = tables[key].iloc[np.r_[0, 0 : N - 1]]
            with pytest.raises(ValueError, match=rf"{key} has several rows of the name 'c0'"):
                function(**tables | {key: repeated})
        with pytest.raises((ValueError, KeyError)):
            function(**tables | {key: tables[key].to_numpy()[:-1]})
    record_property("tries", 3 * (len(tables) - 1))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_refused(missing):
    labels = LABELS.astype(object)
    labels.iloc[4] = missing
    for function, key in ((metrics.knn_labels, "labels"), (metrics.batch_mixing, "batch")):
        with pytest.raises(ValueError, match=f"{key} has 1 missing values"):
            function(X, labels)
