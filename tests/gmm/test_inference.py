"""Distances, embedding, components and features of a fitted cohort."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist, squareform

from muport.gmm import ComponentGroups
from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein

KINDS = ("mw2", "sliced", "emd", "moments", "learnt")


@pytest.mark.parametrize("learnt", [True, False], ids=["learnt", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_distances(model, kind, learnt):
    table = model.get_sample_distances(kind, learnt=learnt)
    values = table.to_numpy()
    assert list(table.index) == list(table.columns) == list(model.state_.samples)
    assert np.array_equal(values, values.T)
    assert (np.diag(values) == 0).all()
    assert (values[np.triu_indices(12, 1)] > 0).all()


def test_learnt_subspace_is_where_distances_are_taken(model):
    w = model.state_.classifier.metric.w
    mixtures = model.state_.cohort.mixtures
    assert np.allclose(model.get_sample_distances("mw2"), mixture_wasserstein(mixtures, w=w))
    assert np.allclose(model.get_sample_distances("mw2", learnt=False), mixture_wasserstein(mixtures))


def test_learnt_distances_tell_conditions_apart(cohort, model):
    condition = cohort.obs.groupby("sample", observed=True)["condition"].first().astype(str).to_numpy()
    same = condition[:, None] == condition
    away = ~np.eye(12, dtype=bool)
    distance = model.get_sample_distances("learnt").to_numpy()
    assert distance[~same].min() > distance[same & away].mean()


@pytest.mark.parametrize("kind", ["sliced", "emd"])
def test_seed_of_the_cells(drawn, set_up, kind):
    model = set_up(drawn(3, 300), None)
    model.fit_gmm(k_comps=1, verbose=False)
    one, again, other = (model.get_sample_distances(kind, random_state=seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other, rtol=1e-6)
    assert np.allclose(one, other, rtol=0.3)


def test_embedding_keeps_distances(model):
    whole = model.get_sample_embedding(n_components=11, metric="mw2").to_numpy()
    sizes = np.linalg.norm(whole, axis=0)
    assert (np.diff(sizes) <= 1e-9).all()
    assert np.allclose(whole.mean(0), 0, atol=1e-9)
    found, truth = squareform(pdist(whole)), model.get_sample_distances("mw2").to_numpy()
    # distances in a curved space: the plane they are laid into stretches them a little
    assert np.corrcoef(found[truth > 0], truth[truth > 0])[0, 1] > 0.98
    flat = model.get_sample_embedding()
    assert list(flat.columns) == ["MDS1", "MDS2"]
    assert list(flat.index) == list(model.state_.samples)
    assert np.allclose(flat, model.get_sample_embedding(metric="learnt"))
    without = model.get_sample_embedding(11, learnt=False).to_numpy()
    distances = model.get_sample_distances("mw2", learnt=False)
    assert np.allclose(cdist(without, without)[0, 1:], distances.to_numpy()[0, 1:], rtol=0.05)
    assert not np.allclose(cdist(flat, flat), cdist(without[:, :2], without[:, :2]), rtol=0.05)


def test_embedding_of_a_plane_is_exact(drawn, set_up):
    """One component and equal covariances: MW2 is the distance of the means."""
    adata = drawn(6, 40)
    adata.obsm["X_pca"] = np.zeros((240, 2), np.float32)
    at = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    code = adata.obs["sample"].cat.codes.to_numpy()
    adata.obsm["X_pca"] += at[code] + np.tile([[-1, 0], [1, 0], [0, -1], [0, 1]], (60, 1)).astype(np.float32)
    model = set_up(adata, None)
    model.fit_gmm(k_comps=1, shrinkage=False, verbose=False)
    assert np.allclose(squareform(pdist(model.get_sample_embedding())), squareform(pdist(at)), atol=1e-5)


def test_metric_is_canonical(cohort, model):
    w = model.get_metric()
    gram = w @ w.T
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())
    assert gram[0, 0] >= gram[1, 1]
    assert (w[[0, 1], np.abs(w).argmax(1)] > 0).all()
    assert np.allclose(model.get_latent_representation(), cohort.obsm["X_pca"] @ w.T, atol=1e-4)
    w[:] = 0
    assert model.get_metric().any()


def affected(adata) -> np.ndarray:
    """Mean of the cells of the state that the condition moves."""
    moved = (adata.obs["cell_type"] == adata.uns["simulation"]["affected_state"]).to_numpy()
    return adata.obsm["X_pca"][moved].mean(0)


def test_matched_components_are_the_states(cohort, model):
    groups = model.match_components()
    assert isinstance(groups, ComponentGroups)
    assert len(groups) == 3
    assert np.allclose(groups.shares.sum(1), 1)
    truth = cohort.uns["simulation"]["state_means"]
    nearest = np.linalg.norm(groups.means[:, None] - truth, axis=2).argmin(1)
    assert sorted(nearest) == [0, 1, 2]
    assert len(model.match_components(n_groups=2)) == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_affected_state_is_found(drawn, set_up, seed):
    adata = drawn(random_state=seed)
    model = set_up(adata)
    model.fit_gmm(k_comps=3, refit="full", verbose=False)
    groups = model.match_components()
    table = model.test_components(groups, n_permutations=199)
    moved = np.linalg.norm(groups.means - affected(adata), axis=1).argmin()
    assert table["state_effect"].idxmax() == moved
    assert table.loc[moved, "state_p"] < 0.05
    assert table.drop(index=moved)["state_effect"].max() < 0.5 * table.loc[moved, "state_effect"]


def test_no_state_is_found_where_there_is_none(drawn, set_up):
    model = set_up(drawn(state_effect=0.0))
    model.fit_gmm(k_comps=3, refit="full", verbose=False)
    assert (model.test_components(n_permutations=199)[["state_q", "share_q"]] > 0.05).all(axis=None)


def test_component_types(cohort, model):
    groups = model.match_components()
    found = model.get_component_types("cell_type", groups)
    assert found.share.shape == (3, 3)
    assert np.allclose(found.share.sum(axis=1), 1)
    assert (found.purity > 0.95).all()
    assert set(found.share.idxmax(axis=1)) == {"S0", "S1", "S2"}
    assert np.isclose(found.mass.sum(), cohort.n_obs, rtol=1e-5)


def test_features_of_the_axes(cohort, model):
    table = model.rank_features(cohort.varm["PCs"], cohort.var_names)
    assert list(table["item"].unique()) == ["axis 1", "axis 2"]
    w = model.get_metric()
    scores = cohort.varm["PCs"].astype(float) @ w.T
    first = table[table["item"] == "axis 1"]
    assert first["feature"].iloc[0] == cohort.var_names[np.abs(scores[:, 0]).argmax()]
    assert np.allclose(first.set_index("feature")["score"].loc[cohort.var_names], scores[:, 0])
    up = model.rank_features(cohort.varm["PCs"], cohort.var_names, n=3, by="up")
    assert len(up) == 6
    assert up["score"].iloc[0] == pytest.approx(scores[:, 0].max())


def test_features_of_the_components(cohort, model):
    table = model.rank_features(cohort.varm["PCs"], cohort.var_names, of="components", n=5)
    assert list(table["item"].unique()) == ["component 0", "component 1", "component 2"]
    assert table.groupby("item")["score"].apply(lambda s: np.abs(s).is_monotonic_decreasing).all()


def test_features_of_axes_need_a_metric(drawn, set_up):
    model = set_up(drawn(4, 20), None)
    model.fit_gmm(k_comps=2, verbose=False)
    with pytest.raises(ValueError, match=r"of='axes'.*train_gmm"):
        model.rank_features(np.eye(5), list("abcde"))
    assert len(model.rank_features(np.eye(5), list("abcde"), of="components")) == 10


def sets(adata) -> dict[str, list[str]]:
    axis = adata.var["axis"]
    return {f"A{i}": list(adata.var_names[axis == i]) for i in sorted(axis.unique())}


def test_gene_sets_without_decoupler(cohort, model):
    if importlib.util.find_spec("decoupler"):
        pytest.skip("decoupler is installed")
    with pytest.raises(ImportError, match=r"muport\[enrich\]"):
        model.enrichment(cohort.varm["PCs"], cohort.var_names, sets(cohort), min_features=2)


def test_gene_sets(cohort, model):
    pytest.importorskip("decoupler")
    table = model.enrichment(cohort.varm["PCs"], cohort.var_names, sets(cohort), min_features=2)
    assert set(table["item"]) == {"axis 1", "axis 2"}
    assert set(table["set"]) <= {f"A{i}" for i in range(5)}
