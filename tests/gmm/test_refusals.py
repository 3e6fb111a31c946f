"""What the model refuses: at once, with the key, the value and what to do."""

from __future__ import annotations

import time

import numpy as np
import pytest
from anndata import AnnData
from sklearn.exceptions import NotFittedError

from muport import GMM


@pytest.fixture(scope="module")
def small(drawn) -> AnnData:
    return drawn(6, 40)


@pytest.fixture
def bare(small, set_up) -> GMM:
    """Not fitted, on data of its own."""
    return set_up(small.copy())


def spoiled(adata: AnnData, **columns) -> AnnData:
    data = adata.copy()
    for name, value in columns.items():
        data.obs[name] = value
    return data


def with_nan(adata: AnnData) -> AnnData:
    data = adata.copy()
    data.obsm["X_pca"][7, 1] = np.nan
    return data


BAD_SETUPS = {
    "unknown sample column": (lambda a: a, {"sample_key": "patient"}, KeyError, r"patient.*sample"),
    "no sample column": (lambda a: a, {"sample_key": None}, TypeError, "sample_key=None"),
    "unknown representation": (lambda a: a, {"use_rep": "X_lsi"}, KeyError, r"X_lsi.*X_pca"),
    "unknown condition": (lambda a: a, {"labels_key": "disease"}, KeyError, "disease"),
    "not finite": (with_nan, {}, ValueError, r"X_pca.*cell7"),
    "two conditions": (
        lambda a: spoiled(a, condition=["x"] + ["y"] * (a.n_obs - 1)),
        {}, ValueError, r"labels_key='condition'.*1 samples.*'P00'.*'x', 'y'.*give each sample one",
    ),
    "negative weights": (
        lambda a: spoiled(a, weight=-1.0),
        {"weight_key": "weight"}, ValueError, r"weight_key='weight'.*240 cells.*negative",
    ),
    "weights of zero": (lambda a: spoiled(a, weight=0.0), {"weight_key": "weight"}, ValueError, "all weights are zero"),
    "words as weights": (
        lambda a: spoiled(a, weight="big"), {"weight_key": "weight"}, (TypeError, ValueError), "weight_key='weight'",
    ),
    "cell without sample": (
        lambda a: spoiled(a, sample=[None] + ["P"] * (a.n_obs - 1)),
        {}, ValueError, r"sample_key='sample'.*1 cells.*cell0",
    ),
}  # fmt: skip


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("kind", BAD_SETUPS)
def test_bad_setups(small, kind):
    make, settings, error, message = BAD_SETUPS[kind]
    data = make(small.copy())
    before, began = (list(data.obs), set(data.uns)), time.process_time()
    with pytest.raises(error, match=message):
        GMM.setup_anndata(data, **{"labels_key": "condition", **settings})
    assert time.process_time() - began < 1
    assert (list(data.obs), set(data.uns)) == before


BAD_CALLS = {
    "k of none": (lambda m: m.fit_gmm(k_comps=0), ValueError, "k_comps=0"),
    "k as a word": (lambda m: m.fit_gmm(k_comps="many"), ValueError, "k_comps='many'"),
    "k broken": (lambda m: m.fit_gmm(k_comps=2.0), ValueError, r"k_comps=2\.0"),
    "seed": (lambda m: m.fit_gmm(k_comps=2, random_state=-1), ValueError, "random_state=-1"),
    "no seed": (lambda m: m.fit_gmm(k_comps=2, random_state=None), ValueError, "random_state=None"),
    "k repeated": (lambda m: m.fit_gmm(k_comps=[2, 2]), ValueError, "distinct"),
    "no candidates": (lambda m: m.fit_gmm(k_comps=[]), ValueError, r"k_comps=\[\]"),
    "sharing": (lambda m: m.fit_gmm("both"), ValueError, "component_sharing='both'.*'global'"),
    "criterion": (lambda m: m.fit_gmm(k_selection_metric="mdl"), ValueError, "k_selection_metric='mdl'.*'bic'"),
    "refit": (lambda m: m.fit_gmm(refit=True), ValueError, "refit=True.*'full'"),
    "covariance": (lambda m: m.fit_gmm(covariance_type="tied"), ValueError, "covariance_type='tied'.*'diag'"),
    "train size": (lambda m: m.fit_gmm(train_size=1.0), ValueError, r"train_size=1\.0.*between 0 and 1"),
    "iterations": (lambda m: m.fit_gmm(k_comps=2, max_iter=0), ValueError, "max_iter=0"),
    "tolerance": (lambda m: m.fit_gmm(k_comps=2, tol=-1), ValueError, "tol=-1"),
    "starts": (lambda m: m.fit_gmm(k_comps=2, n_init=1.5), ValueError, r"n_init=1\.5"),
    "floor": (lambda m: m.fit_gmm(k_comps=2, eps=float("nan")), ValueError, "eps=nan"),
    "handling": (lambda m: m.fit_gmm(k_comps=2, singularity_handling="brave"), ValueError, "'brave'.*'robust'"),
    "shrinkage": (lambda m: m.fit_gmm(k_comps=2, shrinkage=-3), ValueError, "shrinkage=-3"),
    "key": (lambda m: m.fit_gmm(k_comps=2, gmm_key=3), TypeError, "gmm_key=3"),
    "metric before fit": (lambda m: m.train_gmm(), NotFittedError, "not trained"),
    "method": (lambda m: m.train(method="lda", progress=False), ValueError, "method='lda'.*'triplet'"),
    "no axes": (lambda m: m.train(n_comps=0, progress=False), ValueError, "n_comps=0"),
    "axes as a word": (lambda m: m.train(n_comps="all", progress=False), ValueError, "n_comps='all'"),
    "unknown group": (lambda m: m.train(group_key="person", progress=False), KeyError, "person"),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("kind", BAD_CALLS)
def test_bad_fits(bare, kind):
    call, error, message = BAD_CALLS[kind]
    began = time.process_time()
    with pytest.raises(error, match=message):
        call(bare)
    assert time.process_time() - began < 1
    assert bare.state_ is None
    assert not bare.is_trained_


BAD_ASKED = {
    "ridge": (lambda m: m.train_gmm(ridge=-1.0), ValueError, r"ridge=-1\.0"),
    "no ridge": (lambda m: m.train_gmm(ridge=[]), ValueError, r"ridge=\[\]"),
    "offset": (lambda m: m.train_gmm(offset="yes"), ValueError, "offset='yes'"),
    "seed": (lambda m: m.train_gmm(random_state=-1), ValueError, "random_state=-1"),
    "seed of directions": (lambda m: m.get_sample_distances("sliced", random_state=-1), ValueError, "random_state=-1"),
    "coordinates as a word": (lambda m: m.get_sample_embedding("2"), ValueError, "n_components='2'"),
    "NaN loadings": (lambda m: m.rank_features(np.full((5, 5), np.nan), list("abcde")), ValueError, "5 features"),
    "tau": (lambda m: m.train_gmm(tau=0.0), ValueError, r"tau=0\.0"),
    "mix": (lambda m: m.train_gmm(mix=(0.5, 1.5)), ValueError, r"mix=1\.5"),
    "norm": (lambda m: m.train_gmm(method="triplet", reg_type="max"), ValueError, "reg_type='max'.*'nuc'"),
    "margin": (lambda m: m.train_gmm(method="triplet", alpha=-1.0), ValueError, "alpha"),
    "states": (lambda m: m.train_gmm(n_states=0), ValueError, "n_states=0"),
    "information": (lambda m: m.train_gmm(method="triplet", mi_reg=1.0), ValueError, "mi_reg needs.*bures=True"),
    "wrong width": (lambda m: m.predict(narrow(m.adata)), ValueError, "4 coordinates, but the model has 5"),
    "wrong width of cells": (lambda m: m.map_query(narrow(m.adata)), ValueError, "4 coordinates.*model has 5"),
    "no samples": (lambda m: m.predict(unnamed(m.adata)), KeyError, "sample"),
    "no representation": (lambda m: m.predict(AnnData(np.ones((3, 2)))), KeyError, "X_pca"),
    "not finite": (lambda m: m.predict(with_nan(m.adata)), ValueError, "cell7"),
    "not data": (lambda m: m.predict(np.ones((3, 5))), TypeError, "AnnData"),
    "soft by position": (lambda m: m.predict(None, m.adata), TypeError, "must be True or False"),
    "distance": (lambda m: m.get_sample_distances("mmd"), ValueError, "metric='mmd'.*'sliced'"),
    "coordinates": (lambda m: m.get_sample_embedding(13), ValueError, "n_components=13.*12"),
    "folds": (lambda m: m.cross_validate(n_folds=1), ValueError, "n_folds=1"),
    "group": (lambda m: m.cross_validate(group_key="person"), KeyError, "group_key='person' is not in obs"),
    "groups that cut samples": (lambda m: m.cross_validate(group_key="cell_type"), ValueError, "group_key='cell_type'"),
    "empty grid": (lambda m: m.tune({}), ValueError, "grid is empty"),
    "empty values": (lambda m: m.tune({"n_comps": []}), ValueError, "at least one value"),
    "unknown setting": (lambda m: m.tune({"n_axes": [2]}), ValueError, "n_axes.*'n_comps'"),
    "a grid that is no dict": (lambda m: m.tune([1]), TypeError, "grid is list: pass a dict"),
    "a dict as values": (lambda m: m.tune({"n_comps": {1: 2}}), TypeError, r"grid\['n_comps'\]"),
    "loadings as text": (lambda m: m.rank_features(np.eye(5).astype(str), list("abcde")), TypeError, "loadings hold"),
    "a feature without a name": (lambda m: m.rank_features(np.eye(5), [*"abcd", None]), ValueError, "missing name"),
    "a number as values": (lambda m: m.tune({"n_comps": 2}), TypeError, r"grid\['n_comps'\]=2"),
    "loadings": (lambda m: m.rank_features(np.eye(4), list("abcd")), ValueError, r"\(4, 4\)"),
    "names": (lambda m: m.rank_features(np.eye(5), list("abc")), ValueError, "3 names for 5 rows"),
    "of": (lambda m: m.rank_features(np.eye(5), list("abcde"), "cells"), ValueError, "of='cells'"),
    "by": (lambda m: m.rank_features(np.eye(5), list("abcde"), by="size"), ValueError, "by='size'"),
    "groups": (lambda m: m.match_components(0), ValueError, "n_groups=0"),
    "more groups than components": (lambda m: m.match_components(99), ValueError, "n_groups=99 is above"),
    "more components than there are": (lambda m: m.get_barycenter(n_components=99), ValueError, "n_components=99 is"),
    "modality of an AnnData": (lambda m: m.to_pseudobulk(modality="zz"), KeyError, "modality='zz'.*an AnnData"),
    "a number as a group key": (lambda m: m.cross_validate(group_key=3), TypeError, "group_key=3 must be the name"),
    "a number as a types key": (lambda m: m.get_component_types(3), TypeError, "types_key=3 must be the name"),
    "a number as a stratum": (lambda m: m.test_components(strata_key=3), TypeError, "strata_key=3 must be the name"),
    "unknown stratum": (lambda m: m.test_components(strata_key="site"), KeyError, "strata_key='site' is not in obs"),
    "types": (lambda m: m.get_component_types("lineage"), KeyError, "lineage"),
}


def narrow(adata: AnnData) -> AnnData:
    data = adata.copy()
    data.obsm["X_pca"] = data.obsm["X_pca"][:, :4]
    return data


def unnamed(adata: AnnData) -> AnnData:
    data = adata.copy()
    del data.obs["sample"]
    return data


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("kind", BAD_ASKED)
def test_bad_questions(model, kind):
    call, error, message = BAD_ASKED[kind]
    state, began = model.state_, time.process_time()
    with pytest.raises(error, match=message):
        call(model)
    assert time.process_time() - began < 1
    assert model.state_ is state


CHANGES = {
    "coordinates": lambda a: a.obsm["X_pca"].__setitem__((3, 1), 9.0),
    "order of coordinates": lambda a: a.obsm.__setitem__("X_pca", a.obsm["X_pca"][::-1].copy()),
    "two cells exchange a coordinate": lambda a: a.obsm["X_pca"].__setitem__(
        ([0, 1], 0), a.obsm["X_pca"][[1, 0], 0].copy()
    ),
    "subset": lambda a: a._inplace_subset_obs(a.obs_names[1:]),
    "samples": lambda a: a.obs.__setitem__("sample", a.obs["sample"].to_numpy()[::-1].copy()),
}
READ_CELLS = {
    "moments": lambda m: m.get_sample_distances("moments"),
    "sliced": lambda m: m.get_sample_distances("sliced"),
    "pseudobulk": lambda m: m.to_pseudobulk(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_cells_that_changed_since_the_fit_are_refused(small, set_up, change):
    data = small.copy()
    model = set_up(data)
    model.fit_gmm(k_comps=2, verbose=False)
    expected = model.get_sample_distances("moments")
    # the order of the cells does not matter
    order = np.random.default_rng(0).permutation(data.n_obs)
    data._inplace_subset_obs(order)
    np.testing.assert_allclose(model.get_sample_distances("moments"), expected, rtol=1e-6, atol=1e-8)
    change(data)
    for call in READ_CELLS.values():
        with pytest.raises(ValueError, match=r"not those of the fit: the data were subset"):
            call(model)
