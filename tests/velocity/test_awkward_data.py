"""Outliers, small windows, odd times, data that changed after the fit, and arrays in any layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import muport
from muport import velocity as vl
from muport.velocity import Velocity

TIMES = "A time that cannot give a velocity is refused by name"
LAYOUT = "The layout of an array changes no result"
CHANGED = "Results of a fit are not given for data that changed after it"


@pytest.fixture
def cells(kit) -> AnnData:
    return kit.draw(n_cells=300)


def away(adata: AnnData, distance: float, row: int = 77) -> AnnData:
    x = adata.obsm["X_pca"].astype(np.float64)
    x[row] = x.mean(axis=0) + distance * np.eye(x.shape[1])[3]
    adata.obsm["X_pca"] = x.astype(np.float32)
    return adata


@pytest.mark.promise("One cell far from all others does not change the velocities of the others")
@pytest.mark.parametrize("distance", [200.0, 1e4, 1e9])
def test_a_cell_far_from_all_others_is_left_out_and_named(kit, cells, distance, record_property):
    record_property("tries", 2)
    others = np.arange(300) != 77
    expected = kit.fit(cells[others].copy()).get_velocity()
    adata = away(cells, distance)
    with pytest.warns(UserWarning, match="1 cells are more than 10 times farther.*'cell77'.*remove them"):
        model = kit.fit(adata)
    assert kit.cosine(model.get_velocity()[others], expected) > 0.999
    raw = model.get_velocity(kind="raw")
    assert not raw[77].any()
    assert raw[others].any(axis=1).mean() > 0.9
    adata.obs["pseudotime"] = adata.obs["time"]
    with pytest.warns(UserWarning, match="'cell77'"):
        vl.velocity(adata, n_epochs=40, project_umap=False, verbose=False)
    assert kit.cosine(adata.obsm["velot_velocity"][others], expected) > 0.95
    assert adata.obs["velot_confidence"].iloc[77] == 0


@pytest.mark.parametrize("n", [30, 300])
def test_clean_cells_are_all_fitted(kit, n):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*farther")
        kit.fit(kit.draw(n_cells=300)[:n].copy(), n_steps=2)


TIMES_OF = {
    "one late cell": (lambda t: np.where(t == t.max(), 1.0, 0.0), "window at 1 has 1 of the 300 cells.*at least 10"),
    "nine early cells": (lambda t: np.where(t <= np.sort(t)[8], 0.5, 2.0), "time window at 0.5 has 9 of the 300"),
    "a huge offset": (lambda t: t + 1e9, "from 1000000000.* cannot tell these times apart; subtract the first"),
    "a huge negative offset": (lambda t: t - 1e9, "cannot tell these times apart"),
    "one time": (lambda t: t * 0, "single value"),
    "a missing time": (lambda t: np.where(t == t.max(), np.nan, t), "'time'.*1 cells have no value"),
    "an infinite time": (lambda t: np.where(t == t.max(), np.inf, t), "'time'.*1 cells have an infinite value"),
    "dates": (lambda t: pd.Timestamp("2026-01-01") + pd.to_timedelta(t, unit="D"), "'time'.*datetime64.*days as float"),
    "durations": (lambda t: pd.to_timedelta(t, unit="D"), "'time'.*timedelta64.*days as float"),
    "truth values": (lambda t: t > 0.5, "'time'.*bool"),
    "complex numbers": (lambda t: t + 1j, "'time'.*complex"),
    "ordered words": (
        lambda t: pd.Categorical(np.where(t > 0.5, "late", "early"), ["early", "late"], ordered=True),
        "'time'.*'(ear|la)",
    ),
}  # fmt: skip


@pytest.mark.promise(TIMES)
@pytest.mark.parametrize("name", TIMES_OF)
def test_times_that_give_no_velocity_are_refused(kit, cells, name, record_property):
    record_property("tries", 2)
    make, match = TIMES_OF[name]
    cells.obs["time"] = make(cells.obs["time"].to_numpy())
    with pytest.raises((ValueError, TypeError), match=match):
        kit.fit(cells.copy(), n_steps=2)
    with pytest.raises((ValueError, TypeError), match=match):
        vl.build_windows(cells, time_key="time")
    assert "velot_windows" not in cells.uns


@pytest.mark.promise("The unit, origin and type of time change the velocity by its unit only")
@pytest.mark.parametrize("name", ["as text", "as float32", "negative", "in hours", "nullable", "ordered categories"])
def test_times_of_other_types_give_the_same_velocity(kit, cells, name, record_property):
    record_property("tries", 1)
    time = np.round(cells.obs["time"].to_numpy(), 2)
    cells.obs["time"] = time
    expected = kit.fit(cells.copy()).get_velocity()
    cells.obs["time"], unit = {
        "as text": (time.astype(str), 1),
        "as float32": (time.astype(np.float32), 1),
        "negative": (time - 5, 1),
        "in hours": (24 * time, 24),
        "nullable": (pd.array(time, dtype="Float64"), 1),
        "ordered categories": (pd.Categorical(time, [*np.unique(time), 99.0], ordered=True), 1),
    }[name]
    found = unit * kit.fit(cells).get_velocity()
    assert np.allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["time", "batch"])
def test_a_batch_of_one_cell_and_unused_labels(kit, cells, kind):
    cells.obs["batch"] = pd.Categorical(np.where(np.arange(300) == 5, "alone", "b"), ["unused", "alone", "b"])
    cells.obs["branch"] = pd.Categorical(cells.obs["branch"].astype(str), ["none", "trunk", "A", "B"])
    model = kit.fit(cells, {"batch_key": "batch" if kind == "batch" else None, "labels_key": "branch"})
    assert kit.cosine(model.get_velocity(), cells.obsm["velocity"]) > 0.9
    with pytest.raises(KeyError, match="'none' is not a label"):
        model.get_fates(["none", "A"])


@pytest.mark.promise(CHANGED)
def test_raw_velocities_follow_the_cells_or_are_refused(kit, cells, tmp_path, record_property):
    cells.obs["batch"] = np.where(np.arange(300) % 2, "x", "y")
    model = kit.fit(cells, {"batch_key": "batch"})
    data = model.adata
    raw, growth = model.get_velocity(kind="raw"), model.get_growth()
    order = np.random.default_rng(0).permutation(300)
    data._inplace_subset_obs(order)
    assert np.array_equal(model.get_velocity(kind="raw"), raw[order])
    assert np.array_equal(model.get_growth(), growth[order])
    model.save(tmp_path / "m", save_anndata=True)
    loaded = Velocity.load(tmp_path / "m")
    again, before = loaded.get_velocity(kind="raw"), raw[order]
    covered = before.any(axis=1)
    assert kit.cosine(again[covered], before[covered]) > 0.99

    changes: dict[str, tuple[Callable[[AnnData], None], str]] = {
        "time": (lambda a: a.obs.__setitem__("time", 1 - a.obs["time"]), "time_key"),
        "one time": (lambda a: a.obs.__setitem__("time", a.obs["time"].replace(a.obs["time"].max(), 2)), "time_key"),
        "batch": (lambda a: a.obs.__setitem__("batch", a.obs["batch"].to_numpy()[::-1].copy()), "batch_key"),
        "place": (lambda a: a.obsm["X_pca"].__setitem__((4, 2), 9.0), "use_rep"),
        "names": (lambda a: setattr(a, "obs_names", [f"new_{n}" for n in a.obs_names]), "0 are among the 300 cells"),
        "fewer cells": (lambda a: a._inplace_subset_obs(np.arange(200)), "200 cells, of which 200"),
    }  # fmt: skip
    record_property("tries", 2 * len(changes) + 3)
    for change, match in changes.values():
        other = kit.fit(cells.copy(), {"batch_key": "batch"}, n_steps=2)
        change(other.adata)
        for call in (lambda m=other: m.get_velocity(kind="raw"), other.get_growth):
            with pytest.raises(ValueError, match=match):
                call()
    # other data than those of the fit
    moved = cells.copy()
    moved.obs["time"] = moved.obs["time"] ** 2
    with pytest.raises(ValueError, match=r"cells of the fit have a value of time_key that the data lack"):
        Velocity.load(tmp_path / "m", adata=moved).get_velocity(kind="raw")


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    wide = np.zeros((2 * len(x), *x.shape[1:]), x.dtype)
    wide[::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "read-only": read_only,
        "Fortran": np.asfortranarray(x),
        "every second row": wide[::2],
        "backward": x[::-1].copy()[::-1],
        "big-endian": x.astype(x.dtype.newbyteorder(">")),
        "float64": x.astype(np.float64),
    }


@pytest.mark.promise(LAYOUT)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["read-only", "Fortran", "every second row", "backward", "big-endian", "float64"])
def test_the_layout_of_arrays_changes_nothing(cells, layout, record_property):
    x, v = (cells.obsm[key].astype(np.float32) for key in ("X_pca", "velocity"))
    time = cells.obs["time"].to_numpy().astype(np.float32)
    start = np.flatnonzero(time > 0.4)[:4]
    kernel = vl.cell_kernel(x, v, time=time)
    codes = np.where(time > 0.9, 0, np.where(time < 0.1, 1, -1))
    mask = codes == 0

    def flow(position, t):
        return 0 * position + 1

    def same(array: np.ndarray) -> np.ndarray:
        return layouts(array)[layout] if array.dtype.kind == "f" or layout not in ("float64", "big-endian") else array

    calls: dict[str, Callable] = {
        "cell_kernel": lambda a: vl.cell_kernel(a(x), a(v), time=a(time)).toarray(),
        "fate_probabilities": lambda a: vl.fate_probabilities(kernel, a(codes)),
        "dense kernel": lambda a: vl.fate_probabilities(a(kernel.toarray()), a(codes)),
        "committor": lambda a: vl.committor(kernel, a(codes == 1), a(mask)),
        "committor of rows": lambda a: vl.committor(kernel, a(np.flatnonzero(codes == 1)), a(np.flatnonzero(mask))),
        "terminal_states": lambda a: vl.terminal_states(a(kernel.toarray())),
        "meta_states": lambda a: vl.meta_states(kernel, a(x), 3).membership,
        "integrate": lambda a: vl.integrate(flow, a(x[start]), a(time[start]), 1.0, n_steps=3).x,
        "simulate": lambda a: vl.simulate(flow, a(x[start]), a(time[start]), 1.0, n_steps=3).x,
    }
    record_property("tries", len(calls))
    for name, call in calls.items():
        assert np.allclose(call(same), call(lambda array: array), atol=1e-5), name


@pytest.mark.promise(LAYOUT)
@pytest.mark.filterwarnings("error::UserWarning:muport")
@pytest.mark.parametrize("layout", ["read-only", "Fortran", "every second row", "float64"])
def test_the_layout_of_the_representation_changes_nothing(kit, cells, layout, record_property):
    record_property("tries", 5)
    expected = kit.fit(cells.copy(), {"labels_key": "branch"}, n_steps=20)
    x, embedding = cells.obsm["X_pca"].astype(np.float32), cells.obsm["X_umap"].astype(np.float32)
    cells.obsm["X_pca"] = layouts(x)[layout]
    model = kit.fit(cells, {"labels_key": "branch"}, n_steps=20)
    assert np.array_equal(model.get_velocity(), expected.get_velocity())
    assert np.array_equal(model.get_fates(["A", "B"]), expected.get_fates(["A", "B"]))
    changed = layouts(embedding)[layout]
    assert np.array_equal(model.project_to_embedding(changed), expected.project_to_embedding(embedding))
    query = layouts(x[:9])[layout]
    assert np.array_equal(model.query_velocity(query), expected.query_velocity(x[:9]))
    paths = [m.compute_trajectories([3, 4], n_steps=3).paths.x for m in (model, expected)]
    assert np.array_equal(*paths)


@pytest.mark.promise("Rows in another order give the same answer")
def test_functions_of_arrays_match_tables_by_name(cells, record_property):
    names = cells.obs_names
    x, v = (pd.DataFrame(cells.obsm[key], index=names) for key in ("X_pca", "velocity"))
    time = pd.Series(cells.obs["time"].to_numpy(), index=names)
    late, early = time > 0.9, time < 0.1
    kernel = vl.cell_kernel(x.to_numpy(), v.to_numpy(), time=time.to_numpy())
    table = pd.DataFrame(kernel.toarray(), index=names, columns=names)
    codes = late.astype(int) - 1 + 2 * early

    def mix(values, seed=0):
        return values.sample(frac=1, random_state=seed)

    mixed_columns = table[mix(time).index]
    calls = {
        "cell_kernel": lambda: (vl.cell_kernel(x, mix(v), time=mix(time, 1)), kernel),
        "fate_probabilities": lambda: (
            vl.fate_probabilities(mixed_columns, mix(codes)), vl.fate_probabilities(kernel, codes.to_numpy())
        ),
        "committor": lambda: (
            vl.committor(kernel, early, mix(late)), vl.committor(kernel, early.to_numpy(), late.to_numpy())
        ),
        "committor of a table": lambda: (
            vl.committor(table, mix(early), mix(late)), vl.committor(kernel, early.to_numpy(), late.to_numpy())
        ),
        "meta_states": lambda: (vl.meta_states(table, mix(x), 3).membership, vl.meta_states(kernel, x, 3).membership),
        "integrate": lambda: (
            vl.integrate(lambda p, t: 0 * p + t[:, None], x, mix(time), 2.0, n_steps=2).x,
            vl.integrate(lambda p, t: 0 * p + t[:, None], x.to_numpy(), time.to_numpy(), 2.0, n_steps=2).x,
        ),
    }  # fmt: skip
    record_property("tries", len(calls))
    for name, call in calls.items():
        found, expected = (a.toarray() if hasattr(a, "toarray") else np.asarray(a) for a in call())
        assert np.allclose(found, expected, atol=1e-6), name
    with pytest.raises(ValueError, match="velocity has 300 rows, none of them for 300 of 300 cells"):
        vl.cell_kernel(x, v.rename(index=lambda name: f"x{name}"))
    with pytest.raises(ValueError, match="kernel: rows and columns have different names"):
        vl.terminal_states(table.rename(columns=lambda name: f"x{name}"))
    dates = pd.Timestamp("2026-01-01") + pd.to_timedelta(time.to_numpy(), unit="D")
    with pytest.raises(TypeError, match="time must be numbers, not datetime64"):
        vl.cell_kernel(x.to_numpy(), v.to_numpy(), time=dates.to_numpy())


@pytest.mark.promise("Arguments are checked before anything is written")
def test_an_embedding_with_a_missing_value_is_refused_before_anything_is_written(cells):
    cells.obs["pseudotime"] = cells.obs["time"]
    cells.obsm["X_umap"][5, 1] = np.nan
    before = set(cells.obs), set(cells.obsm), set(cells.uns)
    with pytest.raises(ValueError, match="X_umap.*NaN"):
        vl.velocity(cells, n_epochs=2, verbose=False)
    assert (set(cells.obs), set(cells.obsm), set(cells.uns)) == before
    assert muport.pl.embedding(cells, "X_umap") is not None
