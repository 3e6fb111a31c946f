"""Modalities without shared features: exact copies, order, sizes, several modalities, bad input."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from muport.data._serialization import pack, state_classes, unpack
from muport.integration.gromov._gromov_plans import _compare_plans
from muport.integration.gromov._gromov_space import GromovSpace, fit_gromov_space, map_to_hub, summarize_alignment
from muport.metrics import foscttm

N = 150


def branches(n: int = N, seed: int = 0, share: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[np.ndarray, np.ndarray]:
    """Three branches of unequal length and size that start from one point, and the branch of each cell."""
    rng = np.random.default_rng(seed)
    branch = rng.choice(3, n, p=share)
    way = np.array([[2.5, 0, 0, 0], [0, 1.6, 0, 0], [0, 0, 1.0, 0]])
    x = way[branch] * rng.random((n, 1)) + 0.03 * rng.normal(size=(n, 4))
    return x.astype(np.float32), branch


def turned(x: np.ndarray, d: int, seed: int = 1) -> np.ndarray:
    """The same cells in another space of d coordinates, rotated and scaled."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0][: x.shape[1]]
    return (7 * x @ turn).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> tuple[dict[str, np.ndarray], np.ndarray, GromovSpace, list[str]]:
    x, branch = branches()
    views, messages = {"rna": x, "atac": turned(x, 6)}, []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return views, branch, fit_gromov_space(views, progress=messages.append), messages


def test_isometric_copies_are_aligned(fitted) -> None:
    views, _, space, _ = fitted
    embedded = [map_to_hub(space, name, views[name]) for name in views]
    assert embedded[0].shape == embedded[1].shape
    assert embedded[0].dtype == np.float32
    # chance is .5, and with whole branches exchanged it is above .3
    assert foscttm(*embedded) < 0.03


def test_diagnostics_of_an_isometry(fitted) -> None:
    diagnostics = fitted[2].diagnostics
    assert diagnostics["objective atac-rna"] < 0.003
    assert diagnostics["stability atac-rna"] > 0.2
    assert diagnostics["margin atac-rna"] > 0.3
    assert 0.9 < diagnostics[next(name for name in diagnostics if name.startswith("kept"))] <= 1.01
    assert diagnostics["hub"] in ("rna", "atac")


def test_the_distortion_tells_noise_from_structure(fitted) -> None:
    rng = np.random.default_rng(0)
    views = {name: rng.normal(size=(N, 8)).astype(np.float32) for name in ("a", "b")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_noise = summarize_alignment(fit_gromov_space(views))["distortion"]
    assert summarize_alignment(fitted[2])["distortion"] < 0.02
    assert 0.3 < of_noise < 1


def test_progress_is_reported(fitted) -> None:
    expected = ["distances within atac", "distances within rna", "aligning atac with rna", "refining atac with rna"]
    assert fitted[3] == expected


def test_an_ambiguous_alignment_warns() -> None:
    # two clusters of one size and spread: to exchange them changes no distance
    rng = np.random.default_rng(0)
    half = rng.normal(size=(30, 2)) + [6, 0]
    x = np.concatenate([half, -half]).astype(np.float32)
    with pytest.warns(UserWarning, match=r"a with b is ambiguous.*shared_rep.* measured in both") as record:
        space = fit_gromov_space({"a": x, "b": turned(x, 3)})
    assert [warning.filename for warning in record] == [__file__]
    assert space.diagnostics["margin a-b"] < 0.1


def test_an_alignment_on_which_settings_disagree_warns() -> None:
    # five clusters, the shares reversed in the other modality, which sees them through another bend
    rng = np.random.default_rng(2)
    center, share = 1.6 * rng.normal(size=(5, 6)), np.array([0.32, 0.26, 0.2, 0.14, 0.08])
    views = {}
    for name, part in (("a", share), ("b", share[::-1])):
        z = center[rng.choice(5, 200, p=part)] + 0.4 * rng.normal(size=(200, 6))
        views[name] = (np.tanh(z @ rng.normal(size=(6, 30)) / 2.4) @ rng.normal(size=(30, 9))).astype(np.float32)
    with pytest.warns(UserWarning, match=r"a with b is uncertain.*descriptions of their geometry disagree.*shared_rep"):
        space = fit_gromov_space(views)
    assert space.diagnostics["margin a-b"] >= 0.1
    assert space.diagnostics["stability a-b"] < 0.5


def test_the_linear_part_is_a_ridge_regression(fitted) -> None:
    _, _, space, _ = fitted
    (name,) = space.images
    x, image = space.points[name], space.images[name]
    penalty = 0.01 * len(x) * x.var(axis=0).mean()
    ridge = Ridge(penalty).fit(x, image)
    np.testing.assert_allclose(space.slope[name], ridge.coef_.T, atol=1e-4)
    np.testing.assert_allclose(space.offset[name], ridge.intercept_, atol=1e-4)


def test_distance_of_plans() -> None:
    rng = np.random.default_rng(0)
    plans, y = rng.random((3, 5, 4)), rng.normal(size=(4, 2))
    plans /= plans.sum((1, 2), keepdims=True)
    squared = np.square(y[:, None] - y).sum(2)
    image = (plans @ y) / plans.sum(2, keepdims=True)
    expected = (plans.sum(2) * np.square(image - image[1]).sum(2) / 2).sum(1)
    distance = _compare_plans(torch.from_numpy(plans), 1, torch.from_numpy(squared / 2))
    np.testing.assert_allclose(distance.numpy(), expected, atol=1e-12)


def test_order_of_cells_and_modalities_changes_nothing(fitted) -> None:
    views, _, space, _ = fitted
    order = np.random.default_rng(5).permutation(N)
    again = fit_gromov_space({"atac": views["atac"][order], "rna": views["rna"]})
    for name, x in views.items():
        assert np.array_equal(map_to_hub(again, name, x), map_to_hub(space, name, x))


def test_a_cell_is_mapped_by_itself(fitted) -> None:
    views, _, space, _ = fitted
    for name, x in views.items():
        np.testing.assert_allclose(map_to_hub(space, name, x[3:5]), map_to_hub(space, name, x)[3:5], atol=1e-5)


def test_sizes_may_differ_and_new_cells_are_mapped() -> None:
    x, first = branches(160, seed=2)
    y, second = branches(110, seed=3)
    space = fit_gromov_space({"a": x, "b": turned(y, 5)})
    new, branch = branches(80, seed=4)
    voters = KNeighborsClassifier(7).fit(map_to_hub(space, "a", x), first)
    assert (voters.predict(map_to_hub(space, "b", turned(y, 5))) == second).mean() > 0.85
    assert (voters.predict(map_to_hub(space, "b", turned(new, 5))) == branch).mean() > 0.85


def test_three_modalities_share_one_hub() -> None:
    x, _ = branches(80)
    views = {"rna": x, "atac": turned(x, 6), "met": turned(x, 5, seed=8)}
    space = fit_gromov_space(views)
    embedded = {name: map_to_hub(space, name, x) for name, x in views.items()}
    assert len({z.shape for z in embedded.values()}) == 1
    summary = summarize_alignment(space)
    for name, worst in (("stability", min), ("margin", min), ("distortion", max)):
        values = [value for key, value in space.diagnostics.items() if key.startswith(name)]
        assert len(values) == 3
        assert summary[name] == worst(values)
    for name, z in embedded.items():
        assert foscttm(z, embedded[space.hub]) < 0.05, name


def test_the_same_seed_gives_the_same_bits() -> None:
    x, _ = branches(40)
    first, second = (fit_gromov_space({"a": x, "b": turned(x, 5)}, random_state=3) for _ in range(2))
    for name in first.images:
        assert np.array_equal(first.images[name], second.images[name])


def test_a_space_can_be_packed(fitted) -> None:
    views, _, space, _ = fitted
    tensors: dict[str, np.ndarray] = {}
    loaded = unpack(pack(space, "space", tensors), tensors, state_classes(GromovSpace))
    assert dataclasses.fields(loaded) == dataclasses.fields(space)
    for name, x in views.items():
        assert np.array_equal(map_to_hub(loaded, name, x), map_to_hub(space, name, x))


def test_one_coordinate_is_enough() -> None:
    x = np.random.default_rng(0).beta(1, 3, size=(60, 1)).astype(np.float32)
    space = fit_gromov_space({"a": x, "b": 3 * x + 1})
    assert foscttm(map_to_hub(space, "a", x), map_to_hub(space, "b", 3 * x + 1)) < 0.1


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"rna": np.eye(20)}, "1 modalities"),
        ({"rna": np.eye(20), "atac": np.eye(20)[:1]}, "atac has 1 cells"),
        ({"rna": np.eye(20), "atac": np.full((20, 3), 7.3)}, "atac is constant"),
        ({"rna": np.eye(20), "atac": np.full((20, 3), np.nan)}, "atac has a NaN"),
    ],
)
def test_bad_views_are_refused(views: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_gromov_space(views)


def test_bad_cells_are_refused(fitted) -> None:
    views, _, space, _ = fitted
    with pytest.raises(KeyError, match="'protein'"):
        map_to_hub(space, "protein", views["rna"])
    with pytest.raises(ValueError, match="rna has 3 columns"):
        map_to_hub(space, "rna", views["rna"][:, :3])
    with pytest.raises(ValueError, match="NaN"):
        map_to_hub(space, "rna", np.full_like(views["rna"], np.nan))


@pytest.mark.slow
def test_cell_lines_are_aligned_without_pairs_or_labels() -> None:
    folder = os.environ.get("MUPORT_DATA")
    if not folder or not (Path(folder) / "snare_celllines_scot.h5mu").exists():
        pytest.skip("MUPORT_DATA holds no snare_celllines_scot")
    from muport.datasets import load

    mdata = load("snare_celllines_scot")
    views = {name: np.asarray(adata.X, np.float32) for name, adata in mdata.mod.items()}
    space = fit_gromov_space(views)
    rna, atac = (map_to_hub(space, name, views[name]) for name in ("rna", "atac"))
    kind = mdata["rna"].obs["cell_type"].astype(str).to_numpy()
    assert foscttm(rna, atac) < 0.18
    assert (KNeighborsClassifier(5).fit(atac, kind).predict(rna) == kind).mean() > 0.93
