import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from muport.data.projection._counts_to_coordinates import compute_coordinates
from muport.data.projection._recipe import ProjectionRecipe

NAMES = [f"f{i}" for i in range(8)]


def recipe(transform, rng, **changes):
    parts = {
        "transform": transform,
        "features": tuple(NAMES),
        "used": np.array([1, 3, 4, 6]),
        "scale": rng.uniform(0.5, 2.0, 4),
        "mean": rng.normal(size=4),
        "loadings": rng.normal(size=(4, 2)).astype(np.float32),
        "offset": rng.normal(size=2),
        "target": 20.0,
    }
    return ProjectionRecipe(**(parts | changes))


def by_hand(x, r):
    """Dense steps of the docstring of the recipe."""
    if r.transform == "clr":
        log = np.log1p(x)
        values = (log - log.mean(axis=1, keepdims=True))[:, r.used] * r.scale
    else:
        x = x[:, r.used] if r.transform == "tfidf" else x
        depth = x.sum(axis=1, keepdims=True)
        values = np.log1p(r.target * x / np.where(depth > 0, depth, 1))
        values = (values if r.transform == "tfidf" else values[:, r.used]) * r.scale
    values = np.minimum(values, r.largest) - r.mean
    if r.unit_values:
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    z = values @ r.loadings - r.offset
    return z / np.linalg.norm(z, axis=1, keepdims=True) if r.unit_coordinates else z


@given(st.sampled_from(["log", "tfidf", "clr"]), st.booleans(), st.booleans(), st.integers(0, 20))
def test_coordinates_are_those_of_the_steps_by_hand(transform, unit_values, unit_coordinates, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (12, 8)).astype(np.float32)
    counts[0] = 0
    r = recipe(transform, rng, largest=2.0, unit_values=unit_values, unit_coordinates=unit_coordinates)
    order = rng.permutation(8)
    found = compute_coordinates(sparse.csr_matrix(counts[:, order]), np.array(NAMES)[order], r, "the data")
    assert np.allclose(found, by_hand(counts, r), atol=1e-4)


def test_links_sum_features():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (5, 8)).astype(np.float32)
    links = sparse.random(8, 7, 0.6, format="csr", random_state=0)
    parts = {"link_weight": links.data, "link_column": links.indices, "link_start": links.indptr}
    r = recipe("log", rng, **parts)
    expected = by_hand(counts @ links.toarray(), r)
    assert np.allclose(compute_coordinates(counts, NAMES, r, "the data"), expected, atol=1e-4)


def test_features_without_loadings_may_be_missing_and_repeated_names_are_refused():
    rng = np.random.default_rng(0)
    counts, r = rng.poisson(2.0, (5, 8)).astype(np.float32), recipe("log", np.random.default_rng(1))
    without = counts.copy()
    without[:, 0] = 0
    assert np.allclose(compute_coordinates(counts[:, 1:], NAMES[1:], r, "the data"), by_hand(without, r), atol=1e-4)
    with pytest.raises(KeyError, match=r"the data lacks 1 of the 4 features .* 'f6'"):
        compute_coordinates(counts[:, :6], NAMES[:6], r, "the data")
    with pytest.raises(ValueError, match="names of features repeat, for example 'f0'"):
        compute_coordinates(counts, ["f0"] * 2 + NAMES[2:], r, "the data")
