"""Growth rates from gene scores: order, range, units, bad inputs."""

import anndata
import numpy as np
import pytest
import scanpy
import torch

from muport import pp


@pytest.fixture(scope="module")
def adata():
    rng = np.random.default_rng(0)
    x = rng.gamma(2, 0.3, (80, 200))
    x[:40, :5] += 2  # the first half divides
    x[60:, 5:10] += 2  # the last quarter dies
    cells = anndata.AnnData(x.astype(np.float32))
    cells.var_names = [f"g{i}" for i in range(200)]
    return cells


def test_dividing_cells_have_the_largest_rates_and_dying_ones_the_smallest(adata):
    divide, die = ([f"g{i}" for i in genes] for genes in (range(5), range(5, 10)))
    rate = pp.score_growth(adata, divide, [*die, "absent"], max_divisions=2, max_deaths=1)
    assert rate[:40].min() > rate[40:60].max()
    assert rate[40:60].mean() > rate[60:].mean()
    assert rate.between(-np.log(2), 2 * np.log(2)).all()
    assert list(rate.index) == list(adata.obs_names)
    assert adata.obs.shape[1] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"proliferation_genes": ["none"]}, KeyError, "proliferation_genes"),
        ({"proliferation_genes": "g1"}, TypeError, "proliferation_genes='g1' must be a list"),
        ({"proliferation_genes": 3}, TypeError, "proliferation_genes=3 must be a list"),
        ({"proliferation_genes": ["g1"], "apoptosis_genes": "g2"}, TypeError, "apoptosis_genes='g2' must be a list"),
        ({"proliferation_genes": ["g1"], "apoptosis_genes": ["none"]}, KeyError, "apoptosis_genes"),
        ({"proliferation_genes": ["g1"], "max_divisions": -1}, ValueError, "max_divisions"),
        ({"proliferation_genes": ["g1"], "layer": "raw"}, KeyError, "raw"),
    ],
)
def test_bad_inputs_are_named(adata, arguments, error, text):
    with pytest.raises(error, match=text):
        pp.score_growth(adata, **arguments)


def test_data_that_hold_no_scores_are_named(adata):
    with pytest.raises(KeyError, match=r"none of \['g1'\] is in var_names, which begin with \[\]"):
        pp.score_growth(adata[:, :0].copy(), ["g1"])
    text = adata.copy()
    text.X = text.X.astype(str).astype(object)
    with pytest.raises(TypeError, match="X holds object, not numbers"):
        pp.score_growth(text, ["g1"])
    few = adata[:, :30].copy()
    with pytest.raises(ValueError, match="proliferation_genes: no other gene of the data is expressed as much as"):
        pp.score_growth(few, ["g1", "g4"])


def test_the_number_of_threads_is_restored(adata, monkeypatch):
    def score(cells, *_, score_name, random_state):
        cells.obs[score_name] = np.arange(cells.n_obs)
        torch.set_num_threads(3)

    before = torch.get_num_threads()
    monkeypatch.setattr(scanpy.tl, "score_genes", score)
    pp.score_growth(adata, ["g1"])
    assert torch.get_num_threads() == before
