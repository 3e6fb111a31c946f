from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest

import muport
from muport.data._serialization import pack, state_classes, unpack_state
from muport.data._state_checks import check_state

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    points: Annotated[NDArray[np.float32], "P d"]
    weight: Annotated[NDArray[np.float32], "P", "0..1"]
    affine: Annotated[NDArray[np.float64], "d+1 P"]


@dataclass(frozen=True)
class Whole:
    center: Annotated[NDArray[np.float32], "d"]
    names: Annotated[tuple[str, ...], "C"]
    code: Annotated[NDArray[np.int64], "*", "-1..<names"]
    parts: tuple[Part, ...]
    by_name: dict[str, Part | None]
    strength: Annotated[float, "0..1"]
    loss: Annotated[NDArray[np.float64], "*", "any"]
    reach: float = float("inf")

    def check_consistency(self) -> None:
        if not self.parts:
            raise ValueError("there is no part.")


def part(n: int = 4, d: int = 2) -> Part:
    return Part(np.zeros((n, d), np.float32), np.full(n, 0.5, np.float32), np.zeros((d + 1, n)))


WHOLE = Whole(
    np.zeros(2, np.float32), ("a", "b"), np.array([0, 1, -1]), (part(), part(7)), {"x": None, "y": part(3)}, 0.5,
    np.array([1.0, np.nan]),
)  # fmt: skip

WRONG = {
    "center": (np.zeros(3, np.float32), np.zeros((2, 1), np.float32), np.zeros(2), np.full(2, np.nan, np.float32), "x"),
    "names": ((1, "b"), ["a", "b"], ("a",)),
    "code": (np.array([2]), np.array([-2]), np.array([0.0])),
    "parts": ((part(4, 3),), (WHOLE,), (), (dataclasses.replace(part(), weight=np.full(4, 1.5, np.float32)),)),
    "by_name": ({"y": 3}, [part()], {"y": dataclasses.replace(part(), affine=np.zeros((2, 4)))}),
    "strength": (1.5, -0.1, True, "0.5", None, float("nan")),
    "reach": (float("-inf"), float("nan"), "far"),
}


def test_a_state_as_annotated_passes():
    check_state(WHOLE)
    check_state(dataclasses.replace(WHOLE, reach=2.0))


@pytest.mark.promise("A number of a saved model that cannot be is refused by the name of its field")
def test_what_the_annotations_exclude_is_refused_by_name(record_property):
    tries = [(name, value) for name, values in WRONG.items() for value in values]
    for name, value in tries:
        # the length of these is that of other fields, one of which may be named
        named = "state" if name in ("center", "names", "parts") else f"state.{name}"
        with pytest.raises(ValueError, match=re.escape(named)):
            check_state(dataclasses.replace(WHOLE, **{name: value}))
    record_property("tries", len(tries))


def test_a_state_of_another_class_is_refused():
    tensors: dict[str, np.ndarray] = {}
    document = pack(part(), "state", tensors)
    assert unpack_state(document, tensors, Part).points.shape == (4, 2)
    with pytest.raises(ValueError, match="expected one of|expected a Whole"):
        unpack_state(document, tensors, Whole)


def test_every_array_of_a_state_has_a_shape():
    """The tensors of a network have names and shapes that the network checks."""
    networks = {"TrainedNetwork.weights", "FieldFit.state"}
    bare = set()
    for model in (muport.GMM, muport.Integration, muport.Velocity):
        for name, cls in state_classes(model._state_class).items():
            for field in dataclasses.fields(cls):
                if str(field.type).count("NDArray") > str(field.type).count("Annotated[NDArray"):
                    bare.add(f"{name}.{field.name}")
    assert bare == networks


type Kind = Literal["linear", "kernel"]
type Text = str


@dataclass(frozen=True)
class Nested:
    d: Annotated[NDArray[np.float64], "d"]
    k: Annotated[NDArray[np.float64], "K"]


@dataclass(frozen=True)
class Rules:
    sums: Annotated[NDArray[np.float64], "d+K+1"]
    d: Annotated[NDArray[np.float64], "d"]
    k: Annotated[NDArray[np.float64], "K"]
    kind: Kind | None
    text: Text
    anything: Any
    pair: tuple[int, str]
    numbers: Annotated[tuple[float, ...], "d", "0.."]
    code: Annotated[int, "0..<names"]
    names: tuple[str, ...]
    place: Annotated[NDArray[np.int64], "* 1", "0..<size"]
    size: int
    limits: Annotated[dict[str, float], "any"]
    shares: Annotated[dict[str, float], "0..1"]
    flag: bool
    bits: Annotated[NDArray[np.bool_], "*"]
    loose: Annotated[NDArray[Any], "*"]
    nested: Nested | None
    missing: float = float("nan")


def nested(d: int = 2, k: int = 3) -> Nested:
    return Nested(np.zeros(d), np.zeros(k))


RULES = Rules(
    np.zeros(6), np.zeros(2), np.zeros(3), "kernel", "any text", object(), (1, "a"), (0.0, 5), 1, ("x", "y"),
    np.array([[0], [3]]), 4, {"low": float("-inf"), "none": float("nan")}, {"a": 0, "b": 1.0}, True,
    np.array([True]), np.array(["text"]), nested(k=9),
)  # fmt: skip

BROKEN = {
    "sums": (np.zeros(5), r"state.sums has shape \(5,\): d\+K\+1 is 6 in the other fields"),
    "d": (np.zeros((2, 1)), r"state.d has shape \(2, 1\), expected \(d\)"),
    "kind": ("other", r"state.kind='other', expected one of \('linear', 'kernel'\)"),
    "pair": ((1, "a", 2), "state.pair has 3 items, expected 2"),
    "pair of others": (("a", "a"), "state.pair.0='a' is a str, expected int"),
    "pair with a number": ((1, 1), "state.pair.1=1 is a int, expected str"),
    "pair in a list": ([1, "a"], "state.pair is a list, expected a tuple"),
    "numbers": ((0.0,), r"state.numbers has shape \(1,\): d is 2"),
    "numbers below zero": ((0.0, -1.0), "state.numbers holds numbers out of the range 0.."),
    "code": (2, "state.code holds numbers out of the range 0..<names"),
    "code below zero": (-1, "state.code holds numbers out of the range 0..<names"),
    "code that is true": (True, "state.code=True is a bool, expected int"),
    "code that is a float": (1.0, "state.code=1.0 is a float, expected int"),
    "place": (np.array([[4]]), "state.place holds numbers out of the range 0..<size"),
    "place in one row": (np.array([0]), r"state.place has shape \(1,\), expected \(\*, 1\)"),
    "place of floats": (np.array([[0.0]]), "state.place has dtype float64, expected np.int64"),
    "limits": ({"a": "x"}, "state.limits.a='x' is a str, expected float"),
    "limits in a list": ([1.0], "state.limits is a list, expected a dict"),
    "shares": ({"a": 0.5, "b": 1.5}, "state.shares.b holds numbers out of the range 0..1"),
    "shares that are infinite": ({"a": float("inf")}, "state.shares.a holds numbers that are not finite"),
    "flag": (1, "state.flag=1 is a int, expected bool"),
    "bits": (np.zeros(1), "state.bits has dtype float64, expected np.bool_"),
    "loose": ("text", "state.loose is a str, expected an array"),
    "loose that is infinite": (np.array([np.inf]), "state.loose holds numbers that are not finite"),
    "nested": (3, "state.nested is a int, expected Nested"),
    "nested of another length": (nested(d=3), r"state.nested.d has shape \(3,\): d is 2"),
    "missing": (float("inf"), "state.missing holds numbers that are not finite"),
}


def test_rules_that_hold():
    check_state(RULES)
    for change in ({"kind": None}, {"nested": None}, {"missing": 1}, {"size": 5}, {"shares": {}}, {"limits": {}}):
        check_state(dataclasses.replace(RULES, **change))
    with pytest.raises(ValueError, match=r"here.d has shape \(2,\): d is 3"):
        check_state(RULES, "here", {"d": 3})
    lengths = {"d": 2}
    check_state(RULES, "here", lengths)
    assert lengths == {"d": 2}, "what the caller passes is not changed"


@pytest.mark.promise("A number of a saved model that cannot be is refused by the name of its field")
@pytest.mark.parametrize("case", BROKEN)
def test_rules_that_are_broken(case):
    value, message = BROKEN[case]
    with pytest.raises(ValueError, match=rf"^{message}.*\.$"):
        check_state(dataclasses.replace(RULES, **{case.split()[0]: value}))


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError])
def test_parts_that_do_not_fit_are_refused(error):
    @dataclass
    class Odd:
        def check_consistency(self) -> None:
            raise error("the reason")

    with pytest.raises(ValueError, match="the parts of state do not fit each other: .*the reason"):
        check_state(Odd())
