from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA
from sklearn.neighbors import NearestNeighbors

from muport.integration.spaces._canonical_axes import find_mutual_neighbors, find_neighbors, fit_canonical_axes


def cells(n: int = 400, seed: int = 0, names: tuple[str, ...] = ("a", "b")) -> dict[str, np.ndarray]:
    """Own representations of the same n cells: three axes in common, and four of each modality alone."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3)) * [3, 2, 1]
    return {m: np.c_[common + 0.5 * rng.normal(size=(n, 3)), rng.normal(size=(n, 4))].astype("f4") for m in names}


def all_pairs(names: tuple[str, ...], n: int) -> dict:
    rows = np.arange(n)
    return {(a, b): (rows, rows) for i, a in enumerate(names) for b in names[i + 1 :]}


def test_mutual_neighbors_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr("muport.integration.spaces._canonical_axes.N_NEIGHBORS", 6)
    rng = np.random.default_rng(0)
    z = {"a": rng.normal(size=(50, 4)).astype("f4"), "b": rng.normal(size=(70, 4)).astype("f4")}
    near = {}
    for one, other in (("a", "b"), ("b", "a")):
        found = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(z[one]).kneighbors(z[other])[1]
        near[one] = {(i, j) for j, row in enumerate(found) for i in row}
    expected = {(i, j) for i, j in near["a"] if (j, i) in near["b"]}
    rows = find_mutual_neighbors(find_neighbors(z))["a", "b"]
    assert set(zip(*(r.tolist() for r in rows), strict=True)) == expected


def test_the_axes_are_those_of_canonical_correlation_without_a_ridge(monkeypatch):
    monkeypatch.setattr("muport.integration.spaces._canonical_axes._RIDGE", 1e-9)
    own = cells()
    axes = fit_canonical_axes(own, all_pairs(("a", "b"), 400))
    found = {m: axes.project(m, x) for m, x in own.items()}
    oracle = dict(
        zip("ab", CCA(3, scale=False, max_iter=5000, tol=1e-12).fit_transform(own["a"], own["b"]), strict=True)
    )
    for m in own:
        assert [abs(np.corrcoef(found[m][:, i], oracle[m][:, i])[0, 1]) for i in range(3)] == pytest.approx(
            [1] * 3, abs=1e-4
        )
    correlation = [np.corrcoef(found["a"][:, i], found["b"][:, i])[0, 1] for i in range(7)]
    # unit vectors of two modalities together: each has the variance 1 / 2, times the squared correlation
    assert found["a"].std(axis=0) * np.sqrt(2) == pytest.approx(correlation, abs=1e-3)


def test_three_modalities_agree_on_what_they_have_in_common():
    names = ("a", "b", "c")
    own = cells(600, names=names)
    axes = fit_canonical_axes(own, all_pairs(names, 600))
    found = [axes.project(m, x) for m, x in own.items()]
    for i in range(3):
        assert min(np.corrcoef(found[j][:, i], found[j + 1][:, i])[0, 1] for j in range(2)) > 0.75
        assert min(np.abs(axes.axes[m][:3, i]).max() / np.abs(axes.axes[m][3:, i]).max() for m in names) > 5


@pytest.mark.parametrize("n", [0, 29])
def test_no_axes_of_too_few_matches(n):
    own = cells()
    assert fit_canonical_axes(own, {("a", "b"): (np.arange(n), np.arange(n))}) is None


def test_no_axes_of_constant_cells():
    own = {"a": np.ones((40, 3), "f4"), "b": cells(40)["b"]}
    assert fit_canonical_axes(own, all_pairs(("a", "b"), 40)) is None
