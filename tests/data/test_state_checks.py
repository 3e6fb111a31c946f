from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

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
