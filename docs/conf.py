"""Sphinx configuration."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
ROOT = HERE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Sphinx reads only what lies below docs/: the notebooks, kept executed in tutorials/, and the measured figures are
# copied beside the pages.
for source, name in ((ROOT / "tutorials", "tutorials"), (ROOT / "benchmarks" / "results", "benchmarks")):
    if source.is_dir():
        shutil.copytree(source, HERE / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
copyright = f"2026, {author}"
release = version = PROJECT["version"]

# The renderer of equations lies beside this file.
sys.path.insert(0, str(HERE))
extensions = [
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_member_order = "groupwise"
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = True
always_use_bars_union = True
typehints_defaults = "braces"

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
html_math_renderer = "mathml"

# Only the published pages link to other projects: a build must pass on a machine that reaches no other site.
PUBLISHED = os.environ.get("READTHEDOCS") == "True"
intersphinx_mapping = (
    {
        name: (f"https://{host}/", None)
        for name, host in {
            "anndata": "anndata.readthedocs.io/en/stable",
            "matplotlib": "matplotlib.org/stable",
            "mudata": "mudata.readthedocs.io/stable",
            "numpy": "numpy.org/doc/stable",
            "pandas": "pandas.pydata.org/docs",
            "python": "docs.python.org/3",
            "scipy": "docs.scipy.org/doc/scipy",
            "scvi": "docs.scvi-tools.org/en/stable",
            "torch": "docs.pytorch.org/docs/stable",
        }.items()
    }
    if PUBLISHED
    else {}
)
# A name of ours that leads nowhere is an error; other projects' names resolve only where intersphinx is on.
nitpick_ignore_regex = [
    ("py:.*", r"(?!muport\.).*"),
    # Types of fields that users read but do not make: they have no page.
    ("py:class", r"muport\..*\._\w+\.(DayPlan|Outcome|ProjectionRecipe)"),
]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["muport.css"]
# One search button, that of the side bar.
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_context = {"default_mode": "auto"}


def public_name(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Element) -> nodes.Element | None:
    """Lead a type named after its private module, as annotations name it, to the page of its public name."""
    target: Any = re.sub(r"\._\w+(?=\.)", "", node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target.startswith("muport.") or target == node["reftarget"]:
        return None
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, text)


def add_picture(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Show the picture of the gallery at the end of the page of a function of ``muport.pl``."""
    function = name.removeprefix("muport.pl.")
    if (HERE / "_static" / "gallery" / f"{function}.png").is_file():
        lines += ["", f".. image:: /_static/gallery/{function}.png", f"   :alt: Picture of {name}", ""]


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", public_name)
    app.connect("autodoc-process-docstring", add_picture)
