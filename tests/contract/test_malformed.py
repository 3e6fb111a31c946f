"""Malformed objects and arguments: each is refused in words of ours, within seconds, and the object stays as it was."""

from __future__ import annotations

import hashlib
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import muport

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed"),
]

ERRORS = (ValueError, KeyError, TypeError)
SECONDS = 5.0  # a refusal takes milliseconds; the limit holds on a busy machine


# --- what the methods are given, before it is spoiled ------------------------------------------------------------
def cells(n: int = 24) -> AnnData:
    """Cells with every column that a set-up can name."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n)])
    obs["batch"] = [f"b{i % 2}" for i in range(n)]
    obs["cell_type"] = [f"t{i % 3}" for i in range(n)]
    obs["sample"] = [f"s{i % 4}" for i in range(n)]
    obs["condition"] = [f"k{i % 2}" for i in range(n)]
    obs["time"] = np.linspace(0, 1, n)
    obs["region"] = [f"z{i % 2}" for i in range(n)]
    obs["weight"] = 1.0
    adata = AnnData(rng.poisson(1.0, (n, 3)).astype(np.float32), obs)
    adata.obsm["X_rep"] = rng.normal(size=(n, 4)).astype(np.float32)
    adata.obsm["X_own"] = rng.normal(size=(n, 3)).astype(np.float32)
    return adata


def modalities() -> MuData:
    """Two modalities with six cells in common; a space of all cells and every column in the obs of the object."""
    rna, atac = cells(), cells()
    atac.obs_names = [f"c{i + 18}" for i in range(24)]
    atac.var_names = ["p0", "p1", "p2"]
    for adata in (rna, atac):
        adata.obs = adata.obs[["batch", "cell_type"]]
    atac.obs.loc[[f"c{i}" for i in range(18, 24)], :] = rna.obs.loc[[f"c{i}" for i in range(18, 24)], :]
    mdata = MuData({"rna": rna, "atac": atac})
    mdata.obsm["X_joint"] = np.random.default_rng(1).normal(size=(mdata.n_obs, 4)).astype(np.float32)
    whole = cells(mdata.n_obs).obs
    for column in whole.columns.difference(["batch", "cell_type"]):
        mdata.obs[column] = whole[column].to_numpy()
    return mdata


SETUPS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "Integration of cells": (
        "Integration",
        cells,
        {"use_rep": "X_rep", "batch_key": "batch", "labels_key": "cell_type"},
    ),
    "GMM of cells": (
        "GMM",
        cells,
        {"use_rep": "X_rep", "sample_key": "sample", "labels_key": "condition", "weight_key": "weight"},
    ),
    "Velocity of cells": (
        "Velocity",
        cells,
        {
            "use_rep": "X_rep",
            "time_key": "time",
            "labels_key": "cell_type",
            "spatial_key": "region",
            "batch_key": "batch",
        },
    ),
    "Integration of modalities": (
        "Integration",
        modalities,
        {
            "use_rep": {"rna": "X_own", "atac": "X_own"},
            "shared_rep": "X_rep",
            "batch_key": "batch",
            "labels_key": "cell_type",
        },
    ),
    "GMM of modalities": (
        "GMM",
        modalities,
        {"use_rep": "X_joint", "sample_key": "sample", "labels_key": "condition", "weight_key": "weight"},
    ),
    "Velocity of modalities": (
        "Velocity",
        modalities,
        {"use_rep": "X_joint", "time_key": "time", "labels_key": "cell_type", "spatial_key": "region"},
    ),
}


def setup_method(name: str) -> Callable[..., None]:
    cls = getattr(muport, SETUPS[name][0])
    return cls.setup_anndata if SETUPS[name][1] is cells else cls.setup_mudata


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Import the models before a refusal is timed."""
    for name in SETUPS:
        setup_method(name)


# --- what is compared --------------------------------------------------------------------------------------------
def digest(value: Any) -> str:
    """Return a hash of everything that an object holds."""
    done = hashlib.sha256()
    _feed(done, value)
    return done.hexdigest()


def _feed(done: Any, value: Any) -> None:
    done.update(type(value).__name__.encode())
    if isinstance(value, AnnData | MuData):
        done.update(repr((value.is_view, value.shape)).encode())
        for name in ("obs", "var"):
            _feed(done, pd.DataFrame(getattr(value, name)))
        for name in ("obsm", "varm", "obsp", "uns"):
            for key in sorted(getattr(value, name).keys(), key=str):
                done.update(repr(key).encode())
                _feed(done, getattr(value, name)[key])
        _feed(done, value.mod if isinstance(value, MuData) else value.X)
    elif hasattr(value, "items") and not isinstance(value, pd.DataFrame):
        for key, item in value.items():
            done.update(repr(key).encode())
            _feed(done, item)
    elif isinstance(value, pd.DataFrame):
        done.update(repr(list(value.dtypes.astype(str))).encode() + repr(list(value.columns)).encode())
        done.update(repr(value.index.tolist()).encode() + repr(value.astype(object).to_numpy().tolist()).encode())
    elif sparse.issparse(value):
        _feed(done, [value.data, value.shape])
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "O":
        done.update(repr((value.dtype, value.shape)).encode() + value.tobytes())
    else:
        done.update(repr(value).encode())


def fault(call: Callable[[], Any], data: Any, *, must: bool) -> str:
    """Return what is wrong with the answer to a malformed input; nothing if it was refused as promised.

    - `must`: Whether the input has to be refused; another may be accepted.
    """
    before, start = digest(data), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except ERRORS as error:
        return _fault_of(error) or _fault_after(data, before, start)
    except BaseException as error:  # noqa: BLE001 - every other error is a fault to report
        return f"{type(error).__name__}: {error}"
    return "accepted" if must else ""


class Tries:
    """What is wrong with the answers to malformed inputs, by the input."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def add(self, case: str, call: Callable[[], Any], data: Any, *, must: bool = True) -> None:
        self.faults[case] = fault(call, data, must=must)

    def judge(self, record_property: Callable[[str, object], None]) -> None:
        record_property("tries", len(self.faults))
        assert {case: text for case, text in self.faults.items() if text} == {}


def _fault_after(data: Any, before: str, start: float) -> str:
    if (seconds := time.process_time() - start) > SECONDS:
        return f"took {seconds:.1f} s"
    return "" if digest(data) == before else "the object was changed"


def _fault_of(error: Exception) -> str:
    """Return what is wrong with an error: it must be raised on purpose, by a line of ours, with a sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error.args[0] if error.args else "")
    if "muport" not in last.filename.replace("\\", "/").split("/src/")[-1] or "raise" not in (last.line or ""):
        return f"not ours: {type(error).__name__}: {text[:120]} ({last.filename.split('/')[-1]}:{last.lineno})"
    return "" if len(text.split()) >= 4 else f"says too little: {text}"


# --- breakages of a representation -------------------------------------------------------------------------------
def put(data: Any, make: Callable[[np.ndarray], Any], key: str | None = None) -> None:
    """Replace a representation, past the checks of anndata where they refuse."""
    part, name = _where(data)
    key = key or name
    value = make(np.array(part.obsm[key]))
    try:
        part.obsm[key] = value
    except (ValueError, TypeError, AttributeError, IndexError):
        part.obsm._data[key] = value


def _where(data: Any) -> tuple[Any, str]:
    """Return the part of an object, and the obsm key there, that the set-ups of this file read."""
    if isinstance(data, AnnData):
        return data, "X_rep"
    return data, "X_joint"


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        x[3, 1] = value
        return x

    return make


#: name: (representation made of the right one, whether it must be refused)
REPRESENTATIONS: dict[str, tuple[Callable[[np.ndarray], Any], bool]] = {
    "NaN": (one(np.nan), True),
    "infinite": (one(np.inf), True),
    "minus infinite": (one(-np.inf), True),
    "beyond float32": (one(1e300), True),
    "all NaN": (lambda x: np.full_like(x, np.nan), True),
    "complex": (lambda x: x.astype(complex), True),
    "text": (lambda x: x.astype(str), True),
    "objects": (lambda x: x.astype(object), True),
    "objects with None": (lambda x: np.where(x > 1, None, x.astype(object)), True),
    "nested lists": (lambda x: np.array([[[1, 2]] * 4] * len(x), dtype=object)[:, :, :1], True),
    "dates": (lambda x: np.zeros(x.shape, "M8[s]"), True),
    "bytes": (lambda x: np.full(x.shape, b"1"), True),
    "records": (lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "f4")]), True),
    "one axis": (lambda x: x[:, 0], False),
    "three axes": (lambda x: x[:, :, None], True),
    "no columns": (lambda x: x[:, :0], True),
    "too short": (lambda x: x[:-2], True),
    "too long": (lambda x: np.vstack([x, x[:2]]), True),
    "no rows": (lambda x: x[:0], True),
    "one number": (lambda x: np.float32(1), True),
    "None": (lambda x: None, True),
    "a string": (lambda x: "X_rep", True),
    "a list": (lambda x: x.tolist(), True),
    "a dict": (lambda x: {"x": x}, True),
    "a series": (lambda x: pd.Series(x[:, 0]), True),
    "sparse with NaN": (lambda x: sparse.csr_matrix(one(np.nan)(x)), True),
    "sparse, too short": (lambda x: sparse.csr_matrix(x[:-2]), True),
    "table of text": (lambda x: pd.DataFrame(x.astype(str), index=[f"c{i}" for i in range(len(x))]), True),
    "table with NaN": (lambda x: pd.DataFrame(one(np.nan)(x), index=[f"c{i}" for i in range(len(x))]), True),
    "table of other cells": (lambda x: pd.DataFrame(x, index=[f"q{i}" for i in range(len(x))]), True),
    "table, nullable with NA": (
        lambda x: pd.DataFrame(one(np.nan)(x), index=[f"c{i}" for i in range(len(x))]).astype("Float64"),
        True,
    ),
    "masked": (lambda x: np.ma.masked_greater(x, 1), False),
    "whole numbers beyond 2**53": (lambda x: np.full(x.shape, 2**62) + np.arange(x.shape[1]), False),
    "constant": (np.zeros_like, False),
    "one column": (lambda x: x[:, :1], False),
    "true and false": (lambda x: x > 0, False),
    "float16": (lambda x: x.astype(np.float16), False),
    "sparse by columns": (sparse.csc_matrix, False),
    "table": (lambda x: pd.DataFrame(x, index=[f"c{i}" for i in range(len(x))]), False),
    "read-only": (lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape), False),
}


@pytest.mark.parametrize("name", SETUPS)
def test_representations(name, record_property):
    _, make, arguments = SETUPS[name]
    tries = Tries()
    for case, (spoil, must) in REPRESENTATIONS.items():
        data = make()
        if name == "Integration of modalities":
            for key in ("X_rep", "X_own"):
                data = make()
                put(data["atac"], spoil, key)
                tries.add(f"{case} in {key}", lambda data=data: setup_method(name)(data, **arguments), data, must=must)
        else:
            put(data, spoil)
            tries.add(case, lambda data=data: setup_method(name)(data, **arguments), data, must=must)
    tries.judge(record_property)


# --- breakages of a column ---------------------------------------------------------------------------------------
def some(value: Any, every: int = 5) -> Callable[[pd.Series], Any]:
    def make(column: pd.Series) -> Any:
        values = column.astype(object).to_numpy().copy()
        for i in range(0, len(values), every):
            values[i] = value
        return values

    return make


def all_of(value: Any) -> Callable[[pd.Series], Any]:
    return some(value, 1)


MISSING = {"batch_key", "sample_key", "time_key", "spatial_key", "weight_key"}  # no cell may lack these
NUMBERS = {"time_key", "weight_key"}
EVERY = MISSING | {"labels_key"}
#: name: (values made of the right ones, arguments that name a column which must be refused)
COLUMNS: dict[str, tuple[Callable[[pd.Series], Any], set[str]]] = {
    "NaN": (some(np.nan), MISSING),
    "None": (some(None), MISSING),
    "NA": (some(pd.NA), MISSING),
    "NaT": (some(pd.NaT), MISSING),
    "all NaN": (all_of(np.nan), MISSING),
    "all None": (all_of(None), MISSING),
    "categories, some missing": (lambda c: pd.Categorical(some(np.nan)(c)), MISSING),
    "nullable, some missing": (lambda c: pd.array([1, None] * (len(c) // 2), dtype="Int64"), MISSING),
    "lists": (some([1, 2]), EVERY),
    "dicts": (some({"a": 1}), EVERY),
    "arrays": (some(np.arange(3)), EVERY),
    "sets": (some({1}), EVERY),
    "tuples": (some((1, 2)), NUMBERS),
    "infinite": (some(np.inf), NUMBERS),
    "text": (some("early"), NUMBERS),
    "empty text": (some(""), NUMBERS),
    "bytes": (some(b"\xff"), EVERY),
    "true and false": (lambda c: np.arange(len(c)) % 2 == 0, NUMBERS),
    "dates": (lambda c: pd.date_range("2020-01-01", periods=len(c)), NUMBERS),
    "durations": (lambda c: pd.to_timedelta(np.arange(len(c)), unit="D"), NUMBERS),
    "periods": (lambda c: pd.period_range("2020-01", periods=len(c), freq="M"), NUMBERS),
    "intervals": (lambda c: pd.cut(np.arange(len(c)), 3), NUMBERS),
    "complex": (lambda c: np.arange(len(c)) * 1j, NUMBERS),
    "negative": (lambda c: -1.0 - np.arange(len(c)), {"weight_key"}),
    "zero": (lambda c: np.zeros(len(c)), {"weight_key"}),
    "huge whole numbers": (some(10**400), NUMBERS),
    "huge numbers": (some(1e308), set()),
    "objects": (some(object()), NUMBERS),
    "functions": (all_of(len), NUMBERS),
    "not ASCII": (some("Zelltyp β, 細胞"), NUMBERS),
    "a null byte": (some("a\x00b"), NUMBERS),
    "a lone surrogate": (some("\ud800"), NUMBERS),
    "a long text": (some("x" * 100_000), NUMBERS),
    "mixed types": (some(3), set()),
    "unused categories": (lambda c: pd.Categorical(c, [*pd.unique(c), 9.5 if c.dtype.kind == "f" else "z"]), set()),
    "each its own": (lambda c: np.arange(len(c)).astype(str), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", SETUPS)
def test_columns(name, record_property):
    _, make, arguments = SETUPS[name]
    tries = Tries()
    for argument, column in arguments.items():
        if not argument.endswith("_key"):
            continue
        for case, (spoil, refused) in COLUMNS.items():
            data = make()
            part = next((a for a in getattr(data, "mod", {}).values() if column in a.obs), data)
            values = spoil(part.obs[column])
            # a series of objects, since pandas takes an array of lists apart
            part.obs[column] = pd.Series(values, part.obs_names, dtype=object if is_objects(values) else None)
            tries.add(f"{argument}: {case}", lambda data=data: setup_method(name)(data, **arguments), data,
                      must=argument in refused)  # fmt: skip
        data = make()
        for part in (data, *getattr(data, "mod", {}).values()):
            if column in part.obs:
                del part.obs[column]
        tries.add(f"{argument}: gone", lambda data=data: setup_method(name)(data, **arguments), data, must=True)
    tries.judge(record_property)


def is_objects(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == object


# --- objects -----------------------------------------------------------------------------------------------------
def changed(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def make(data: Any) -> Any:
        change(data)
        return data

    return make


def rename(part: AnnData, names: list[Any]) -> None:
    part.obs_names = names


def obs_of(data: Any, frame: pd.DataFrame) -> None:
    """Replace the obs past the checks of the setter."""
    data._obs = frame


#: name: (object made of the right one, whether it must be refused)
ANNDATA: dict[str, tuple[Callable[[AnnData], Any], bool]] = {
    "None": (lambda a: None, True),
    "a path": (lambda a: "cells.h5ad", True),
    "a table": (lambda a: a.obs, True),
    "an array": (lambda a: a.X, True),
    "a list": (lambda a: [a, a], True),
    "a dict": (lambda a: {"rna": a}, True),
    "the class": (lambda a: AnnData, True),
    "a number": (lambda a: 3, True),
    "no cells": (lambda a: a[:0].copy(), True),
    "an empty object": (lambda a: AnnData(), True),
    "a view": (lambda a: a[:10], True),
    "a view of features": (lambda a: a[:, :2], True),
    "repeated names": (changed(lambda a: rename(a, ["c0", *a.obs_names[:-1]])), True),
    "one name": (changed(lambda a: rename(a, ["c"] * a.n_obs)), True),
    "repeated columns": (changed(lambda a: obs_of(a, pd.concat([a.obs, a.obs], axis=1))), True),
    "obs too short": (changed(lambda a: obs_of(a, a.obs.iloc[:-3])), True),
    "obs of other cells": (changed(lambda a: obs_of(a, a.obs.iloc[::-1])), False),
    "no obs": (changed(lambda a: obs_of(a, a.obs[[]])), True),
    "columns with numbers for names": (
        changed(lambda a: obs_of(a, a.obs.set_axis(range(a.obs.shape[1]), axis=1))), True,
    ),
    "names of several levels": (
        changed(lambda a: obs_of(a, a.obs.set_index(pd.MultiIndex.from_arrays([a.obs_names, a.obs_names])))), False,
    ),
    "names that are numbers": (changed(lambda a: obs_of(a, a.obs.reset_index(drop=True))), False),
    "names with a missing one": (changed(lambda a: obs_of(a, a.obs.set_axis([None, *a.obs_names[1:]], axis=0))), False),
    "no features": (lambda a: a[:, :0].copy(), False),
    "one cell": (lambda a: a[:1].copy(), False),
    "two cells": (lambda a: a[:2].copy(), False),
    "no matrix": (changed(lambda a: setattr(a, "X", None)), False),
    "names not ASCII": (changed(lambda a: rename(a, [f"細胞 {i} é\n" for i in range(a.n_obs)])), False),
    "an empty name": (changed(lambda a: rename(a, ["", *a.obs_names[1:]])), False),
    "repeated features": (changed(lambda a: setattr(a, "var_names", ["g"] * a.n_vars)), False),
    "NaN in the matrix": (changed(lambda a: a.X.__setitem__((0, 0), np.nan)), False),
}  # fmt: skip
MUDATA: dict[str, tuple[Callable[[MuData], Any], bool]] = {
    "None": (lambda m: None, True),
    "a path": (lambda m: "cells.h5mu", True),
    "a table": (lambda m: m.obs, True),
    "a dict": (lambda m: dict(m.mod), True),
    "a list": (lambda m: list(m.mod.values()), True),
    "one modality": (lambda m: m["rna"], True),
    "the class": (lambda m: MuData, True),
    "no modalities": (lambda m: MuData({}), True),
    "no cells": (lambda m: m[:0].copy(), True),
    "a view": (lambda m: m[:10], True),
    "a view of a modality inside": (changed(lambda m: m.mod.__setitem__("rna", m["rna"][:10])), False),
    "rows are features": (lambda m: MuData(dict(m.mod), axis=1), True),
    "nothing shared": (lambda m: MuData(dict(m.mod), axis=-1), False),
    "MuData in MuData": (lambda m: MuData({"rna": m.copy(), "atac": m["atac"]}), True),
    "repeated names": (changed(lambda m: rename(m["rna"], ["c0", *m["rna"].obs_names[:-1]])), True),
    "cells renamed without update": (changed(lambda m: rename(m["atac"], [f"new{i}" for i in range(24)])), False),
    "modality replaced without update": (changed(lambda m: m.mod.__setitem__("rna", m["atac"][:5].copy())), False),
    "modality gone": (changed(lambda m: m.mod.pop("atac")), False),
    "modality of another type": (changed(lambda m: m.mod.__setitem__("rna", m["rna"].obs)), True),
    "modality None": (changed(lambda m: m.mod.__setitem__("rna", None)), True),
    "modality without cells": (
        lambda m: MuData({"rna": m["rna"].copy(), "atac": m["atac"][:0].copy()}), False,
    ),
    "no features": (lambda m: MuData({n: a[:, :0].copy() for n, a in m.mod.items()}), False),
    "no obsm": (changed(lambda m: [p.obsm.clear() for p in (m["rna"], m["atac"])] + [m.obsm.pop("X_joint")]), True),
    "obs too short": (changed(lambda m: obs_of(m, m.obs.iloc[:-3])), True),
    "obs repeats cells": (changed(lambda m: obs_of(m, m.obs.iloc[[0, *range(len(m.obs) - 1)]])), True),
    "stale obsmap": (changed(lambda m: m.obsmap.update(rna=np.zeros(m.n_obs, int))), False),
    "no obsmap": (changed(lambda m: m.obsmap.clear()), False),
    "names of modalities not ASCII": (lambda m: MuData({"RNA β": m["rna"], "atac": m["atac"]}), False),
    "one cell each": (lambda m: m[[0]].copy(), False),
}  # fmt: skip


@pytest.mark.parametrize("name", SETUPS)
def test_objects(name, record_property):
    _, make, arguments = SETUPS[name]
    tries = Tries()
    for case, (spoil, must) in (ANNDATA if make is cells else MUDATA).items():
        try:
            data = spoil(make())
        except ERRORS:  # anndata and mudata refuse it themselves
            continue
        tries.add(case, lambda data=data: setup_method(name)(data, **arguments), data, must=must)
    tries.judge(record_property)


# --- arguments ---------------------------------------------------------------------------------------------------
VALUES: list[Any] = [
    3, -1, 3.5, float("nan"), True, b"X_rep", [], ["X_rep"], ("X_rep",), {}, {"rna": 3}, {3: "X_rep"}, {"rna": None},
    {"rna": ["X_rep"]}, {"no": "X_rep"}, {"rna": "no"}, object(), "", "no", "Ключ", "rna:", ":batch", "no:batch",
    "a\x00b", "x" * 10_000, np.array(["X_rep"]),
    np.float32(1), pd.Series(["X_rep"]), len, set(), range(3), 10**400, 1j, slice(3),
]  # fmt: skip
#: argument -> values of this list that it may accept
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "paired": (True,),
    "use_rep": ({"no": "X_rep"},),  # names the modality of an AnnData
    "unlabeled_category": tuple(v for v in VALUES if type(v) is str),
}


@pytest.mark.parametrize("name", SETUPS)
def test_arguments(name, record_property):
    _, make, arguments = SETUPS[name]
    tries, data = Tries(), make()
    extra = {"Integration": ["unlabeled_category"]}.get(SETUPS[name][0], [])
    extra += ["paired"] if name == "Integration of modalities" else []
    for argument in [*arguments, *extra]:
        for i, value in enumerate(VALUES):
            given = {**arguments, argument: value}
            call = lambda given=given: setup_method(name)(data, **given)  # noqa: E731
            may = any(type(value) is type(v) and value == v for v in ACCEPTED.get(argument, ()))
            tries.add(f"{argument} = {i}: {value!r:.40}", call, make() if may else data, must=not may)
    for unknown in ({"no": 1}, {"Use_rep": "X_rep"}, {"": 1}):
        tries.add(str(unknown), lambda unknown=unknown: setup_method(name)(data, **arguments, **unknown), data)
    tries.judge(record_property)
