"""Values of new cells are taken from the cells of the fit: data of a model that have changed since are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mudata import MuData

from muport import Integration

QUIET = {"accelerator": "cpu", "progress": False, "max_iter": 2}
CALLS = {
    "impute": lambda model, query: model.impute("atac", mdata=query).to_df(),
    "correct": lambda model, query: model.get_corrected_expression("atac", mdata=query).to_df(),
}


def exchange(atac: Any) -> None:
    atac.obsm["X_own"][[0, 1], 0] = atac.obsm["X_own"][[1, 0], 0]


CHANGES = {
    "coordinates": lambda mdata: mdata["atac"].obsm["X_shared"].__setitem__((3, 1), 9.0),
    "own coordinates": lambda mdata: mdata["rna"].obsm["X_own"].__setitem__((3, 1), 9.0),
    "two cells exchange a coordinate": lambda mdata: exchange(mdata["atac"]),
    "subset": lambda mdata: mdata["rna"]._inplace_subset_obs(mdata["rna"].obs_names[1:]),
    "batches": lambda mdata: mdata["atac"].obs.loc.__setitem__((["a0", "a1"], "batch"), ["b1", "b2"]),
    "covariate": lambda mdata: mdata["atac"].obs.loc.__setitem__(("a0", "depth"), 9.0),
    "pairs": lambda mdata: mdata["atac"].obs.__setattr__("index", [f"a{i}" for i in range(20)]),
}


def fitted(mdata: MuData) -> Integration:
    for seed, part in enumerate(mdata.mod.values()):
        part.obs["depth"] = np.random.default_rng(seed).normal(size=part.n_obs)
    mdata["atac"].obs.loc["shared0", ["batch", "depth"]] = mdata["rna"].obs.loc["shared0", ["batch", "depth"]]
    Integration.setup_mudata(
        mdata, use_rep="X_own", shared_rep="X_shared", batch_key="batch", continuous_covariate_keys=["depth"]
    )
    model = Integration(mdata)
    model.train(**QUIET)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.promise("Results for new cells do not change when the data of the model change")
def test_cells_that_changed_since_the_fit_are_refused(mdata, tmp_path, record_property):
    model, query = fitted(mdata), mdata.copy()
    model.save(tmp_path / "m")
    expected = {name: call(model, query) for name, call in CALLS.items()}
    # neither the order of the cells, nor their labels, nor the format of the numbers matters
    other = MuData({name: part[::-1].copy() for name, part in reversed(mdata.mod.items())})
    other["rna"].obsm["X_own"] = np.asfortranarray(other["rna"].obsm["X_own"])
    other["rna"].obs["cell_type"] = "x"
    loaded = Integration.load(tmp_path / "m", adata=other)
    for name, call in CALLS.items():
        found = call(loaded, query)
        assert np.allclose(found, expected[name].loc[found.index, found.columns], atol=1e-4)
    for change in CHANGES.values():
        data = mdata.copy()
        model = Integration.load(tmp_path / "m", adata=data)
        change(data)
        data.update()
        for call in CALLS.values():
            for cells in (query, None):
                with pytest.raises(ValueError, match=r"not those of the fit.* were subset or are others"):
                    call(model, cells)
    record_property("tries", 4 * len(CHANGES))
