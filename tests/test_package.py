"""The package as it is imported, installed and described."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc

import muport

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Best of three, so that a busy machine does not fail the test; modules are counted in the same fresh process.
PROBE = """
import json, sys, time
start = time.perf_counter()
import muport
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def fresh_import() -> tuple[float, set[str]]:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(run.stdout)
    return seconds, set(modules)


def test_import_is_light():
    runs = [fresh_import() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 2
    heavy = {
        "anndata",
        "faiss",
        "matplotlib",
        "mudata",
        "numpy",
        "pandas",
        "scanpy",
        "scipy",
        "scvi",
        "sklearn",
        "torch",
    }
    assert heavy.isdisjoint(runs[0][1])


def test_public_names_resolve():
    assert muport.__all__ == sorted(muport.__all__)
    for name in muport.__all__:
        assert getattr(muport, name) is not None
    assert set(muport.__all__) <= set(dir(muport))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Integraton'"):
        muport.Integraton  # noqa: B018


def test_version_is_the_one_written():
    assert muport.__version__ == version("muport") == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()


def test_script_is_installed():
    (script,) = entry_points(group="console_scripts", name="muport")
    assert callable(script.load())


def test_each_dependency_is_justified():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/contributing.md").read_text(), flags=re.M)
    assert rows == [re.split(r"[<>=\[]", line)[0] for line in PROJECT["dependencies"]]


def test_public_callables_have_a_page():
    listed = set(re.findall(r"^   ([A-Za-z0-9_.]+)$", (ROOT / "docs/api.md").read_text(), flags=re.M))
    public = {name for name in muport.__all__ if callable(getattr(muport, name))}
    for package in filter(inspect.ismodule, map(muport.__getattr__, muport.__all__)):
        short = package.__name__.removeprefix("muport.")
        items = {name: getattr(package, name) for name in package.__all__}
        # A class of a wing is listed once, by the name that users import it with.
        again = {name for name, item in items.items() if getattr(muport, name, None) is item}
        public |= {f"{short}.{name}" for name, item in items.items() if callable(item) and name not in again}
    assert public == listed


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_locks_are_hashed_and_name_no_index(lock):
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    pins = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    assert pins
    for number in pins:
        assert re.match(r"[a-z0-9._-]+==\S+ ", lines[number])
        assert lines[number + 1].startswith("    --hash=sha256:")
    assert "://" not in "".join(lines)


@pytest.mark.slow
def test_scanpy_neighbors_beyond_8000_cells():
    """Above 8,192 cells scanpy calls pynndescent, whose release 0.7 returns what scanpy 1.12 cannot read."""
    x = np.random.default_rng(0).normal(size=(9_000, 2)).astype(np.float32)
    adata = anndata.AnnData(obs={"cell": np.arange(9_000).astype(str)}, obsm={"X_pca": x})
    # The Gaussian kernel spares the compilation of UMAP's; the graph search is the same.
    sc.pp.neighbors(adata, n_neighbors=5, use_rep="X_pca", method="gauss")
    assert adata.obsp["distances"].shape == (9_000, 9_000)
    near = np.sqrt(((x - x[0]) ** 2).sum(1)).argsort()[1:5]
    assert len(np.intersect1d(adata.obsp["distances"][0].indices, near)) >= 3
