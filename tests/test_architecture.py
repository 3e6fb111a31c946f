"""The rules of the house, as far as a machine can see them: floors, sizes, annotations, docstrings."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from types import ModuleType

import pytest

import muport

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "muport"
FILES = sorted(SOURCE.rglob("*.py"))
FILE_LIMIT = 500
FUNCTION_LIMITS = {"median": 10, "p90": 35, "max": 80}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions() -> list[tuple[str, Function]]:
    """Every function of the package with the place where it stands."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    ]


def length(node: Function) -> int:
    """Lines of a function without those of its docstring."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)


def unannotated(node: Function) -> list[str]:
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    bare = [arg.arg for arg in every if arg.annotation is None and arg.arg not in {"self", "cls"}]
    return bare + ["return"] * (node.returns is None)


def packages() -> list[ModuleType]:
    """The public packages: muport, and those below it with no underscore."""
    found = pkgutil.walk_packages(muport.__path__, "muport.")
    names = [module.name for module in found if not any(part.startswith("_") for part in module.name.split("."))]
    return [muport, *map(import_module, names)]


def public_objects() -> dict[str, object]:
    """Public classes and functions by the name a user types, with the public methods that we define."""
    objects: dict[str, object] = {}
    for package in packages():
        for name in package.__all__:
            item = getattr(package, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                objects[f"{package.__name__}.{name}"] = item
            if inspect.isclass(item):
                for attribute, member in vars(item).items():
                    call = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                    if not attribute.startswith("_") and (inspect.isfunction(call) or isinstance(call, property)):
                        objects[f"{package.__name__}.{name}.{attribute}"] = call
    return objects


def test_arrows_point_down():
    # in a process of its own: import-linter disables the loggers that are there
    code = "import sys; from importlinter.cli import lint_imports as lint; "
    code += "sys.exit(lint(config_filename=sys.argv[1], no_cache=True, no_logo=True))"
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "pyproject.toml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= FILE_LIMIT


def test_surface_is_short():
    assert len((SOURCE / "__init__.py").read_text().splitlines()) < 100


def test_functions_are_short():
    lengths = {place: length(node) for place, node in functions()}
    assert {place: n for place, n in lengths.items() if n > FUNCTION_LIMITS["max"]} == {}
    assert median(lengths.values()) <= FUNCTION_LIMITS["median"]
    assert quantiles(lengths.values(), n=10)[-1] <= FUNCTION_LIMITS["p90"]


def test_everything_is_annotated():
    assert {place: bare for place, node in functions() if (bare := unannotated(node))} == {}


def test_modules_are_private_or_packages():
    public = {path.name for path in FILES if not path.name.startswith("_")}
    assert public <= {"cli.py"}


def test_every_package_says_what_it_exports():
    for package in packages():
        assert package.__all__ == sorted(set(package.__all__)), package.__name__


def test_every_public_callable_is_documented():
    undocumented = [name for name, item in public_objects().items() if not inspect.getdoc(item)]
    assert undocumented == []


def test_docstring_templates_are_filled():
    raw = [name for name, item in public_objects().items() if "%(" in (inspect.getdoc(item) or "")]
    assert raw == []


def test_parameters_carry_no_types():
    """Types stand in annotations; ``name : type`` in a docstring would say them twice."""
    found = []
    for name, item in public_objects().items():
        section = (inspect.getdoc(item) or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
        found += [f"{name}: {line}" for line in section.splitlines() if line[:1].strip() and " : " in line]
    assert found == []
