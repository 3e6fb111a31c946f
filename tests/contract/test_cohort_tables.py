"""GMM finds samples and features by name: another order or other names change nothing; foreign tables are refused."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import muport
from muport import pl

mpl.use("agg")

ORDER = "Rows in another order give the same answer"
NAMES = "Other names of samples give the same answer"
REFUSED = "A table of other names is refused by name"
SMALL = "A sample of one cell never gives NaN"
ALONE = "The prediction for a sample depends on its own cells only"


def fit(adata: AnnData | MuData, **options: Any) -> muport.GMM:
    if isinstance(adata, MuData):
        muport.GMM.setup_mudata(adata, sample_key="rna:sample", labels_key="rna:condition")
    else:
        muport.GMM.setup_anndata(adata, labels_key="condition")
    model = muport.GMM(adata)
    model.fit_gmm(**{"k_comps": 3, "refit": "full", "verbose": False} | options)
    model.train_gmm(n_comps=2, ridge=(0.1, 1.0))
    return model


def renamed(adata: AnnData, names: dict[str, Any]) -> AnnData:
    other = adata.copy()
    other.obs["sample"] = other.obs["sample"].astype(str).map(names)
    return other


def answers(model: muport.GMM, order: list[str]) -> list[np.ndarray]:
    """Distances, predictions and coordinates of the samples, in a given order."""
    distances = [model.get_sample_distances(metric).loc[order, order].to_numpy() for metric in ("mw2", "emd", "learnt")]
    embedding = model.get_sample_embedding().loc[order].to_numpy()
    return [*distances, np.abs(embedding), model.predict(soft=True).loc[order].to_numpy()]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def cohort() -> AnnData:
    return muport.datasets.simulated_cohort(
        10, 40, n_dims=4, n_states=3, n_genes=16, state_effect=4.0, noise=1.0, patient_offset=0.1,
        composition_noise=0.0, random_state=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(cohort) -> muport.GMM:
    return fit(cohort)


@pytest.fixture(scope="module")
def names(model) -> list[str]:
    return list(model.predict().index)


def shuffled(adata: AnnData) -> AnnData:
    return adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()


def by_sample(adata: AnnData) -> AnnData:
    order = np.argsort(adata.obs["sample"].astype(str).to_numpy(), kind="stable")
    return adata[order[::-1]].copy()


@pytest.mark.promise(ORDER)
def test_the_order_of_cells_changes_no_answer_about_samples(cohort, model, names, record_property):
    variants = (shuffled, by_sample)
    expected = answers(model, names)
    for change in variants:
        # "emd" draws at most 250 cells of a sample; here it takes all
        assert same(answers(fit(change(cohort)), names), expected), change.__name__
    record_property("tries", len(variants) * len(expected))


NEW_NAMES = {
    "in another order": lambda i: f"z{99 - i}",
    "integers": lambda i: 20 - i,
    "not ASCII": lambda i: f"Пациент {chr(0x3A9 - i)}",
}


@pytest.mark.promise(NAMES)
@pytest.mark.parametrize("kind", NEW_NAMES)
def test_renamed_samples(cohort, model, names, kind, record_property):
    new = {name: NEW_NAMES[kind](i) for i, name in enumerate(names)}
    other = fit(renamed(cohort, new))
    assert same(answers(other, [str(new[name]) for name in names]), answers(model, names))
    record_property("tries", 5)


@pytest.mark.promise(ALONE)
def test_predictions_for_new_samples_depend_on_their_own_cells_only(cohort, model, names, record_property):
    part = cohort[cohort.obs["sample"].isin(names[:4])].copy()
    expected = model.predict(part, soft=True)
    assert np.allclose(model.predict(shuffled(part), soft=True).loc[expected.index], expected, atol=1e-9)
    new = {name: f"z{9 - i}" for i, name in enumerate(names[:4])}
    assert np.allclose(model.predict(renamed(part, new), soft=True).loc[list(new.values())], expected, atol=1e-9)
    alone = part[(part.obs["sample"] == names[2]).to_numpy()].copy()
    assert np.allclose(model.predict(alone, soft=True).loc[names[2]], expected.loc[names[2]], atol=1e-9)
    first = np.flatnonzero((part.obs["sample"] == names[0]).to_numpy())[0]
    factors = (1e3, 1e6, 1e9)
    for factor in factors:
        far = part.copy()
        far.obsm["X_pca"] = far.obsm["X_pca"].copy()
        far.obsm["X_pca"][first] *= factor
        found = model.predict(far, soft=True)
        assert np.allclose(found.loc[names[1:4]], expected.loc[names[1:4]], atol=1e-9), factor
        assert np.isfinite(found.to_numpy()).all()
    record_property("tries", 3 + len(factors))


@pytest.mark.promise(SMALL)
@pytest.mark.parametrize(
    "options",
    [{}, {"shrinkage": False}, {"component_sharing": "global"}, {"covariance_type": "diag"}, {"k_comps": [1, 2, 3]},
     {"k_comps": [1, 2], "k_selection_metric": "heldout_nll", "common_k": True}],
)  # fmt: skip
def test_a_sample_of_one_cell(cohort, names, options, record_property):
    sample = cohort.obs["sample"].to_numpy()
    rows = np.concatenate([np.flatnonzero(sample == names[0])[:1], np.flatnonzero(sample != names[0])])
    other = fit(cohort[rows].copy(), **options)
    assert all(np.isfinite(values).all() for values in answers(other, names))
    assert np.isfinite(other.get_sample_distances("sliced")).all().all()
    assert np.isfinite(other.test_components(n_permutations=9)).all().all()
    assert np.isfinite(other.get_responsibilities()).all()
    assert np.isfinite(other.predict(cohort[rows[:1]].copy(), soft=True)).all().all()
    record_property("tries", 9)


@pytest.mark.promise("A coordinate without variation changes no mixture and no predicted condition")
def test_constant_coordinates(cohort, model, names, record_property):
    expected, d = model.state_.cohort.mixtures, cohort.obsm["X_pca"].shape[1]
    values = (0.0, 7.0, -1e3)
    for value in values:
        other = cohort.copy()
        other.obsm["X_pca"] = np.c_[cohort.obsm["X_pca"], np.full(cohort.n_obs, value)]
        found = fit(other)
        mixtures = found.state_.cohort.mixtures
        assert np.allclose(mixtures.weights, expected.weights, atol=1e-6), value
        assert np.allclose(mixtures.means[..., :d], expected.means, atol=1e-5), value
        assert np.allclose(mixtures.covariances[..., :d, :d], expected.covariances, atol=1e-5), value
        assert found.predict().loc[names].tolist() == model.predict().loc[names].tolist(), value
    other.obsm["X_pca"] = np.ones_like(cohort.obsm["X_pca"])
    assert np.allclose(fit(other).predict(soft=True), 0.5, atol=1e-6)
    record_property("tries", len(values) + 1)


@pytest.fixture(scope="module")
def loadings(cohort) -> pd.DataFrame:
    return pd.DataFrame(cohort.varm["PCs"], index=cohort.var_names)


@pytest.mark.promise(ORDER)
@pytest.mark.parametrize("of", ["axes", "components"])
def test_loadings_in_another_order(model, loadings, of, record_property):
    expected = model.rank_features(loadings.to_numpy(), loadings.index, of=of)
    variants = {
        "as it is": loadings,
        "shuffled": loadings.sample(frac=1, random_state=1),
        "backward": loadings.iloc[::-1],
        "with features that are not asked for": pd.concat([loadings.rename(index="other_{}".format), loadings]),
    }
    for name, table in variants.items():
        pd.testing.assert_frame_equal(model.rank_features(table, loadings.index, of=of), expected, obj=name)
        pd.testing.assert_frame_equal(model.rank_features(table, list(loadings.index), of=of), expected, obj=name)
    record_property("tries", 2 * len(variants))


@pytest.mark.promise(REFUSED)
def test_loadings_of_other_features_are_refused(model, loadings, record_property):
    features = loadings.index
    wrong = {
        "renamed": loadings.rename(index=lambda name: f"other_{name}"),
        "one renamed": loadings.rename(index={features[3]: "other"}),
        "numbered": loadings.reset_index(drop=True),
        "twice": pd.concat([loadings, loadings.iloc[:1]]),
        "one lacks": loadings.iloc[1:],
    }
    for table in wrong.values():
        for of in ("axes", "components"):
            with pytest.raises(ValueError, match="loadings has"):
                model.rank_features(table, features, of=of)
        with pytest.raises(ValueError, match="loadings has"):
            model.enrichment(table, features, {"set": features[:6]})
    with pytest.raises(TypeError, match="is one text"):
        model.rank_features(loadings, str(features[0]))
    record_property("tries", 3 * len(wrong) + 1)


@pytest.mark.promise("Groups of components of another model are refused")
def test_groups_of_another_model_are_refused(cohort, model, names, record_property):
    own = model.match_components()
    assert model.test_components(own, n_permutations=9).equals(model.test_components(n_permutations=9))
    part = cohort[cohort.obs["sample"].isin(names[:6])].copy()
    others = {
        "fewer samples": fit(part),
        "another seed": fit(cohort.copy(), random_state=5, shrinkage=False),
        "another number of components": fit(cohort.copy(), k_comps=2),
        "samples in another order": fit(renamed(cohort, {name: f"z{99 - i}" for i, name in enumerate(names)})),
    }
    for other in others.values():
        groups = other.match_components()
        with pytest.raises(ValueError, match="groups are of other mixtures"):
            model.test_components(groups, n_permutations=9)
        with pytest.raises(ValueError, match="groups are of other mixtures"):
            model.get_component_types("cell_type", groups)
    record_property("tries", 2 * len(others))


@pytest.mark.promise(ORDER)
def test_shuffled_distances_and_conditions_give_the_same_figure(cohort, model, names, record_property):
    distances = model.get_sample_distances()
    condition = cohort.obs.groupby("sample", observed=True)["condition"].first().astype(str)
    rng = np.random.default_rng(1)

    def drawn(table: pd.DataFrame, series: Any) -> tuple[list[str], list[tuple]]:
        axes = pl.distance_map(table, series)
        image = axes.images[0].get_array()
        order = [label.get_text() for label in axes.get_yticklabels()]
        strip = next(child.images[0].get_array() for child in axes.child_axes if child.images)
        colors = [tuple(np.round(color, 3)) for color in np.asarray(strip)[0]]
        assert np.allclose(image, distances.loc[order, order])
        return sorted(zip(order, colors, strict=True))

    expected = drawn(distances, condition)
    n = 6
    for _ in range(n):
        rows, columns = rng.permutation(names), rng.permutation(names)
        table = distances.loc[rows, columns]
        assert drawn(table, condition.loc[rng.permutation(names)]) == expected
    with pytest.raises(ValueError, match="different names"):
        pl.distance_map(distances.rename(columns={names[0]: "other"}))
    with pytest.raises(KeyError, match="not in the Series"):
        pl.distance_map(distances, condition.rename({names[0]: "other"}))
    embedding = model.get_sample_embedding()
    with pytest.raises(KeyError, match="not in the Series"):
        pl.patient_embedding(embedding, condition.rename({names[0]: "other"}))
    record_property("tries", n + 3)
    mpl.pyplot.close("all")
