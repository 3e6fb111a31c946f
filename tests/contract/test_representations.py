"""A representation is its numbers: its container, and the names and order of its rows and columns, change no answer."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from muport import GMM, Integration, Velocity

QUIET = {"accelerator": "cpu", "random_state": 0, "progress": False}
BATCH_AND_LABEL = {"batch_key": "batch", "labels_key": "kind"}


@dataclass(frozen=True)
class Case:
    """A model, its set-up and training, and the keys of the representations that it reads; `both` cells are paired."""

    model: type
    setup: dict[str, Any]
    train: dict[str, Any]
    keys: tuple[str, ...] = ("X_own",)
    both: int | None = None
    answers: tuple[str, ...] = ("get_latent_representation", "predict")
    kwargs: dict[str, Any] = field(default_factory=dict)


SEPARATE = {**BATCH_AND_LABEL, "use_rep": "X_own"}
CASES = {
    "Integration": Case(Integration, SEPARATE, {"max_iter": 2}),
    "Integration, scBIOT": Case(Integration, SEPARATE, {"max_iter": 2}, kwargs={"algorithm": "scbiot"}),
    "Integration, shared space": Case(
        Integration, {**SEPARATE, "use_rep": None, "shared_rep": "X_shared"}, {"max_iter": 2}, ("X_shared",), 0
    ),
    "Integration, denoised": Case(
        Integration, {**SEPARATE, "shared_rep": "X_shared"}, {"max_iter": 2}, ("X_own", "X_shared"), 0
    ),
    "Integration, joint space": Case(Integration, SEPARATE, {"max_iter": 2}, both=60),
    "Integration, without features in common": Case(Integration, SEPARATE, {"max_iter": 2}, both=0),
    "GMM": Case(GMM, {"use_rep": "X_own", "sample_key": "sample", "labels_key": "condition"}, {"k_comps": 2}),
    "Velocity": Case(
        Velocity,
        {"use_rep": "X_own", "time_key": "time", "labels_key": "kind"},
        {"n_steps": 20},
        answers=("get_latent_representation", "get_velocity"),
    ),
}


def cells(names: list[str], d: int, seed: int) -> AnnData:
    """Cells of three types with whole coordinates, which any type of number holds."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=len(names)), rng.integers(2, size=len(names))
    obs = pd.DataFrame({"kind": np.array(list("ABC"))[kind], "batch": np.array(["x", "y"])[batch]}, index=names)
    obs["time"] = kind + rng.integers(2, size=len(names))
    obs["sample"] = [f"s{i % 8}" for i in range(len(names))]
    obs["condition"] = [f"state{i % 8 // 4}" for i in range(len(names))]
    x = 12 * np.eye(3, d)[kind] + rng.normal(scale=4, size=(len(names), d)) + 3 * batch[:, None]
    x += 4 * (np.arange(len(names)) % 8 // 4)[:, None]
    shared = 12 * np.eye(3, 4)[kind] + rng.normal(scale=4, size=(len(names), 4))
    obsm = {"X_own": np.round(x).astype(np.float32), "X_shared": np.round(shared).astype(np.float32)}
    return AnnData(np.ones((len(names), 1), np.float32), obs=obs, obsm=obsm)


def draw(case: Case) -> AnnData | MuData:
    """Draw 120 cells, or 80 of each modality, of which some are in both."""
    if case.both is None:
        return cells([f"c{i}" for i in range(120)], 5, 0)
    rna, atac = ([f"c{i}" for i in range(case.both)] + [f"{m}{i}" for i in range(case.both, 80)] for m in "ra")
    data = {"rna": cells(rna, 5, 0), "atac": cells(atac, 4, 1)}
    if case.both:
        of_both = slice(0, case.both)
        data["atac"].obs.iloc[of_both] = data["rna"].obs.iloc[of_both].to_numpy()
        data["atac"].obsm["X_own"][of_both] = np.round(data["rna"].obsm["X_own"][of_both, :4])
    return MuData(data)


def change(data: AnnData | MuData, keys: tuple[str, ...], convert: Any) -> AnnData | MuData:
    changed = data.copy()
    for part in getattr(changed, "mod", {"": changed}).values():
        for key in keys:
            part.obsm[key] = convert(np.array(part.obsm[key]), part.obs_names)
    return changed


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def repeated(x: np.ndarray) -> sparse.csr_matrix:
    """Each entry twice, in halves."""
    once = sparse.csr_matrix(x)
    data, indices = np.repeat(once.data / 2, 2), np.repeat(once.indices, 2)
    return sparse.csr_matrix((data, indices, 2 * once.indptr), shape=x.shape)


def on_disk(x: np.ndarray, folder: Any) -> np.memmap:
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, x)
    return np.load(path, mmap_mode="r")


def in_chunks(x: np.ndarray) -> Any:
    return pytest.importorskip("dask.array").from_array(x, chunks=(50, 2))


CONTAINERS = {
    "read-only": lambda x, names, folder: read_only(x),
    "by columns": lambda x, names, folder: np.asfortranarray(x),
    "with strides": lambda x, names, folder: np.repeat(x, 2, axis=1)[:, ::2],
    "memory map": lambda x, names, folder: on_disk(x, folder),
    "dask": lambda x, names, folder: in_chunks(x),
    "CSR": lambda x, names, folder: sparse.csr_matrix(x),
    "CSC": lambda x, names, folder: sparse.csc_array(x),
    "CSR with repeats": lambda x, names, folder: repeated(x),
    "table": lambda x, names, folder: pd.DataFrame(x, index=names),
    "nullable table": lambda x, names, folder: pd.DataFrame(x, index=names).astype("Float32"),
    "float64": lambda x, names, folder: x.astype(np.float64),
    "float16": lambda x, names, folder: x.astype(np.float16),
    "big-endian": lambda x, names, folder: x.astype(">f4"),
    "int16": lambda x, names, folder: x.astype(np.int16),
}


def fit(case: Case, data: AnnData | MuData) -> Any:
    register = case.model.setup_mudata if isinstance(data, MuData) else case.model.setup_anndata
    register(data, **case.setup)
    model = case.model(data, **case.kwargs)
    model.train(**case.train, **QUIET)
    return model


def answer(case: Case, model: Any, data: AnnData | MuData | None = None) -> list[pd.DataFrame]:
    """The answers of a model, each as a table with names."""
    found = []
    for name in case.answers:
        if (name, case.model) == ("predict", Integration):
            table = model.predict(soft=True, mdata=data)
        else:
            table = getattr(model, name)(*(() if data is None else (data,)))
        if isinstance(table, np.ndarray):
            table = pd.DataFrame(table, index=(model.adata if data is None else data).obs_names)
        found.append(pd.get_dummies(table).astype(float))
    return found


def assert_same(found: list[pd.DataFrame], expected: list[pd.DataFrame], atol: float = 1e-4) -> None:
    for table, right in zip(found, expected, strict=True):
        gap = np.abs(table.loc[right.index, right.columns].to_numpy() - right.to_numpy()).max()
        assert gap <= atol * max(1, np.abs(right.to_numpy()).max())


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    case = CASES[request.param]
    data = draw(case)
    model = fit(case, data)
    return case, data, model, answer(case, model)


@pytest.mark.promise("A representation gives the same answer in any container and with any type of number")
def test_containers(fitted, tmp_path, record_property):
    case, data, model, expected = fitted
    for number, convert in enumerate(CONTAINERS.values()):
        changed = change(data, case.keys, lambda x, names, convert=convert: convert(x, names, tmp_path))
        assert_same(answer(case, model, changed), expected)
        # a fit takes longer than a map: each container is trained on by some of the models
        if number % len(CASES) == list(CASES.values()).index(case) % len(CASES):
            assert_same(answer(case, fit(case, changed)), expected)
    record_property("tries", len(CONTAINERS) + 2)


@pytest.mark.promise("Cells in another order or with other names get the same answer")
def test_order_and_names_of_cells(fitted, record_property):
    case, data, model, expected = fitted
    order = np.random.default_rng(0).permutation(data.n_obs)
    shuffled = data[order].copy()
    assert_same(answer(case, model, shuffled), expected)
    if case.model is not Velocity:  # the axes of its latent space have no sign of their own
        latent, *others = answer(case, fit(case, shuffled))
        assert_same([latent], expected[:1], 1e-3)
        # labels are calibrated on folds of the cells in their order
        assert_same(others, expected[1:], 0.05)
    renamed = MuData({m: a.copy() for m, a in data.mod.items()}) if isinstance(data, MuData) else data.copy()
    for part in getattr(renamed, "mod", {"": renamed}).values():
        part.obs_names = [f"new {name}" for name in part.obs_names]
    if isinstance(renamed, MuData):
        renamed.update()
    for found, right in zip(answer(case, fit(case, renamed)), expected, strict=True):
        names = [f"new {name}" if f"new {name}" in found.index else name for name in right.index]
        assert_same([found.loc[names].set_axis(right.index)], [right])
    record_property("tries", 3)


@pytest.mark.promise("The columns of a table are matched by name")
def test_columns_in_another_order(fitted, record_property):
    case, data, model, expected = fitted

    def named(x, names, step=1):
        return pd.DataFrame(x, index=names, columns=[f"PC{j}" for j in range(x.shape[1])]).iloc[:, ::step]

    tables = change(data, case.keys, named)
    trained = fit(case, tables)
    turned = change(data, case.keys, lambda x, names: named(x, names, -1))
    assert_same(answer(case, trained), expected)
    assert_same(answer(case, trained, turned), expected)
    # a model of an array knows no names: those of a table cannot be matched
    with pytest.raises(ValueError, match=r"X_(own|shared).*columns"):
        model.map_query(turned)
    by_position = change(data, case.keys, lambda x, names: pd.DataFrame(x, index=names).iloc[:, ::-1])
    assert_same(answer(case, model, by_position), expected)
    for spoil in (lambda t: t.iloc[:, 1:], lambda t: t.rename(columns={"PC0": "PC1"}), lambda t: t.assign(more=1.0)):
        with pytest.raises(ValueError, match=r"X_(own|shared).*columns"):
            trained.map_query(change(data, case.keys, lambda x, names, spoil=spoil: spoil(named(x, names))))
    record_property("tries", 6)


def test_shared_tables_with_columns_in_another_order():
    case = CASES["Integration, shared space"]
    data = draw(case)
    tables = change(data, case.keys, lambda x, names: pd.DataFrame(x, index=names, columns=list("abcd")))
    tables["atac"].obsm["X_shared"] = tables["atac"].obsm["X_shared"][list("dbca")]
    assert_same(answer(case, fit(case, tables)), answer(case, fit(case, data)))


EXTREME = {
    "1e25": (lambda x: x * 1e25, "not above"),
    "1e-25": (lambda x: x * 1e-25, "not below"),
    "offset": (lambda x: x + 1e9, "subtract the mean"),
    "NaN": (lambda x: np.where(np.arange(len(x))[:, None] == 7, np.nan, x), "1 NaN|NaN or Inf"),
    "Inf": (lambda x: np.where(np.arange(len(x))[:, None] == 7, np.inf, x), "NaN or Inf"),
    "text": (lambda x: x.astype(str), "real numbers"),
    "complex": (lambda x: x + 0j, "real numbers"),
    "dates": (lambda x: x.astype("datetime64[D]"), "real numbers"),
}


@pytest.mark.promise("Numbers that float32 would lose are refused, with the space and the fix")
@pytest.mark.parametrize("kind", EXTREME)
def test_extreme_numbers_are_refused(kind, record_property):
    convert, message = EXTREME[kind]
    for case in CASES.values():
        data = draw(case)
        columns = list(data.obs.columns)
        wide = change(data, case.keys, lambda x, names: convert(x.astype(np.float64)))
        register = case.model.setup_mudata if isinstance(data, MuData) else case.model.setup_anndata
        with pytest.raises((ValueError, TypeError), match=rf"obsm\['{case.keys[-1]}'\].*({message})"):
            register(wide, **case.setup)
        assert list(wide.obs.columns) == columns
    record_property("tries", len(CASES))


@pytest.mark.promise("Numbers that float32 would lose are refused, with the space and the fix")
def test_an_extreme_query_is_refused_or_moves_no_other_cell(fitted):
    case, data, model, expected = fitted
    with pytest.raises(ValueError, match="not above"):
        model.map_query(change(data, case.keys, lambda x, names: x * np.float32(1e25)))
    query = change(data, case.keys, lambda x, names: x * np.where(np.arange(len(x)) == 7, 1e6, 1)[:, None])
    found = pd.DataFrame(model.get_latent_representation(query), index=query.obs_names)
    assert np.isfinite(found.to_numpy()).all()
    part = next(iter(getattr(query, "mod", {"": query}).values()))
    others = expected[0].drop(index=[name for name in found.index if name in set(part.obs_names[[7]]) | {"a7"}])
    assert_same([found.loc[others.index]], [others])


@pytest.mark.promise("A cell far from all others is named when the data are set up")
@pytest.mark.parametrize("name", CASES)
def test_a_cell_far_from_all_others_is_named_once(name, record_property):
    case = CASES[name]
    data = draw(case)
    far = change(data, case.keys, lambda x, names: x * np.where(np.arange(len(x)) == 7, 1e6, 1)[:, None])
    register = case.model.setup_mudata if isinstance(data, MuData) else case.model.setup_anndata
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        register(far, **case.setup)
        registered = [str(w.message) for w in caught if "from the median" in str(w.message)]
        model = case.model(far, **case.kwargs)
        model.train(**case.train, **QUIET)
        for query in (None, far):
            model.get_latent_representation(query)
        every = [str(w.message) for w in caught if "far" in str(w.message)]
    if case.model is Velocity:  # its fit leaves such cells out
        assert not registered
        assert len(every) == 1
        return
    parts = getattr(far, "mod", {"adata": far})
    assert registered == every
    assert len(registered) == len(parts) * len(case.keys)
    for m, part in parts.items():
        for key in case.keys:
            expected = rf"obsm\['{key}'\] of '{m}': 1 of {part.n_obs} cells .*'{part.obs_names[7]}'.* remove these"
            assert any(re.match(expected, message) for message in registered)
    record_property("tries", len(registered))


@pytest.mark.parametrize("scale", [2.0**30, 2.0**-30])
def test_scale_of_the_numbers(fitted, scale):
    case, data, _, expected = fitted
    if case.model is not Integration:
        pytest.skip("GMM and Velocity have settings in the units of the representation")
    model = fit(case, change(data, case.keys, lambda x, names: x * np.float32(scale)))
    assert_same(answer(case, model)[1:], expected[1:], 1e-3)


DEGENERATE = {
    "a constant column": lambda x: np.where(np.arange(x.shape[1]) == 1, 3, x),
    "all rows equal": lambda x: np.ones_like(x),
    "all zero": np.zeros_like,
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", ["Integration", "Integration, shared space", "GMM"])
def test_degenerate_numbers_give_finite_answers(name, kind):
    case = CASES[name]
    data = change(draw(case), case.keys, lambda x, names: DEGENERATE[kind](x).astype(np.float32))
    model = fit(case, data)
    assert all(np.isfinite(table.to_numpy()).all() for table in answer(case, model))
