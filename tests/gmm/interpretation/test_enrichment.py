"""Gene sets through decoupler, or a clear word where it is missing."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from muport.gmm.interpretation._enrichment import _make_network, enrichment

FEATURES = [f"g{i}" for i in range(60)]
SETS = {"up": FEATURES[:8], "other": [*FEATURES[30:40], "not measured"], "small": FEATURES[50:52]}

TABLE = pd.DataFrame({"source": "up", "target": FEATURES[:8]})


@pytest.fixture
def scores():
    matrix = np.random.default_rng(0).normal(size=(60, 2))
    matrix[:8, 1] += 3
    return matrix


def test_without_decoupler_the_install_line_is_told(monkeypatch, scores):
    monkeypatch.setitem(sys.modules, "decoupler", None)
    with pytest.raises(ImportError, match=r"pip install 'muport\[enrich\]'"):
        enrichment(scores, FEATURES, SETS)


def test_linear_model_against_scipy(scores):
    pytest.importorskip("decoupler")
    table = enrichment(scores, FEATURES, SETS, ["a", "b"])
    assert table["item"].tolist() == ["a", "a", "b", "b"]
    assert table.query("item == 'b'")["set"].tolist() == ["up", "other"]
    assert table.set_index(["item", "set"]).loc[("b", "other"), "n_features"] == 10
    for item, column in (("a", 0), ("b", 1)):
        for name in ("up", "other"):
            fit = stats.linregress(np.isin(FEATURES, SETS[name]).astype(float), scores[:, column])
            assert table.set_index(["item", "set"]).loc[(item, name), "score"] == pytest.approx(
                fit.slope / fit.stderr, rel=1e-5
            )


def test_a_table_of_sets_and_an_empty_item(scores):
    pytest.importorskip("decoupler")
    net = pd.DataFrame([(name, feature) for name, members in SETS.items() for feature in members])
    net.columns = ["source", "target"]
    scores[:, 0] = 0
    table = enrichment(scores, FEATURES, net, method="zscore", min_features=2)
    assert set(table["item"]) == {"1"}
    assert set(table["set"]) == {"up", "other", "small"}
    assert np.isfinite(table[["score", "padj"]]).all(axis=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": FEATURES[:5]}, r"\(5 features, 2 names\)"),
        ({"features": ["g0", *FEATURES[:59]]}, "'g0' occurs twice"),
        ({"method": "ssgsea"}, "method='ssgsea'"),
        ({"sets": {"x": ["GENE1", "GENE2"]}}, r"sets: none of 1 has min_features=5 .*same names"),
        ({"sets": pd.DataFrame({"a": [1]})}, "'source' and 'target'"),
        ({"scores": np.zeros((60, 2))}, "scores are all 0"),
        ({"method": "__doc__"}, "method='__doc__' is not a method"),
        ({"method": 3}, "method=3 is not a method"),
        ({"min_features": 0}, "min_features=0"),
        ({"sets": FEATURES}, "sets is list: pass a dict"),
        ({"sets": {"up": "g1g2g3"}}, r"sets\['up'\]='g1g2g3' must be a list"),
        ({"sets": TABLE.assign(target=None)}, "8 rows of the table lack a value"),
        ({"sets": TABLE.assign(weight=np.inf)}, "the weight inf is not a finite number"),
        ({"sets": TABLE.assign(weight="a")}, "the weight 'a' is not a finite number"),
    ],
)
def test_bad_input_is_named(monkeypatch, scores, change, words):
    """No method runs, so a stand-in for decoupler does."""
    stand_in = type("decoupler", (), {"mt": type("mt", (), {"ulm": max})})
    monkeypatch.setitem(sys.modules, "decoupler", stand_in)
    with pytest.raises((TypeError, ValueError), match=words):
        enrichment(**({"scores": scores, "features": FEATURES, "sets": SETS} | change))


def test_names_that_are_numbers_are_those_of_the_features():
    table = pd.DataFrame({"source": pd.Categorical(["up"] * 8, categories=["up", "unused"]), "target": range(8)})
    for sets in (table, {"up": range(8)}):
        net, sizes = _make_network(sets, [str(i) for i in range(60)], 5)
        assert net["target"].tolist() == [str(i) for i in range(8)]
        assert sizes.to_dict() == {"up": 8}
