"""Populations followed between the days of a fork whose branches are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport.velocity import Velocity

DAYS = [0.0, 1.0, 5.0, 6.0]
EARLY, FORK, LATE, END = DAYS


def course(n: int = 60, seed: int = 0) -> AnnData:
    """Cells that move along the first axis and, from day 1, part along the second into "up" and "down"."""
    rng = np.random.default_rng(seed)
    time = np.repeat(DAYS, n)
    side = np.where(rng.random(len(time)) < 0.5, 1, -1) * (time > EARLY)
    x = np.stack([2 * time, 3.0 * side * np.minimum(time, 3), 0 * time], axis=1) + rng.normal(0, 0.2, (len(time), 3))
    names = [f"cell{i}" for i in range(len(time))]
    adata = AnnData(np.zeros((len(time), 2), np.float32), obs=pd.DataFrame(index=names))
    adata.obs["day"] = pd.Categorical([f"E{t:g}" for t in time])
    adata.obs["fate"] = np.select([side > 0, side < 0], ["up", "down"], "root")
    adata.obs["embryo"] = [f"{t:g}-{i % 3}" for i, t in enumerate(time)]
    adata.obsm["X_pca"] = x.astype(np.float32)
    return adata


def fit(adata: AnnData, **train) -> Velocity:
    Velocity.setup_anndata(adata, use_rep="X_pca", time_key="day", labels_key="fate")
    model = Velocity(adata)
    model.train(**{"n_steps": 20, "n_bootstrap": 0, "accelerator": "cpu", "progress": False, **train})
    return model


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return course()


@pytest.fixture(scope="module")
def model(adata) -> Velocity:
    return fit(adata)


def by_fate(mass: pd.Series, adata: AnnData) -> dict[str, float]:
    return mass.groupby(adata.obs["fate"].reindex(mass.index)).sum().round(3).to_dict()


def test_descendants_stay_in_their_branch(model, adata):
    assert by_fate(model.push_forward("up", FORK, END), adata)["up"] > 0.99
    table = model.get_transition_table("fate", source_time=FORK, target_time=END, n_bootstrap=20)
    assert table.query("source == target")["fraction"].min() > 0.99
    root = model.get_transition_table("fate", source_time=EARLY, n_bootstrap=20)
    fraction = (adata.obs["fate"][adata.obs["day"] == "E6"] == "up").mean()
    up = root.set_index("target").loc["up"]
    assert up["fraction"] == pytest.approx(fraction, abs=0.02)
    assert up["lower"] < fraction < up["upper"]


def test_ancestors_are_pulled_back_day_by_day(model, adata):
    ancestors = model.get_ancestors("down", LATE)
    day = adata.obs["day"].astype(str)
    assert ancestors.groupby(day).sum(min_count=1).round(3).to_dict() == pytest.approx(
        {"E0": 1, "E1": 1, "E5": 1, "E6": np.nan}, nan_ok=True
    )
    assert by_fate(ancestors[day == "E1"], adata)["down"] > 0.99
    pulled = model.pull_back("down", EARLY, LATE)
    assert ancestors[day == "E0"].to_numpy() == pytest.approx(pulled.to_numpy())


def test_descendants_are_pushed_day_by_day(model, adata):
    mask = (adata.obs["fate"] == "up").to_numpy()
    descendants = model.get_descendants(mask, FORK)
    last = descendants[adata.obs["day"] == "E6"]
    assert last.to_numpy() == pytest.approx(model.push_forward(mask, FORK, END)[last.index].to_numpy(), abs=1e-6)
    assert descendants[adata.obs["day"] == "E0"].isna().all()


def test_the_plan_of_two_days_is_a_sparse_matrix(model):
    coupling = model.get_coupling(FORK, LATE)
    assert coupling.shape == (60, 60)
    assert coupling.converged
    assert coupling.to_sparse().sum() == pytest.approx(1, rel=1e-5)
    assert coupling.times == (1.0, 5.0)


def test_samples_are_drawn_where_they_are_given(model):
    table = model.get_transition_table("fate", source_time=EARLY, target_time=LATE, sample_key="embryo")
    assert (table["lower"] <= table["fraction"]).all()
    assert (table["fraction"] <= table["upper"]).all()


BAD = {
    "unknown time": (lambda m: m.get_coupling(1, 2), KeyError, r"target_time=2.*\[0.0, 1.0, 5.0, 6.0\]"),
    "times swapped": (lambda m: m.get_coupling(5, 1), ValueError, "source_time=5 is not before target_time=1"),
    "same time": (lambda m: m.push_forward("up", 1, 1), ValueError, "not before"),
    "unknown label": (lambda m: m.push_forward("left", 1, 5), KeyError, "'left' is not a label"),
    "no cell then": (lambda m: m.push_forward("up", 0, 5), ValueError, "no cell at time 0"),
    "negative mass": (lambda m: m.pull_back(np.full(240, -1.0), 0, 5), ValueError, "240 masses are negative"),
    "unknown column": (lambda m: m.get_transition_table("kind"), KeyError, "kind"),
    "bootstrap": (lambda m: m.get_transition_table("fate", n_bootstrap=-1), ValueError, "n_bootstrap=-1"),
    "level": (lambda m: m.get_transition_table("fate", level=1.5), ValueError, "level=1.5"),
    "one sample": (lambda m: m.get_transition_table("fate", sample_key="day"), ValueError, "one sample only"),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused(case, model):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call(model)


def test_a_pseudotime_is_no_time_course(kit):
    adata = kit.draw(n_cells=300)
    with pytest.raises(ValueError, match="300 distinct times"):
        kit.fit(adata, n_steps=5).get_coupling(0, 1)


def test_save_load_and_order(model, adata, tmp_path):
    model.save(tmp_path / "model")
    expected = model.push_forward("up", FORK, END)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    loaded = Velocity.load(tmp_path / "model", adata=shuffled)
    found = loaded.push_forward("up", FORK, END)
    assert found[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    with pytest.raises(ValueError, match="without data"):
        Velocity.load(tmp_path / "model", adata=False).get_coupling(FORK, END)


def test_same_seed_same_plan(adata):
    plans = [fit(adata.copy()).get_coupling(FORK, LATE).to_sparse().toarray() for _ in range(2)]
    assert (plans[0] == plans[1]).all()


def test_changed_cells_are_noticed(adata):
    changed = adata.copy()
    model = fit(changed)
    model.get_coupling(FORK, LATE)
    changed.obsm["X_pca"] = changed.obsm["X_pca"] + 5
    with pytest.raises(ValueError, match="use_rep"):
        model.get_coupling(FORK, LATE)


def test_populations_between_and_beyond_the_days(model, adata):
    found = model.predict_population(3.0, n_cells=300)
    assert found.obsm["X_pca"].shape == (300, 3)
    assert found.obsm["X_pca"][:, 0].mean() == pytest.approx(6, abs=0.3)
    assert found.obs["mass"].sum() == pytest.approx(60)
    origins = adata.obs.loc[found.obs["origin"], "day"].unique()
    assert set(origins) == {"E1"}
    ends = adata.obs.loc[found.obs["destination"], "fate"].to_numpy()
    assert (np.sign(found.obsm["X_pca"][:, 1]) == np.where(ends == "up", 1, -1)).mean() > 0.99
    ahead = model.predict_population(END + 1)
    assert ahead.n_obs == 60
    assert (ahead.obs["destination"] == "").all()


@pytest.mark.filterwarnings("ignore:1 of 1 transport problems did not converge")
def test_cells_followed_over_several_days_stay_in_their_branch(model, adata):
    found = model.follow_population(FORK, 5.5)
    assert found.obs_names.tolist() == adata.obs_names[adata.obs["day"] == "E1"].tolist()
    assert found.obsm["X_pca"][:, 0].mean() == pytest.approx(11, abs=0.3)
    up = (adata.obs.loc[found.obs_names, "fate"] == "up").to_numpy()
    assert ((found.obsm["X_pca"][:, 1] > 0) == up).all()
    assert found.obs["mass"].sum() == pytest.approx(60, rel=0.05)
    back = model.follow_population(END, EARLY)
    assert np.abs(back.obsm["X_pca"]).max() < 1  # the root, and its noise


def test_a_forecast_uses_the_earlier_days_alone(adata):
    changed = adata.copy()
    changed.obsm["X_pca"][adata.obs["day"].isin(["E5", "E6"])] += 7
    forecasts = [fit(data).predict_population(3.0, source_time=FORK).obsm["X_pca"] for data in (adata.copy(), changed)]
    assert (forecasts[0] == forecasts[1]).all()
    assert forecasts[0][:, 0].mean() == pytest.approx(2 + 0.4 * (1 - np.exp(-2)), abs=0.2)


def test_held_out_days_are_predicted(model):
    table = model.validate_held_out()
    assert table["time"].unique().tolist() == [FORK, LATE]
    scores = table[table["time"] == LATE].set_index("prediction")["w1"]
    assert scores["predicted"] < scores["day before"]
    assert model.validate_held_out([LATE], metric="w2", max_cells=30)["w2"].is_monotonic_increasing


BAD_PREDICTIONS = {
    "no number": (lambda m: m.predict_population("soon"), ValueError, "time='soon'"),
    "infinite": (lambda m: m.predict_population(float("inf")), ValueError, "time=inf"),
    "no cells": (lambda m: m.predict_population(3, n_cells=0), ValueError, "n_cells=0"),
    "unknown source": (lambda m: m.predict_population(3, source_time=2), KeyError, "source_time=2"),
    "one day only": (lambda m: m.predict_population(3, source_time=0), ValueError, "only measured time 0"),
    "followed to no number": (lambda m: m.follow_population(0, "soon"), ValueError, "time='soon'"),
    "followed from an unknown day": (lambda m: m.follow_population(2, 5), KeyError, "source_time=2"),
    "followed too far": (
        lambda m: m.follow_population(0, 7),
        ValueError,
        "time=7 is beyond the measured times, 0 to 6",
    ),
    "last day": (lambda m: m.validate_held_out([6]), ValueError, "6 is the first or the last time"),
    "unknown day": (lambda m: m.validate_held_out([2]), KeyError, "times=2"),
    "metric": (lambda m: m.validate_held_out(metric="w3"), ValueError, "metric='w3'"),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_what_cannot_be_predicted_is_refused(case, model):
    call, error, words = BAD_PREDICTIONS[case]
    with pytest.raises(error, match=words):
        call(model)


GROWING = {"growth": True, "n_bootstrap": 3}


def test_growth_is_saved_and_does_not_change_the_field(model, adata, tmp_path):
    grown = fit(adata, growth=True)
    np.testing.assert_array_equal(grown.get_velocity(), model.get_velocity())
    with pytest.raises(ValueError, match="growth=True"):
        model.query_growth(adata.obsm["X_pca"])
    grown = fit(adata, **GROWING)
    rate = grown.get_growth()
    again = fit(adata, **GROWING)
    np.testing.assert_array_equal(rate, again.get_growth())
    grown.save(tmp_path / "m")
    loaded = Velocity.load(tmp_path / "m", adata=False)
    queried, sd = loaded.query_growth(adata.obsm["X_pca"], model._rows().time, return_std=True)
    np.testing.assert_allclose(queried, rate, atol=1e-6)
    assert (sd > 0).all()
    np.testing.assert_allclose(grown.get_growth(adata[::-1].copy()), rate[::-1], atol=1e-6)


def test_particles_carry_mass_only_if_growth_was_estimated(model, adata):
    flow = fit(adata, **GROWING).simulate_flow(n_particles=5)
    assert flow.mass.shape == flow.paths.time.shape
    assert (flow.mass[:, 0] == 1).all()
    assert (flow.mass > 0).all()
    assert model.simulate_flow(n_particles=5).mass is None


def test_growth_needs_a_time_course(adata):
    cells = adata.copy()
    cells.obs["day"] = np.linspace(0, 1, cells.n_obs)
    with pytest.raises(ValueError, match="time course"):
        fit(cells, growth=True)


def test_an_expected_growth_rate_moves_the_plan(adata):
    cells = adata.copy()
    cells.obs["expected"] = np.where(np.arange(cells.n_obs) % 2, 1.0, 0.0)
    Velocity.setup_anndata(cells, use_rep="X_pca", time_key="day", labels_key="fate", growth_key="expected")
    model = Velocity(cells)
    model.train(n_steps=20, n_bootstrap=0, accelerator="cpu", progress=False)
    rate = model.get_coupling(EARLY, FORK).growth_rate.groupby(cells.obs["expected"]).mean()
    assert rate[1.0] - rate[0.0] == pytest.approx(1, abs=0.3)


def test_clones_as_a_column_or_a_matrix_give_the_same_plan(adata):
    cells = adata.copy()
    clone = pd.Series([f"c{i % 7}" for i in range(cells.n_obs)], index=cells.obs_names)
    cells.obs["clone"] = clone.where(np.arange(cells.n_obs) % 3 == 0)
    cells.obsm["X_clone"] = pd.get_dummies(cells.obs["clone"]).to_numpy(float)
    plans = []
    for key in (None, "clone", "X_clone"):
        Velocity.setup_anndata(cells, use_rep="X_pca", time_key="day", labels_key="fate", clone_key=key)
        model = Velocity(cells)
        model.train(n_steps=20, n_bootstrap=0, accelerator="cpu", progress=False)
        coupling = model.get_coupling(EARLY, FORK)
        assert coupling.converged
        plans.append(coupling.to_sparse().toarray())
    np.testing.assert_allclose(plans[1], plans[2], atol=1e-7)
    assert np.abs(plans[0] - plans[1]).max() > 1e-5


@pytest.mark.parametrize(
    ("key", "value", "error", "text"),
    [
        ("clone_key", "nowhere", KeyError, "nowhere"),
        ("clone_key", "day", ValueError, "no clone has cells at two times"),
        ("clone_key", 3, TypeError, "clone_key"),
        ("growth_key", "nowhere", KeyError, "nowhere"),
        ("growth_key", "fate", ValueError, "fate"),
        ("growth_key", "huge", ValueError, r"cell 'c?\w+' has the rate 1e\+308.*at most"),
    ],
)
def test_bad_columns_are_named_and_nothing_is_written(adata, key, value, error, text):
    cells = course()
    cells.obs["huge"] = 1e308
    with pytest.raises(error, match=text):
        Velocity.setup_anndata(cells, use_rep="X_pca", time_key="day", **{key: value})
    assert not any("scvi" in str(name) for name in (*cells.obs, *cells.uns))


def test_fates_of_samples_and_their_test(model, adata):
    fates = pd.get_dummies(adata.obs["fate"], dtype=float)[["up", "down"]]  # 0 for cells of the root
    adata.obs["donor"] = [f"d{i % 6}" for i in range(adata.n_obs)]
    table = model.get_sample_fates("donor", fates, population=["up", "down"])
    np.testing.assert_allclose(table[["up", "down"]].sum(axis=1), 1)
    assert table["n_cells"].sum() == (adata.obs["fate"] != "root").sum()
    adata.obs["condition"] = ["a" if name < "d3" else "b" for name in adata.obs["donor"]]
    found = model.test_fates("condition", "donor", fates)
    assert list(found.index) == ["up", "down"]
    assert {"share a", "share b", "log_odds", "t", "p", "q", "p_permutation"} == set(found.columns)
    with pytest.raises(ValueError, match="needs one"):
        model.test_fates("fate", "donor", fates)
    with pytest.raises(KeyError, match="nothing"):
        model.get_sample_fates("nothing", fates)
    with pytest.raises(ValueError, match="root"):
        model.get_sample_fates("donor", fates, population="root")


def test_the_selection_by_held_out_days_is_kept_and_used(adata, tmp_path):
    adata = adata[::3].copy()
    selected = fit(adata, select="held_out")
    table = selected.history_["held_out"]
    assert list(table.columns) == ["reg_scale", "relaxation", "w1", "ratio"]
    relaxation = selected.settings_["relaxation"]
    assert (selected.settings_["reg_scale"], np.inf if relaxation is None else relaxation) == tuple(table.iloc[0, :2])
    selected.save(tmp_path / "model")
    loaded = Velocity.load(tmp_path / "model", adata=adata)
    pd.testing.assert_frame_equal(loaded.history_["held_out"], table)
    assert loaded.settings_ == selected.settings_
    two = adata[adata.obs["day"].isin(["E0", "E1"])].copy()
    with pytest.raises(ValueError, match="two times"):
        fit(two, select="held_out")
    with pytest.raises(ValueError, match="select='best'"):
        fit(two, select="best")


@pytest.mark.filterwarnings("ignore:1 of 1 transport problems did not converge")
def test_draws_do_not_depend_on_the_order_of_the_cells(model, adata, tmp_path):
    model.save(tmp_path / "model")
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    again = Velocity.load(tmp_path / "model", adata=shuffled)

    def answers(course: Velocity) -> list[np.ndarray]:
        population = course.predict_population(3.0, n_cells=20)
        table = course.get_transition_table("fate", source_time=FORK, target_time=LATE, n_bootstrap=10)
        halves = course.validate_held_out([FORK]).set_index("prediction").loc["halves"]
        measured = course.predict_population(FORK, n_cells=7).obs["origin"].to_numpy()
        assert set(measured) <= set(adata.obs_names[adata.obs["day"] == "E1"])
        return [
            np.sort(population.obsm["X_pca"], axis=0),
            np.sort(course.follow_population(EARLY, 3.0).obsm["X_pca"], axis=0),
            table[["lower", "upper"]].to_numpy(),
            halves["mmd"],
            measured,
        ]

    for expected, found in zip(answers(model), answers(again), strict=True):
        if isinstance(expected, np.ndarray) and expected.dtype == object:
            assert np.array_equal(found, expected)
        else:
            np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), atol=1e-4)


def test_coordinates_of_other_cells_are_refused(model, adata, tmp_path):
    model.save(tmp_path / "model")
    other = adata.copy()
    other.obsm["X_pca"] = other.obsm["X_pca"][::-1].copy()
    with pytest.raises(ValueError, match="in another order"):
        Velocity.load(tmp_path / "model", adata=other).get_coupling(EARLY, FORK)


@pytest.mark.parametrize("kernel", ["coupling", "combined"])
def test_fates_by_couplings_reach_the_last_day(model, adata, kernel):
    fates = model.get_fates(["up", "down"], kernel=kernel)
    day, fate = adata.obs["day"], adata.obs["fate"]
    assert fates.sum(axis=1).to_numpy() == pytest.approx(1)
    assert fates["up"][(day == "E1") & (fate == "up")].min() > 0.95
    assert fates["up"][(day == "E1") & (fate == "down")].max() < 0.05
    expected = (fate[day == "E6"] == "up").mean()
    assert fates["up"][day == "E0"].mean() == pytest.approx(expected, abs=0.1)


def test_fates_by_couplings_do_not_depend_on_the_order_of_cells(model, adata):
    shuffled = fit(adata[np.random.default_rng(0).permutation(adata.n_obs)].copy())
    again = shuffled.get_fates(["up", "down"], kernel="coupling").loc[adata.obs_names]
    assert again.to_numpy() == pytest.approx(model.get_fates(["up", "down"], kernel="coupling").to_numpy(), abs=1e-5)


def test_combined_moves_are_those_of_get_transition_matrix_and_of_perturb(model, caplog):
    combined, flow, couplings = (
        model.get_transition_matrix(kernel=kernel) for kernel in ("combined", "velocity", "coupling")
    )
    rest = (3 * combined - flow - couplings).toarray()
    assert rest.min() > -1e-9
    assert rest.sum(axis=1) == pytest.approx(1)
    with caplog.at_level("INFO", logger="muport"):
        fates = model.get_fates(["up", "down"])
    assert "couplings of days" in caplog.text
    assert fates.equals(model.get_fates(["up", "down"], kernel="combined"))
    same = model.perturb(0, 0.0, terminal_states=["up", "down"], n_bootstrap=0, n_members=0)
    assert same.table["change"].to_numpy() == pytest.approx(0, abs=1e-6)


def test_without_its_data_a_model_has_no_couplings(model, tmp_path, caplog):
    model.save(tmp_path / "model")
    alone = Velocity.load(tmp_path / "model", adata=False)
    with caplog.at_level("INFO", logger="muport"):
        alone.get_transition_matrix()
    assert "velocity and neighbors." in caplog.text
    with pytest.raises(ValueError, match="load it with the cells"):
        alone.get_fates(["up", "down"], kernel="coupling")


def test_a_chain_of_couplings_needs_days(model):
    with pytest.raises(ValueError, match="kernel='plan'"):
        model.get_transition_matrix(kernel="plan")
    with pytest.raises(ValueError, match="n_neighbors"):
        model.get_transition_matrix(0, kernel="coupling")
    other = course()
    other.obs["day"] = np.linspace(0, 1, other.n_obs)
    with pytest.raises(ValueError, match="times"):
        fit(other).get_fates(["up", "down"], kernel="coupling")
