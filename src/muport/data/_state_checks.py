"""A loaded state is what its annotations say: types, shapes, finite numbers, ranges."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import typing
from typing import Any, TypeAliasType

import numpy as np

__all__ = ["check_state"]

_PLAIN: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}
_RANGE = re.compile(r"(-?\d+)\.\.(<?)(\w*)")


@dataclasses.dataclass
class _Scope:
    """The object that is checked, the lengths that its letters have, and the objects in it, with their names."""

    owner: Any
    lengths: dict[str, int]
    inner: list[tuple[Any, str]]


def check_state(state: Any, where: str = "state", lengths: dict[str, int] | None = None) -> None:
    """Raise a ValueError unless a state is what the annotations of its class say; names the field.

    A field is annotated with its type, and by ``Annotated`` with rules:

    - ``"P d"``: the shape of an array, or the length of a tuple. The same letter is the same length in the whole
      object; a small letter also in the objects in it. ``*`` is any length; ``d+1`` and ``d+K`` are sums.
    - ``"0..1"``, ``"0.."``: the range of numbers; ``"-1..<labels"``: codes of the items of the field `labels`.
    - ``"any"``: numbers, also those of a dict, may be infinite or NaN.

    A class may also have a method ``check_consistency``, which raises a ValueError.
    """
    scope = _Scope(state, dict(lengths or {}), [])
    unset = {f.name: f.default for f in dataclasses.fields(state) if isinstance(f.default, float)}
    for name, node in _annotations(type(state)):
        value = getattr(state, name)
        # NaN or infinity may be the default of a number that was not measured
        if name not in unset or repr(value) != repr(unset[name]):
            _check(value, node, f"{where}.{name}", scope)
    if hasattr(state, "check_consistency"):
        try:
            state.check_consistency()
        except (ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError) as error:
            raise ValueError(f"the parts of {where} do not fit each other: {error}") from error
    shared = {letter: length for letter, length in scope.lengths.items() if letter.islower()}
    for part, name in scope.inner:
        check_state(part, name, shared)


def _annotations(cls: type) -> list[tuple[str, ast.expr]]:
    """Fields and their annotations; those with sums come last, when the letters have their lengths."""
    texts = [(f.name, f.type) for f in dataclasses.fields(cls) if isinstance(f.type, str)]
    return [(name, ast.parse(text, mode="eval").body) for name, text in sorted(texts, key=lambda item: "+" in item[1])]


def _check(value: Any, node: ast.expr, where: str, scope: _Scope, rules: tuple[str, ...] = ()) -> None:
    if isinstance(node, ast.BinOp):
        _check_union(value, node, where, scope)
    elif isinstance(node, ast.Constant):
        _require(value is None, f"{where} is a {type(value).__name__}, expected None")
    elif isinstance(node, ast.Name):
        _check_name(value, node.id, where, scope, rules)
    elif isinstance(node, ast.Subscript):
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        _check_container(value, ast.unparse(node.value), items, where, scope, rules)


def _check_union(value: Any, node: ast.BinOp, where: str, scope: _Scope) -> None:
    errors = []
    for option in (node.left, node.right):
        trial = _Scope(scope.owner, dict(scope.lengths), list(scope.inner))
        try:
            _check(value, option, where, trial)
        except ValueError as error:
            errors.append(error)
            continue
        scope.lengths, scope.inner = trial.lengths, trial.inner
        return
    raise errors[0]


def _check_name(value: Any, name: str, where: str, scope: _Scope, rules: tuple[str, ...]) -> None:
    named = getattr(sys.modules[type(scope.owner).__module__], name, None)
    if name in _PLAIN:
        fits = isinstance(value, _PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
        _require(fits, f"{where}={value!r} is a {type(value).__name__}, expected {name}")
        if not isinstance(value, str):
            _check_numbers(np.asarray(value), where, scope, rules)
    elif isinstance(named, TypeAliasType):
        options = typing.get_args(named.__value__)
        _require(not options or value in options, f"{where}={value!r}, expected one of {options}")
    elif name != "Any":
        # by its name, as the class of a field may be imported for annotations alone
        _require(type(value).__name__ == name, f"{where} is a {type(value).__name__}, expected {name}")
        scope.inner.append((value, where))


def _check_container(
    value: Any, kind: str, items: list[ast.expr], where: str, scope: _Scope, rules: tuple[str, ...]
) -> None:
    if kind == "Annotated":
        _check(value, items[0], where, scope, tuple(str(ast.literal_eval(rule)) for rule in items[1:]))
    elif kind == "NDArray":
        _check_array(value, ast.unparse(items[0]), where, scope, rules)
    elif kind == "dict":
        _require(isinstance(value, dict), f"{where} is a {type(value).__name__}, expected a dict")
        for key, item in value.items():
            _check(item, items[1], f"{where}.{key}", scope, rules)
    elif kind == "tuple":
        _require(isinstance(value, tuple), f"{where} is a {type(value).__name__}, expected a tuple")
        many = isinstance(items[-1], ast.Constant) and items[-1].value is ...
        _require(many or len(value) == len(items), f"{where} has {len(value)} items, expected {len(items)}")
        for number, item in enumerate(value):
            _check(item, items[0] if many else items[number], f"{where}.{number}", scope)
        _check_rules_of_tuple(value, where, scope, rules)


def _check_rules_of_tuple(value: tuple[Any, ...], where: str, scope: _Scope, rules: tuple[str, ...]) -> None:
    _check_shape((len(value),), where, scope, rules)
    if any(_RANGE.fullmatch(rule) for rule in rules):
        _check_numbers(np.asarray(value, dtype=float), where, scope, rules)


def _check_array(value: Any, dtype: str, where: str, scope: _Scope, rules: tuple[str, ...]) -> None:
    _require(isinstance(value, np.ndarray), f"{where} is a {type(value).__name__}, expected an array")
    expected = getattr(np, dtype.removeprefix("np."), None)
    if expected is not None:
        _require(value.dtype == np.dtype(expected), f"{where} has dtype {value.dtype}, expected {dtype}")
    _check_shape(value.shape, where, scope, rules)
    if value.dtype.kind in "fiu":
        _check_numbers(value, where, scope, rules)


def _check_shape(shape: tuple[int, ...], where: str, scope: _Scope, rules: tuple[str, ...]) -> None:
    for rule in rules:
        if rule == "any" or _RANGE.fullmatch(rule):
            continue
        letters = rule.split()
        _require(len(letters) == len(shape), f"{where} has shape {shape}, expected ({', '.join(letters)})")
        for letter, length in zip(letters, shape, strict=True):
            expected = _length(letter, length, scope.lengths)
            _require(length == expected, f"{where} has shape {shape}: {letter} is {expected} in the other fields")


def _length(letter: str, length: int, lengths: dict[str, int]) -> int:
    """Return the length that a letter stands for; the first array with the letter says it."""
    if letter == "*":
        return length
    if "+" in letter:
        return sum(int(part) if part.isdigit() else lengths[part] for part in letter.split("+"))
    return lengths.setdefault(letter, length)


def _check_numbers(value: Any, where: str, scope: _Scope, rules: tuple[str, ...]) -> None:
    if "any" not in rules:
        _require(bool(np.isfinite(value).all()), f"{where} holds numbers that are not finite")
    for match in filter(None, map(_RANGE.fullmatch, rules)):
        low, strict, high = float(match[1]), bool(match[2]), match[3]
        top = np.inf if not high else float(high) if high.isdigit() else _size(getattr(scope.owner, high))
        inside = (value >= low) & (value < top if strict else value <= top)
        _require(bool(np.all(inside)), f"{where} holds numbers out of the range {match[0]}")


def _size(value: Any) -> float:
    return float(value if isinstance(value, int) else len(value))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"{message}.")
