"""Files for package lists agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Name in pyproject.toml -> name in conda-forge.
CONDA_NAMES = {"torch": "pytorch"}


def test_conda_recipe_has_the_dependencies():
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    parts = [re.match(r"([a-z0-9-]+)(?:\[.*\])?(.*)", line).groups() for line in PROJECT["dependencies"]]
    expected = [
        f"python {PROJECT['requires-python']}",
        *(f"{CONDA_NAMES.get(name, name)} {bound}" for name, bound in parts),
    ]
    assert recipe["requirements"]["run"] == expected
    assert recipe["context"]["version"] == PROJECT["version"]
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {path}" for name, path in PROJECT["scripts"].items()
    ]


def test_entry_of_the_scverse_list_agrees():
    entry = yaml.safe_load((ROOT / "packaging/scverse/meta.yaml").read_text())
    assert entry["name"] == entry["install"]["pypi"] == PROJECT["name"]
    assert entry["license"] == PROJECT["license"]
    assert entry["version"] == f"v{PROJECT['version']}"
    assert PROJECT["description"] in entry["description"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").glob("**/*.y*ml")), ids=lambda path: path.name)
def test_github_files_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https://)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
