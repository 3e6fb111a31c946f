"""Models that earlier versions saved load, and answer as they did then: one folder for each schema version."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import muport
from muport._schema_version import SCHEMA_VERSION

HERE = Path(__file__).parent
CLASSES = {"gmm": "GMM", "velocity": "Velocity"}

_spec = importlib.util.spec_from_file_location("golden_models", HERE / "golden_models.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

FOLDERS = [f"schema_{version}" for version in range(1, SCHEMA_VERSION + 1)]


def assert_close(found, values, key: str) -> None:
    # floating-point sums differ between processors, not more than this
    np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4 * np.abs(values).max(), err_msg=key)


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request) -> Path:
    return HERE / request.param


@pytest.fixture(scope="module", params=golden.MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(folder, name):
    cls = getattr(muport, CLASSES.get(name, "Integration"))
    return cls.load(folder / name, adata=False, accelerator="cpu")


@pytest.mark.promise("Models that version 0.1.0 saved load and give the results of that time")
def test_a_saved_model_gives_the_answers_of_its_time(folder, name, loaded):
    expected = dict(np.load(folder / name / "expected.npz"))
    answers = golden.answers(name, loaded, golden.query_of(name))
    assert answers.keys() == expected.keys()
    for key, values in expected.items():
        assert_close(answers[key], values, key)


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_a_saved_model_is_saved_again(name, loaded, tmp_path):
    loaded.save(tmp_path / "m")
    again = type(loaded).load(tmp_path / "m", adata=False, accelerator="cpu")
    query = golden.query_of(name)
    for key, values in golden.answers(name, loaded, query).items():
        np.testing.assert_array_equal(golden.answers(name, again, query)[key], values)


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
@pytest.mark.parametrize("name", golden.WITH_CELLS)
def test_a_model_loads_with_the_cells_that_were_saved(name):
    model = getattr(muport, CLASSES.get(name, "Integration")).load(HERE / "schema_2" / name, accelerator="cpu")
    assert_close(model.get_latent_representation(), np.load(HERE / "schema_2" / name / "expected_cells.npy"), "cells")
