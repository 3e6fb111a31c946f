from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport.data import pack, unpack
from muport.data._serialization import state_classes


@dataclass(frozen=True)
class Inner:
    mean: np.ndarray
    name: str = "default"


@dataclass(frozen=True)
class Outer:
    inner: Inner | None
    many: dict[str, Inner]
    batches: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Strict:
    size: int
    names: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is below 0.")


CLASSES = {"Outer": Outer, "Inner": Inner, "Strict": Strict}


def there_and_back(value, classes=CLASSES):
    tensors: dict[str, np.ndarray] = {}
    document = pack(value, "state", tensors)
    return unpack(json.loads(json.dumps(document, allow_nan=False)), tensors, classes)


def same(one, two) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    if dataclasses.is_dataclass(one):
        return type(one) is type(two) and all(
            same(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one)
        )
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, tuple | list):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (one == two or (one != one and two != two))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_values_survive(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3)])
def test_arrays_survive(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    assert same(there_and_back(np.asarray(array)), np.asarray(array))
    assert same(there_and_back({"t": np.asarray(array).T})["t"], np.asarray(array).T)


def test_states_survive():
    state = Outer(
        Inner(np.arange(3.0)), {"a": Inner(np.eye(2), "x"), "$": Inner(np.ones(1))}, ("b0", "b1"), (0.1, float("inf"))
    )
    assert same(there_and_back(state), state)
    assert same(there_and_back(dataclasses.replace(state, inner=None)), dataclasses.replace(state, inner=None))


def test_names_with_dots_do_not_collide():
    value = {"a.b": np.zeros(2), "a": {"b": np.ones(2), "b.c": np.zeros(1)}, "a.b.c": np.ones(1)}
    assert same(there_and_back(value), value)


def test_frames_and_names_survive():
    frame = pd.DataFrame({"loss": [0.5, 0.25]}, index=pd.RangeIndex(2, name="epoch"))
    again = there_and_back({"history": frame, "names": np.array(["a", "b"], dtype=object), "n": np.int64(3)})
    pd.testing.assert_frame_equal(again["history"], frame, check_index_type=False)
    assert again["names"].tolist() == ["a", "b"]
    assert again["n"] == 3


@pytest.mark.parametrize("value", [{1: 2}, object(), {3}, lambda: 0, np.array([object()]), np.array([1j])])
def test_what_cannot_be_saved_is_named(value):
    with pytest.raises(TypeError, match=r"state\.deep\.part"):
        pack({"deep": {"part": value}}, "state", {})


def test_nested_states_are_found_by_their_annotations():
    assert state_classes(Outer) == {"Outer": Outer, "Inner": Inner}
    made = dataclasses.make_dataclass("Made", [("parts", list[Inner]), ("other", Strict | None), ("n", int)])
    made.__module__ = __name__
    assert state_classes(made) == {"Made": made, "Inner": Inner, "Strict": Strict}
    quoted = dataclasses.make_dataclass("Quoted", [("parts", list["Inner"])])
    quoted.__module__ = __name__
    assert state_classes(quoted) == {"Quoted": quoted, "Inner": Inner}
    again = dataclasses.make_dataclass("Inner", [("part", Inner)])
    again.__module__ = __name__
    with pytest.raises(TypeError, match="two state classes are called 'Inner'"):
        state_classes(again)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"$": "tensor", "v": "gone"}, "gone"),
        ({"$": "call", "v": "os.system"}, "call"),
        ({"$": "state", "class": "Popen", "v": {}}, "Popen"),
        ({"$": "state", "class": "Inner", "v": {"name": "x"}}, r"lacks.*mean"),
        ({"$": "state", "class": "Inner", "v": {"mean": 1, "extra": 2}}, "extra"),
        ({"$": "float", "v": "1; import os"}, "float"),
        ({"$": "frame", "v": {"columns": {}}}, "frame"),
        ({"$": "frame", "v": {"name": None, "index": [1], "columns": {"a": [1, 2]}}}, "a table that cannot be read"),
        ({"$": "frame", "v": {"name": None, "index": [1], "columns": {}, "more": 1}}, "frame"),
        ({"$": "tensor", "v": 3}, "lacks the tensor 3"),
        ({"$": "tensor", "v": ["a"]}, "lacks the tensor"),
        ({"$": "float", "v": 1.0}, "float"),
        ({"$": "names", "v": "abc"}, "names"),
        ({"$": "tuple", "v": "abc"}, "tuple"),
        ({"$": "tuple"}, "tuple"),
        ({"$": "dict", "v": [1]}, "dict"),
        ({"$": "state", "v": {}}, "holds a 'None'"),
        ({"$": "state", "class": "Strict", "v": {"size": "x"}}, "the saved Strict holds values of another kind"),
        ({"$": ["dict"], "v": {}}, "dict"),
    ],
)
def test_files_cannot_name_anything_else(document, message):
    with pytest.raises(ValueError, match=message):
        unpack(document, {}, CLASSES)


def test_a_field_with_a_default_may_be_absent():
    assert unpack({"$": "state", "class": "Inner", "v": {"mean": 1}}, {}, CLASSES).name == "default"
    assert unpack({"$": "state", "class": "Strict", "v": {"size": 1}}, {}, CLASSES).names == []
    with pytest.raises(ValueError, match=r"the saved Strict lacks the fields \['size'\]"):
        unpack({"$": "state", "class": "Strict", "v": {"names": []}}, {}, CLASSES)


def test_the_format_does_not_change():
    """Models of this version must load in later ones, whose reader is another."""
    tensors: dict[str, np.ndarray] = {}
    value = {
        "numbers": (1, 2.5, float("-inf"), float("nan"), np.float32(0.5), np.bool_(True), None),
        "list": [np.zeros(2), ["x"]],
        "inner": Inner(np.ones(1)),
        "$": {"names": np.array(["a"])},
        "text": np.array(["b"], dtype=np.dtypes.StringDType()),
    }
    assert pack(value, "state", tensors) == {
        "$": "dict",
        "v": {
            "numbers": {
                "$": "tuple",
                "v": [1, 2.5, {"$": "float", "v": "-inf"}, {"$": "float", "v": "nan"}, 0.5, True, None],
            },
            "list": [{"$": "tensor", "v": "state.list.0"}, ["x"]],
            "inner": {
                "$": "state",
                "class": "Inner",
                "v": {"mean": {"$": "tensor", "v": "state.inner.mean"}, "name": "default"},
            },
            "$": {"names": {"$": "names", "v": ["a"]}},
            "text": {"$": "names", "v": ["b"]},
        },
    }  # fmt: skip
    assert list(tensors) == ["state.list.0", "state.inner.mean"]
    frame = pd.DataFrame({1: [0.5]}, index=pd.Index(["r"], name="epoch", dtype=object))
    assert pack(frame, "f", tensors) == {
        "$": "frame",
        "v": {
            "name": "epoch",
            "index": {"$": "names", "v": ["r"]},
            "columns": {"1": {"$": "tensor", "v": "f.columns.1"}},
        },
    }


def test_arrays_are_stored_by_rows_under_a_path_of_their_own():
    tensors = {"a": np.zeros(1), "a'": np.zeros(1)}
    array = np.arange(6.0).reshape(2, 3).T
    assert pack(array, "a", tensors) == {"$": "tensor", "v": "a''"}
    assert tensors["a''"].flags.c_contiguous
    assert np.array_equal(tensors["a''"], array)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Inner, "a is a type, which"),
        (np.array([["x"]]), "a is an array of objects"),
        (np.array(["x", 1], dtype=object), "a is an array of objects"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), r"a has dtype datetime64\[D\]"),
        ({"x": 1, 2: 3}, "a is a dict whose keys are not all strings"),
    ],
)
def test_what_cannot_be_saved_is_described(value, message):
    with pytest.raises(TypeError, match=message):
        pack(value, "a", {})


def test_a_document_that_is_nested_too_deeply_is_refused():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        unpack(value, {})


def test_unpacked_names_and_tuples():
    names = unpack({"$": "names", "v": ["a", 1]}, {})
    assert names.dtype == object
    assert names.tolist() == ["a", "1"]
    assert unpack({"$": "tuple", "v": [{"$": "float", "v": "inf"}]}, {}) == (float("inf"),)
    assert unpack([{"a": {"$": "tensor", "v": "t"}}], {"t": 3}) == [{"a": 3}]
