"""The Python blocks of the README and the pages run, and every name of muport in them exists."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

import muport

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*/*.md"))]
#: The pages of equations hold single calls, without the data that they need.
WITHOUT_DATA = {"methods"}
GENERATED = {"_build", "generated", "benchmarks", "tutorials"}
PAGES = [page for page in PAGES if page.parent.name not in GENERATED]
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(?:muport|mp)((?:\.[A-Za-z_]+)+)")
METHOD = re.compile(r"`(?:model|field|patients)\.([a-z_]+)\(")
MODELS = (muport.Integration, muport.Velocity, muport.GMM)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def missing_names(text: str) -> set[str]:
    """The names of muport in inline code that do not exist."""
    missing = set()
    for path in NAME.findall(text):
        item = muport
        for part in path[1:].split("."):
            item = getattr(item, part, None)
        if item is None:
            missing.add("muport" + path)
    return missing | {name for name in METHOD.findall(text) if not any(hasattr(model, name) for model in MODELS)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_exist(page):
    assert missing_names(page.read_text()) == set()


def test_a_wrong_name_is_found():
    assert missing_names("`muport.pp.prepair(x)`, {meth}`muport.GMM.predikt`, `model.map(x)`, `muport.pp.umap`") == {
        "muport.pp.prepair",
        "muport.GMM.predikt",
        "map",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name not in WITHOUT_DATA and BLOCK.search(page.read_text())],
    ids=name_of,
)
def test_blocks_run(page, tmp_path, monkeypatch):
    """The blocks of a page run in their order, as a reader would paste them into one session."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    text, namespace = page.read_text(), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))  # a traceback then names the line of the page
        exec(compile("\n" * above + block[1], name_of(page), "exec"), namespace)
    matplotlib.pyplot.close("all")
