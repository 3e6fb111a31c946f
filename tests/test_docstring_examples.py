"""The examples of the docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import matplotlib
import matplotlib.pyplot as plt
import pytest
import scvi

import muport


def find_examples():
    modules = [module.name for module in pkgutil.walk_packages(muport.__path__, "muport.")]
    found = [doctest.DocTestFinder().find(import_module(name)) for name in modules if not name.endswith("__main__")]
    return {example.name: example for examples in found for example in examples if example.examples}


EXAMPLES = find_examples()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name, tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scvi.settings, "verbosity", 30)
    report = []
    outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(EXAMPLES[name], out=report.append)
    plt.close("all")
    assert not outcome.failed, "".join(report)
