"""Results that earlier versions wrote are read, continued, or refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr

import muport
from muport._schema_version import SCHEMA_VERSION
from muport.integration.atlas import _integrate_centroids as atlas

HERE = Path(__file__).parent
RESULTS = HERE / "schema_2" / "results"

_spec = importlib.util.spec_from_file_location("golden_results", HERE / "golden_results.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

NEWER = {"schema_version": SCHEMA_VERSION + 1}
UPDATE = f"schema_version={SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}.*saved by a newer muport: update muport"


def assert_close(found, values) -> None:
    # floating-point sums differ between processors, not more than this
    np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4 * np.abs(values).max())


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A copy; the version is that of the time, since a result of another version is another result."""
    shutil.copytree(RESULTS, tmp_path / "results")
    written = json.loads((RESULTS / "centroids.npy.json").read_text())["job"]["version"]
    monkeypatch.setattr(atlas, "version", lambda _: written)
    return tmp_path / "results"


def integrate(results: Path, name: str) -> Path:
    path, _ = muport.integrate_centroids(results / "cells.h5ad", tmp_path=results / name, **golden.CENTROIDS)
    return path


def change_marks(results: Path, name: str, **changes) -> None:
    """Change what lies beside a result; ... takes a key away."""
    path = results / (f"{name}.json" if name == "centroids.npy" else f"{name}.partial/job.json")
    if name.endswith(".zarr"):
        attributes = zarr.open_group(results / name, mode="r+").attrs
        marks = {**attributes["muport"], **changes}
        attributes["muport"] = {key: value for key, value in marks.items() if value is not ...}
        return
    marks = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in marks.items() if value is not ...}))


@pytest.mark.promise("Results that this version wrote stay readable")
def test_a_result_is_that_of_its_call(results, monkeypatch):
    monkeypatch.setattr(atlas, "fit_centroids", None)
    rows = np.load(integrate(results, "centroids.npy"))
    assert np.array_equal(anndata.read_zarr(integrate(results, "centroids.zarr")).obsm["scBIOT"], rows)
    # two of three chunks are in the unfinished result, and the fit that maps the third one
    assert_close(np.load(integrate(results, "unfinished.npy")), rows)


@pytest.mark.promise("A file of a newer version is refused, with what to do")
@pytest.mark.parametrize("name", ["centroids.npy", "centroids.zarr", "unfinished.npy"])
def test_a_result_of_another_format_is_refused(results, name):
    change_marks(results, name, **NEWER)
    with pytest.raises(FileExistsError, match=UPDATE):
        integrate(results, name)
    for version in (..., 1):
        change_marks(results, name, schema_version=version)
        with pytest.raises(FileExistsError, match="an earlier version of muport wrote it.*Pass"):
            integrate(results, name)
    change_marks(results, name, schema_version="two")
    with pytest.raises(FileExistsError, match="schema_version='two'"):
        integrate(results, name)


@pytest.mark.promise("A file of a newer version is refused, with what to do")
def test_a_fit_of_a_newer_version_is_refused(results):
    path = results / "unfinished.npy.partial" / "fit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **NEWER}))
    with pytest.raises(ValueError, match=UPDATE):
        integrate(results, "unfinished.npy")


@pytest.mark.promise("A number of a saved model that cannot be is refused by the name of its field")
def test_a_fit_that_was_changed_is_made_again(results, record_property):
    """The rows are those of an uninterrupted call, whatever the changed number says."""
    path = results / "unfinished.npy.partial" / "fit.json"
    text = path.read_text()
    scale = json.loads(text)["value"]["v"]["state"]["v"]["scale"]
    path.write_text(text.replace(str(scale), str(2 * scale)))
    assert path.read_text() != text
    assert_close(np.load(integrate(results, "unfinished.npy")), np.load(results / "centroids.npy"))
    record_property("tries", 1)


@pytest.mark.promise("Results that this version wrote stay readable")
def test_files_of_the_commands_are_read():
    cells = anndata.read_h5ad(RESULTS / "cells.h5ad")
    transfer = anndata.read_h5ad(RESULTS / "transfer.h5ad")
    assert {"prediction", "prediction_confidence"} <= set(transfer.obs)
    assert transfer.obsm["X_integration"].shape == (cells.n_obs, 5)
    assert (transfer.obs["prediction"].astype(str) == cells.obs["cell_type"].astype(str)).mean() > 0.9
    atlas_result = anndata.read_zarr(RESULTS / "atlas.zarr")
    assert atlas_result.obs_names.equals(cells.obs_names)
    assert set(atlas_result.obs) == set(cells.obs)
    assert np.array_equal(atlas_result.obsm["scBIOT"], np.load(RESULTS / "centroids.npy"))
    velocity = anndata.read_h5ad(RESULTS / "velocity.h5ad")
    assert {"velot_confidence", "velot_uncertainty"} <= set(velocity.obs)
    assert velocity.obsm["velot_velocity"].shape == cells.obsm["X_own"].shape
    assert list(velocity.uns["velot_fates"]) == ["t0", "t1"]
    assert velocity.obsm["velot_fates"].shape == (cells.n_obs, 2)


@pytest.mark.promise("Results that this version wrote stay readable")
def test_results_of_velot_are_read():
    cells = anndata.read_h5ad(RESULTS / "velot.h5ad")
    expected = np.load(RESULTS / "expected.npz")
    for key, values in golden.velot_answers(cells).items():
        # training adds up differences between processors
        tolerance = 1e-2 if key == "smooth" else 1e-4
        np.testing.assert_allclose(
            values, expected[key], rtol=tolerance, atol=tolerance * np.nanmax(np.abs(expected[key])), err_msg=key
        )
    stored = cells.uns["velot_trajectories"]["paths_pca"]
    assert_close(stored[np.isfinite(stored)], expected["paths"][np.isfinite(expected["paths"])])


VELOT = {
    "velot_windows": muport.velocity.compute_ot_velocity,
    "velot_transport": lambda cells: muport.velocity.smooth_velocity(cells, verbose=False),
    "velot_smoothing": lambda cells: muport.velocity.query_velocity(cells, cells.obsm["X_pca"]),
    "velot_trajectories": lambda cells: muport.pl.trajectories(cells, "velot_trajectories", basis="X_pca"),
}


@pytest.mark.promise("A file of a newer version is refused, with what to do")
@pytest.mark.parametrize("key", VELOT)
def test_results_of_velot_of_another_format_are_refused(key):
    cells = anndata.read_h5ad(RESULTS / "velot.h5ad")
    assert cells.uns[key]["schema_version"] == 2
    for version, match in ((SCHEMA_VERSION + 1, UPDATE), ("two", "schema_version='two'"), (0, "schema_version=0")):
        cells.uns[key]["schema_version"] = version
        with pytest.raises(ValueError, match=rf"uns\['{key}'\].*{match}"):
            VELOT[key](cells)


@pytest.mark.promise("A file of a newer version is refused, with what to do")
def test_an_lsi_of_a_newer_version_is_refused():
    counts = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype(np.float32))
    new = counts[:10].copy()
    muport.pp.iterative_lsi(counts, n_comps=5, max_depth_correlation=1)
    muport.pp.project_lsi(new, counts)
    before = new.obsm["X_lsi"].copy()
    del counts.uns["lsi"]["schema_version"]
    muport.pp.project_lsi(new, counts)
    assert np.array_equal(new.obsm["X_lsi"], before)
    counts.uns["lsi"]["schema_version"] = SCHEMA_VERSION + 1
    with pytest.raises(ValueError, match=UPDATE):
        muport.pp.project_lsi(new, counts)
