"""The Python blocks of the README and the pages run, and every name of muport in them exists."""

from __future__ import annotations

import importlib.util
import re
import sys
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


def load_check():
    """The module docs/check_pages.py, which `make docs` runs on the built pages."""
    spec = importlib.util.spec_from_file_location("check_pages", ROOT / "docs" / "check_pages.py")
    module = sys.modules["check_pages"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAULTS = {
    '<a href="nowhere.html">x</a>': "dead link: nowhere.html",
    '<a href="#nowhere">x</a>': "no such anchor: #nowhere",
    '<img src="nowhere.png" alt="x">': "dead link: nowhere.png",
    '<img src="data:image/png;base64,">': "picture without a text",
    '<script src="https://cdn.example/x.js"></script>': "file of another site",
    r"<p>\(x^2\)</p>": "equation that is not converted",
    '<div style="width: 1400px">x</div>': "1400 pixels wide",
    f"<p>{'x' * 100}</p>": "long word",
}
SOUND = """<h2 id="there">x</h2><a href="#there">x</a><a href="https://example.org">x</a><math><mi>x</mi></math>
<table><tr><td style="width: 2000px">%s</td></tr></table><img src="data:image/png;base64," alt="x" width="3000">"""


def test_faults_of_pages_are_found(tmp_path):
    check = load_check()
    (tmp_path / "index.html").write_text(SOUND % ("x" * 100))
    assert check.find_faults(tmp_path) == []
    for html, fault in FAULTS.items():
        (tmp_path / "index.html").write_text(html)
        (line,) = check.find_faults(tmp_path)
        assert fault in line


def test_the_gallery_shows_every_plot():
    text = (ROOT / "docs" / "gallery.md").read_text()
    shown = set(re.findall(r"_static/gallery/(\w+)\.png", text))
    assert shown == set(muport.pl.__all__) == {path.stem for path in (ROOT / "docs/_static/gallery").glob("*.png")}
    assert all(f"{{func}}`muport.pl.{name}`" in text for name in shown)
