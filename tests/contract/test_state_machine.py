"""Any order of calls, of other objects, of new names and of files: the answers of a model stay its own.

A run of the default profile takes a few seconds; ``pytest --hypothesis-profile=fuzz`` tries many more orders.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import muport

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.promise("In any order of calls, a model gives finite answers by cell name and leaves its data alone"),
]

REFUSALS = (ValueError, KeyError, TypeError)
N = 36
NAMES = [f"c{i}" for i in range(N)]
QUIET = {"progress": False, "accelerator": "cpu"}
#: model -> arguments of the set-up, of the model, and of train: a few steps on few cells.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Integration": (
        {"batch_key": "batch", "labels_key": "cell_type"}, {}, {"max_iter": 2},
    ),
    "GMM": ({"sample_key": "sample", "labels_key": "condition"}, {}, {"k_comps": 2, "n_comps": 2}),
    "Velocity": (
        {"time_key": "time", "labels_key": "cell_type"}, {"hidden_dim": 8, "n_latent": 3},
        {"n_steps": 5, "n_bootstrap": 2, "window_size": 9},
    ),
}  # fmt: skip


def tiny() -> AnnData:
    rng = np.random.default_rng(0)
    kind, batch = np.arange(N) % 3, np.arange(N) % 2
    obs = pd.DataFrame({"batch": batch.astype(str), "cell_type": kind.astype(str)}, index=NAMES)
    obs["sample"] = [f"s{i // 6}" for i in range(N)]
    obs["condition"] = [f"k{i // 6 % 2}" for i in range(N)]
    obs["time"] = np.linspace(0, 1, N)
    x = 3 * np.eye(3, 4)[kind] + batch[:, None] + 0.3 * rng.normal(size=(N, 4))
    x[:, 3] = 4 * obs["time"]
    return AnnData(np.ones((N, 2), np.float32), obs, obsm={"X_pca": x.astype(np.float32)})


def contents(adata: AnnData) -> dict[str, Any]:
    """Return what is the user's: everything but what scvi-tools' set-up writes."""
    columns = [c for c in adata.obs.columns if not c.startswith("_scvi_")]
    return {
        "obs": adata.obs[columns].to_dict("list"), "names": list(adata.obs_names), "obsm": sorted(adata.obsm),
        "x": np.array(adata.obsm["X_pca"]).tobytes(), "uns": sorted(k for k in adata.uns if not k.startswith("_scvi_")),
    }  # fmt: skip


class Machine(RuleBasedStateMachine):
    """One model and the data of a user, who reorders, subsets and renames them between the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: Any = None
        self.answers: pd.DataFrame | None = None

    @initialize(name=st.sampled_from(sorted(MODELS)))
    def set_up(self, name: str) -> None:
        self.cls = getattr(muport, name)
        self.setup, self.options, self.training = MODELS[name]
        self.data = tiny()
        #: the original name of each cell, by its name today
        self.original = dict(zip(NAMES, NAMES, strict=True))
        self.before = contents(self.data)
        self.cls.setup_anndata(self.data, **self.setup)
        self.model = self.cls(self.data, **self.options)

    def latent(self, values: np.ndarray, data: AnnData) -> pd.DataFrame:
        """Return an answer by the original names of the cells; it must be finite."""
        assert values.shape[0] == data.n_obs
        assert np.isfinite(values).all()
        return pd.DataFrame(values, index=[self.original[name] for name in data.obs_names])

    def compare(self, found: pd.DataFrame) -> None:
        """Compare the answer for some cells with the first answer of this model for them."""
        np.testing.assert_allclose(found.to_numpy(), self.answers.loc[found.index].to_numpy(), rtol=1e-3, atol=1e-3)

    def is_trained(self) -> bool:
        return self.answers is not None

    @precondition(lambda self: not self.is_trained() and self.model.adata is not None)
    @rule(seed=st.sampled_from([0, 1]))
    def train(self, seed: int) -> None:
        self.model.train(random_state=seed, **QUIET, **self.training)
        self.answers = self.latent(self.model.get_latent_representation(), self.model.adata)

    @precondition(lambda self: not self.is_trained())
    @rule()
    def ask_too_early(self) -> None:
        for call in (self.model.get_latent_representation, lambda: self.model.map_query(self.data)):
            with pytest.raises(REFUSALS, match="not trained"):
                call()

    @precondition(lambda self: self.is_trained())
    @rule()
    def ask_again(self) -> None:
        if self.model.adata is None:
            with pytest.raises(REFUSALS, match="without data"):
                self.model.get_latent_representation()
        else:
            self.compare(self.latent(self.model.get_latent_representation(), self.model.adata))

    @precondition(lambda self: self.is_trained())
    @rule()
    def map_query(self) -> None:
        self.compare(self.latent(self.model.map_query(self.data), self.data))

    @precondition(lambda self: self.is_trained() and hasattr(self.model, "predict"))
    @rule()
    def predict(self) -> None:
        soft = self.model.predict(adata=self.data, soft=True)
        assert np.allclose(soft.to_numpy().sum(axis=1), 1, atol=1e-4)
        if len(soft) == self.data.n_obs:
            assert list(soft.index) == list(self.data.obs_names)

    @rule(seed=st.integers(0, 9))
    def reorder(self, seed: int) -> None:
        self._replace(self.data[np.random.default_rng(seed).permutation(self.data.n_obs)])

    @rule(part=st.sampled_from(["first half", "every second", "one cell", "no cell"]))
    def subset(self, part: str) -> None:
        n = self.data.n_obs
        rows = {"first half": np.arange(max(n // 2, 1)), "every second": np.arange(0, n, 2), "one cell": np.arange(1)}
        if part == "no cell":
            with pytest.raises(REFUSALS):
                self.model.map_query(self.data[:0].copy())
        elif self.is_trained():
            self._replace(self.data[rows[part]])

    @rule(prefix=st.sampled_from(["a_", "é", "細胞 "]))
    def rename(self, prefix: str) -> None:
        data = self.data.copy()
        self.original = {f"{prefix}{name}": self.original[name] for name in data.obs_names} | self.original
        data.obs_names = [f"{prefix}{name}" for name in data.obs_names]
        self._replace(data)

    @rule()
    def start_again(self) -> None:
        self._replace(tiny())

    def _replace(self, data: AnnData) -> None:
        """The user goes on with another object; an untrained model is made again for it."""
        self.data = data.copy()
        for key in ("_scvi_uuid", "_scvi_manager_uuid"):
            self.data.uns.pop(key, None)
        self.before = contents(self.data)
        if not self.is_trained():
            self.cls.setup_anndata(self.data, **self.setup)
            self.model = self.cls(self.data, **self.options)

    @precondition(lambda self: self.is_trained())
    @rule(kind=st.sampled_from(["no data", "saved data", "given data"]))
    def save_and_load(self, kind: str) -> None:
        own = self.model.adata is not None
        if kind == "saved data" and not own:
            with pytest.raises(REFUSALS, match="without data"):
                self.model.save(self.folder / "m", overwrite=True, save_anndata=True)
            return
        self.model.save(self.folder / "m", overwrite=True, save_anndata=kind == "saved data")
        given = {"no data": False, "saved data": None, "given data": self.data}[kind]
        expected = self.model.map_query(self.data)
        try:
            self.model = self.cls.load(self.folder / "m", adata=given, accelerator="cpu")
        except REFUSALS:
            # a part of the cells may lack what the model was set up with
            assert kind == "given data"
            assert self.data.n_obs < N
        assert np.array_equal(self.model.map_query(self.data), expected)

    @rule()
    def save_over_it(self) -> None:
        if (self.folder / "m").exists():
            with pytest.raises(REFUSALS, match="overwrite"):
                self.model.save(self.folder / "m")

    @rule(column=st.sampled_from(["batch", "sample", "time", "X_pca"]))
    def spoil(self, column: str) -> None:
        data = self.data.copy()
        if column == "X_pca":
            data.obsm["X_pca"][0, 0] = np.nan
        else:
            data.obs[column] = data.obs[column].astype(object)
            data.obs.iloc[0, data.obs.columns.get_loc(column)] = None
        before = contents(data)
        for call in (lambda: self.cls.setup_anndata(data, **self.setup), lambda: self.model.map_query(data)):
            try:
                call()
            except REFUSALS:
                continue
            # a column that this model does not read may miss a value
            assert column != "X_pca"
        assert str(contents(data)) == str(before)

    @invariant()
    def the_object_is_as_it_was(self) -> None:
        if self.model is not None:
            assert contents(self.data) == self.before

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.slow
def test_any_order_of_calls(record_property):
    runs = [0]

    class Counted(Machine):
        def __init__(self) -> None:
            super().__init__()
            runs[0] += 1

    default = settings.default
    fixed = settings(
        default, max_examples=30 if default.derandomize else default.max_examples, stateful_step_count=12,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(Counted, settings=fixed)
    record_property("tries", runs[0])
