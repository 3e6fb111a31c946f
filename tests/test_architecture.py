"""The rules of the house, as far as a machine can see them: floors, sizes, annotations, docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from inspect import unwrap
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
FOLDER_LIMIT = 14
PARAMETER_LIMIT = 8
#: Files that may stand in several folders, and what each of them always holds.
SAME_MEANING = {
    "__init__.py": "what a package exports, and its files in the order of reading",
    "_model.py": "the model class of a method",
    "_inference.py": "the methods of a model after training",
    "_hyperparameters.py": "the hyperparameters of a method, and the range of each",
    "_fitted_state.py": "what a fitted model keeps and saves",
}

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
    """The public packages: muport, and those directly below it with no underscore; deeper ones are internal."""
    found = [module.name for module in pkgutil.iter_modules(muport.__path__, "muport.")]
    return [muport, *(import_module(name) for name in found if not name.startswith("muport._"))]


def public_objects() -> dict[str, object]:
    """Public classes and functions by the name a user types, with the public methods that we define.

    A method of a base class of ours is public as much as one of the class itself.
    """
    objects: dict[str, object] = {}
    for package in packages():
        for name in package.__all__:
            item = getattr(package, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                objects[f"{package.__name__}.{name}"] = item
            if inspect.isclass(item):
                ours = [cls for cls in reversed(item.__mro__) if cls.__module__.startswith("muport.")]
                for attribute, member in (pair for cls in ours for pair in vars(cls).items()):
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


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_folders_are_small_and_listed(folder):
    files = {path.stem for path in folder.glob("_*.py")} - {"__init__", "__main__"}
    assert len(files) <= FOLDER_LIMIT
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    if folder != SOURCE:
        assert {name for name in files if f"``{name}``" not in doc} == set()


def test_a_file_name_has_one_meaning():
    names = [path.name for path in FILES]
    assert {name for name in names if names.count(name) > 1} <= set(SAME_MEANING)


def test_private_functions_take_few_parameters():
    public = {id(code) for item in public_objects().values() if (code := getattr(unwrap(item), "__code__", None))}
    many = {}
    for path in FILES:
        module = import_module(".".join(("muport", *path.relative_to(SOURCE).with_suffix("").parts)))
        for owner in [module, *(c for c in vars(module).values() if inspect.isclass(c))]:
            for name, item in list(vars(owner).items()):
                call = unwrap(getattr(item, "__func__", item))
                if inspect.isfunction(call) and call.__module__ == module.__name__ and id(call.__code__) not in public:
                    parameters = [p for p in inspect.signature(call).parameters if p not in ("self", "cls")]
                    generated = dataclasses.is_dataclass(owner) and name in ("__init__", "__replace__")
                    if len(parameters) > PARAMETER_LIMIT and not generated and not public_constructor(owner, name):
                        many[f"{module.__name__}.{name}"] = len(parameters)
    assert many == {}


def public_constructor(owner: object, name: str) -> bool:
    return name == "__init__" and any(owner is item for item in public_objects().values())


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
