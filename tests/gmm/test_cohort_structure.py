"""Mean mixtures and trajectories of patients through the model."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from muport import GMM

N_CELLS = 50


def graded(seed: int, trend: float = 1.0, n_patients: int = 16) -> tuple[anndata.AnnData, np.ndarray]:
    """Three states; with the score of a patient the first becomes frequent, the others move on one axis."""
    rng = np.random.default_rng(seed)
    score = rng.permutation(np.linspace(0, 1, n_patients))
    center, cells = rng.normal(size=(3, 4)) * 6, []
    for value in score:
        odds = 0.3 * rng.normal(size=3) + trend * np.array([3 * (value - 0.5), 0, 0])
        state = rng.choice(3, N_CELLS, p=np.exp(odds) / np.exp(odds).sum())
        moved = center + trend * 6 * value * np.outer([0, 1, 1], [1, 0, 0, 0])
        cells.append(moved[state] + rng.normal(size=(N_CELLS, 4)))
    sample = np.repeat([f"P{i:02d}" for i in range(n_patients)], N_CELLS)
    obs = pd.DataFrame({"sample": sample, "score": np.repeat(score, N_CELLS)}, index=np.arange(len(sample)).astype(str))
    x = np.concatenate(cells).astype(np.float32)
    return anndata.AnnData(np.zeros((len(x), 1), np.float32), obs=obs, obsm={"X_pca": x}), score


@pytest.fixture(scope="module")
def scored() -> tuple[GMM, np.ndarray]:
    """Not to be changed."""
    adata, score = graded(0)
    GMM.setup_anndata(adata, labels_key="score", outcome="continuous")
    model = GMM(adata)
    model.fit_gmm(k_comps=3, verbose=False)
    return model, score


def test_the_trajectory_follows_the_score(scored):
    model, score = scored
    found = model.get_trajectory(n_permutations=199, loadings=np.eye(4), features=list("abcd"))
    assert spearmanr(found.pseudotime, score).statistic > 0.75
    assert found.pseudotime[found.root] == 0
    assert found.components["share_q"].min() < 0.05
    assert found.components["state_q"].nsmallest(2).max() < 0.05
    assert found.features.loc[found.features["p"].idxmin(), "feature"] == "a"
    again = model.get_trajectory(n_permutations=199, root=found.root)
    pd.testing.assert_series_equal(again.pseudotime, found.pseudotime)
    pd.testing.assert_frame_equal(again.components, found.components)
    assert again.features is None


def test_a_component_is_not_tested_against_itself():
    """Without a trend the pseudotime follows chance, which the tests must not find again."""
    p = []
    for seed in range(5):
        adata, _ = graded(seed, trend=0.0, n_patients=12)
        GMM.setup_anndata(adata, labels_key=None)
        model = GMM(adata)
        model.fit_gmm(k_comps=3, verbose=False)
        table = model.get_trajectory(n_permutations=99).components
        p += [*table["share_p"], *table["state_p"]]
    assert (np.array(p) < 0.05).mean() < 0.2
    assert np.mean(p) > 0.35


def test_barycenters_of_conditions_differ_where_the_conditions_do(model, cohort):
    control, case = model.get_barycenter("control"), model.get_barycenter("case")
    assert set(control.samples) | set(case.samples) == set(model.state_.samples)
    moved = np.abs(control.means[:, None] - case.means).sum(-1).min(axis=1)
    assert moved.max() > 3 > np.median(moved)
    one = model.get_barycenter(["P00"])
    assert one.samples == ("P00",)
    assert one.cost == pytest.approx(0, abs=1e-6)
    assert len(model.get_barycenter(n_components=2)) == 2
    cells, component = case.sample(200)
    assert cells.shape == (200, 5)
    assert component.max() < len(case)


def test_neighborhoods_of_cells_are_tested(drawn, set_up):
    adata = drawn(12, 60, n_states=5, state_effect=0.0, composition_effect=2.0, composition_noise=0.2)
    model = set_up(adata)
    model.fit_gmm(k_comps=2, verbose=False)
    table = model.test_abundance("neighborhoods", n_neighbors=40)
    assert list(table.index) == list(adata.obs_names)
    enriched = (adata.obs["cell_type"] == adata.uns["simulation"]["enriched_states"][0]).to_numpy()
    assert (table["condition"] == "control").all()
    assert table["effect"][enriched].median() < -1 < table["effect"][~enriched].median()
    assert (table["q"][enriched] < 0.05).mean() > 0.8
    with pytest.raises(ValueError, match="n_neighbors=1 "):
        model.test_abundance("neighborhoods", n_neighbors=1)
    with pytest.raises(ValueError, match="at most 720"):
        model.test_abundance("neighborhoods", n_neighbors=721)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"root": "sick"}, KeyError, "root='sick'"),
        ({"loadings": np.eye(5)}, ValueError, "given together"),
        ({"loadings": np.eye(5), "features": ["a"]}, ValueError, "1 names for 5"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors=0"),
        ({"learnt": "yes"}, TypeError, "learnt='yes'"),
    ],
)
def test_bad_options_of_a_trajectory_are_refused(model, options, error, match):
    with pytest.raises(error, match=match):
        model.get_trajectory(n_permutations=9, **options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"group": "sick"}, KeyError, "group='sick'"),
        ({"group": []}, ValueError, "one or more"),
        ({"group": ["P00", "Q"]}, KeyError, "'Q'"),
        ({"n_components": 0}, ValueError, "n_components=0"),
    ],
)
def test_bad_options_of_a_barycenter_are_refused(model, options, error, match):
    with pytest.raises(error, match=match):
        model.get_barycenter(**options)


def test_nearest_patients_are_those_of_the_matrix(model):
    table = model.get_sample_neighbors(4, learnt=False, n_candidates=11)
    matrix = model.get_sample_distances("mw2", learnt=False)
    for name, rows in table.groupby("sample"):
        expected = matrix.loc[name].drop(name).nsmallest(4)
        np.testing.assert_allclose(rows["distance"], expected, rtol=1e-4)
    linear = model.get_sample_distances("linear", learnt=False)
    assert np.corrcoef(linear.to_numpy().ravel(), matrix.to_numpy().ravel())[0, 1] > 0.8
    assert model.get_sample_embedding(2, "linear").shape == (12, 2)
    with pytest.raises(ValueError, match="below 12"):
        model.get_sample_neighbors(12)
    with pytest.raises(ValueError, match="n_candidates=3"):
        model.get_sample_neighbors(4, n_candidates=3)
