"""The joint space of modalities."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.data._serialization import pack, state_classes, unpack
from muport.integration.spaces._cross_modality import predict_modality
from muport.integration.spaces._joint_space import JointSpace, embed_cells, fit_joint_space, split_modalities
from muport.integration.spaces._modality_weights import interpolate_weights
from muport.integration.spaces._shared_space import embed_modality
from muport.metrics import knn_labels
from muport.neighbors import knn

NOISE = {"rna": 0.3, "atac": 0.6, "adt": 0.4}
WIDTH = {"rna": 8, "atac": 6, "adt": 4}
N = 600


class Mosaic:
    """Cells of five clusters in several modalities: `views`, `cell` and `shared` as the functions take them."""

    def __init__(self, have: dict[str, np.ndarray], seed: int = 0, noise: dict[str, float] | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.n = int(max(rows.max() for rows in have.values())) + 1
        self.kind = rng.integers(0, 5, self.n)
        hidden = rng.normal(size=(5, 4))[self.kind] + 0.3 * rng.normal(size=(self.n, 4))
        self.batch = rng.integers(0, 2, self.n)
        self.cell = {m: np.asarray(rows, np.int64) for m, rows in have.items()}
        self.full, self.shared = {}, {}
        for m in have:
            x = hidden @ rng.normal(size=(4, WIDTH[m])) + (noise or NOISE)[m] * rng.normal(size=(self.n, WIDTH[m]))
            self.full[m] = (3 * x + 5).astype(np.float32)
            self.shared[m] = (hidden + 0.7 * rng.normal(size=hidden.shape)).astype(np.float32)[self.cell[m]]
        self.views = {m: self.full[m][rows] for m, rows in self.cell.items()}

    def fit(self, *, shared: bool = False, seed: int = 0) -> JointSpace:
        return fit_joint_space(
            self.views, self.cell, self.batch, shared=self.shared if shared else None, random_state=seed
        )

    def embed(self, space: JointSpace, *, shared: bool = False):
        return embed_cells(space, self.views, self.cell, self.n, shared=self.shared if shared else None)


def _mosaic(share: float, n: int = N) -> dict[str, np.ndarray]:
    """Mosaic of which some are in both modalities, and the others in one of them."""
    paired = round(share * n)
    half = paired + (n - paired) // 2
    return {"rna": np.arange(half), "atac": np.r_[0:paired, half:n]}


def _purity(z: np.ndarray, kind: np.ndarray) -> float:
    return float((kind[knn(z, 10).indices] == kind[:, None]).mean())


@pytest.fixture(scope="module")
def paired() -> Mosaic:
    return Mosaic(_mosaic(1.0))


@pytest.fixture(scope="module")
def mosaic() -> Mosaic:
    return Mosaic(_mosaic(0.4))


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_cell_is_the_weighted_sum_of_measured_and_predicted_coordinates(share, paired):
    space = Mosaic(_mosaic(share)).fit()
    embedding = paired.embed(space)
    assert space.measured_share == pytest.approx(share**2 * share * N / (share * N + 10), rel=1e-3)
    x = {m: (paired.full[m] - space.center[m]) / space.scale[m] for m in space.modalities}
    for m, block in x.items():
        if share == 1:
            np.testing.assert_allclose(np.square(block).sum(axis=1).mean(), 1, rtol=1e-4)
            np.testing.assert_allclose(space.center[m], paired.full[m].mean(axis=0), rtol=1e-5)
            np.testing.assert_allclose(np.square(block * space.axis_weights[m]).sum(axis=1).mean(), 1, rtol=1e-4)
        x[m] = block * space.axis_weights[m]
    coordinates = {
        (b, m): x[m] if b == m else predict_modality(space.predictor, b, m, x[b], None) for b, m in product(x, x)
    }

    def weighted_sum(weight: np.ndarray) -> np.ndarray:
        factor = {(b, m): 1 if b == m else 1 / 3 for b, m in coordinates}
        blocks = {m: sum(weight[:, [i]] * factor[b, m] * coordinates[b, m] for i, b in enumerate(x)) for m in x}
        f = space.measured_share
        return np.hstack([(f * x[m] + (1 - f) * block) @ space.distance_maps[m] for m, block in blocks.items()])

    weight = interpolate_weights(
        weighted_sum(np.tile(space.weights.mean_weights, (N, 1))).astype(np.float32), space.weights
    )
    np.testing.assert_allclose(embedding.z, weighted_sum(weight), atol=1e-4)
    np.testing.assert_allclose(embedding.weights, weight, atol=1e-5)
    assert embedding.observed.all()
    assert embedding.z.dtype == embedding.weights.dtype == np.float32


def test_two_views_are_not_worse_than_one_and_the_cleaner_one_weighs_more(paired):
    space = paired.fit()
    embedding = paired.embed(space)
    assert embedding.weights[:, 0].mean() > 0.5
    alone = max(_purity(x, paired.kind) for x in paired.full.values())
    assert _purity(embedding.z, paired.kind) > alone - 0.005


@pytest.mark.parametrize("useless", ["noise", "constant", "copies"])
def test_a_modality_without_signal_has_no_weight(useless, paired):
    rng = np.random.default_rng(7)
    other = {"noise": rng.normal(size=(N, 6)), "constant": np.full((N, 6), 3.0), "copies": np.zeros((N, 6))}[useless]
    if useless == "copies":
        other[: N // 2] = 1
        rng.shuffle(other)
    views = {"rna": paired.full["rna"], "atac": other.astype(np.float32)}
    space = fit_joint_space(views, paired.cell, paired.batch)
    embedding = embed_cells(space, views, paired.cell, N)
    assert np.isfinite(embedding.z).all()
    if useless == "copies":
        return
    assert embedding.weights[:, 1].max() < 0.02
    parts = split_modalities(space, embedding.z)
    np.testing.assert_allclose(parts["rna"], views["rna"], atol=0.3)
    assert _purity(embedding.z, paired.kind) >= _purity(views["rna"], paired.kind) - 0.005


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.floats(0.01, 100), st.booleans())
def test_a_modality_of_pure_noise_never_lowers_the_agreement_with_the_types(seed, width, scale, heavy_tailed):
    cells = Mosaic({"rna": np.arange(300)}, seed)
    rng = np.random.default_rng(seed + 1)
    noise = rng.normal(size=(300, width)) * scale
    if heavy_tailed:
        noise *= np.exp(rng.normal(size=(300, 1)))
    views = {"rna": cells.full["rna"], "atac": noise.astype(np.float32)}
    cell_index = {m: np.arange(300) for m in views}
    embedding = embed_cells(fit_joint_space(views, cell_index, cells.batch), views, cell_index, 300)
    assert embedding.weights[:, 1].mean() < 0.05
    assert _purity(embedding.z, cells.kind) >= _purity(views["rna"], cells.kind) - 0.02


def test_variation_that_only_one_modality_has_does_not_hide_the_types():
    rng = np.random.default_rng(0)
    cells = Mosaic({"rna": np.arange(N), "atac": np.arange(N)})
    # four times the variance of the types, with outliers, and spread over coordinates that depend on each other
    nuisance = rng.gamma(1, 1, size=(N, 2)) @ rng.normal(size=(2, 6))
    views = {"rna": cells.full["rna"], "atac": (cells.full["atac"] / 3 + 3 * nuisance).astype(np.float32)}
    embedding = embed_cells(fit_joint_space(views, cells.cell, cells.batch), views, cells.cell, N)
    alone = _purity(views["rna"], cells.kind)
    side_by_side = np.hstack([(x - x.mean(0)) / np.linalg.norm(x.std(0)) for x in views.values()])
    assert _purity(embedding.z, cells.kind) >= max(alone, _purity(side_by_side.astype(np.float32), cells.kind)) - 0.01
    assert embedding.weights[:, 0].mean() > 0.5


def test_types_that_no_modality_has_alone_are_kept():
    """One modality divides the cells in three groups, the other each of them in two, which it does not tell apart."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 6, N)
    first, second = kind // 2, kind % 2
    views = {
        "rna": rng.normal(size=(3, 6))[first] * 2 + 0.3 * rng.normal(size=(N, 6)),
        "atac": rng.normal(size=(2, 5))[second] * 2 + 0.3 * rng.normal(size=(N, 5)),
    }
    views = {m: x.astype(np.float32) for m, x in views.items()}
    cell_index = {m: np.arange(N) for m in views}
    embedding = embed_cells(fit_joint_space(views, cell_index, np.zeros(N, np.int64)), views, cell_index, N)
    assert max(_purity(x, kind) for x in views.values()) < 0.6
    assert _purity(embedding.z, kind) > 0.95


def test_three_modalities_of_which_no_cell_has_all_are_nearly_as_good_as_all_measured():
    whole = Mosaic({m: np.arange(N) for m in WIDTH})
    half = N // 2
    cells = {"rna": np.arange(N), "atac": np.arange(half), "adt": np.arange(half, N)}
    mosaic = Mosaic(cells)
    purity = {}
    for name, part in (("whole", whole), ("mosaic", mosaic)):
        purity[name] = _purity(part.embed(part.fit()).z, part.kind)
    np.testing.assert_array_equal(mosaic.kind, whole.kind)
    assert purity["mosaic"] >= purity["whole"] - 0.02


def test_split_returns_each_modality_in_its_coordinates(mosaic):
    space = mosaic.fit()
    embedding = mosaic.embed(space)
    parts = split_modalities(space, embedding.z)
    assert {m: x.shape for m, x in parts.items()} == {m: (N, WIDTH[m]) for m in mosaic.full}
    for i, m in enumerate(space.modalities):
        lacking = ~embedding.observed[:, i]
        true, mean = mosaic.full[m][lacking], mosaic.views[m].mean(axis=0)
        left = np.square(parts[m][lacking] - true).sum() / np.square(true - mean).sum()
        assert left < 0.4
        # measured cells stay nearer to their measurement than imputed cells are to the truth
        measured = np.square(parts[m][~lacking] - mosaic.full[m][~lacking]).sum(axis=1).mean()
        assert measured < np.square(parts[m][lacking] - true).sum(axis=1).mean()


def test_weights_are_those_of_the_measured_modalities(mosaic):
    embedding = mosaic.embed(mosaic.fit())
    np.testing.assert_allclose(embedding.weights.sum(axis=1), 1, atol=1e-6)
    assert (embedding.weights[~embedding.observed] == 0).all()
    for i, m in enumerate(mosaic.views):
        np.testing.assert_array_equal(np.flatnonzero(embedding.observed[:, i]), np.sort(mosaic.cell[m]))


def _imputation_error(cells: Mosaic, *, shared: bool) -> float:
    """Fraction of the variance of RNA that is not imputed in cells without it."""
    space = cells.fit(shared=shared)
    embedding = cells.embed(space, shared=shared)
    lacking = ~embedding.observed[:, 0]
    true = cells.full["rna"][lacking]
    return float(
        np.square(split_modalities(space, embedding.z)["rna"][lacking] - true).sum()
        / np.square(true - true.mean(0)).sum()
    )


def test_imputation_worsens_smoothly_as_pairing_vanishes():
    error = [_imputation_error(Mosaic(_mosaic(share)), shared=True) for share in (0.9, 0.5, 0.2, 0.05, 0.01)]
    assert error[0] < 0.35
    assert error[-1] < 0.8
    assert max(b - a for a, b in zip(error[:-1], error[1:], strict=True)) < 0.35
    with_two_pairs = [_imputation_error(Mosaic(_mosaic(2 / N)), shared=shared) for shared in (True, False)]
    assert with_two_pairs[0] < 0.8 < with_two_pairs[1]


def test_shared_coordinates_are_appended_where_cells_lack_a_modality(mosaic, paired):
    assert paired.fit(shared=True).shared_scale == 0
    space = mosaic.fit(shared=True)
    embedding = mosaic.embed(space, shared=True)
    width = sum(WIDTH[m] for m in mosaic.views)
    assert space.shared_space is not None
    assert embedding.z.shape == (N, width + space.shared_space.width)
    total, number = np.zeros((N, space.shared_space.width)), np.zeros((N, 1))
    for m, rows in mosaic.cell.items():
        total[rows] += embed_modality(space.shared_space, m, mosaic.views[m], mosaic.shared[m])
        number[rows] += 1
    np.testing.assert_allclose(embedding.z[:, width:], space.shared_scale * total / number, atol=1e-4)
    # a cell without shared coordinates is embedded too, and modalities are split as before
    np.testing.assert_array_equal(mosaic.embed(space).z[:, width:], 0)
    assert {m: x.shape[1] for m, x in split_modalities(space, embedding.z).items()} == {
        m: WIDTH[m] for m in mosaic.views
    }


def test_a_space_of_an_older_version_appends_the_shared_coordinates_as_they_are(mosaic):
    space = replace(mosaic.fit(shared=True), shared_space=None)
    embedding = mosaic.embed(space, shared=True)
    s = {m: (x - x.mean(0)) / np.sqrt(np.square(x - x.mean(0)).sum(1).mean()) for m, x in mosaic.shared.items()}
    total, number = np.zeros((N, 4)), np.zeros((N, 1))
    for m, x in s.items():
        total[mosaic.cell[m]] += x
        number[mosaic.cell[m]] += 1
    np.testing.assert_allclose(embedding.z[:, space.width :], space.shared_scale * total / number, atol=1e-4)


def test_shared_coordinates_have_the_estimated_fraction_of_the_squared_distances(mosaic, monkeypatch):
    monkeypatch.setattr("muport.integration.spaces._joint_space.estimate_shared_fraction", lambda *_: 0.3)
    space = mosaic.fit(shared=True)
    z = mosaic.embed(space, shared=True).z
    own, shared = (np.square(part - part.mean(0)).sum(1).mean() for part in (z[:, : space.width], z[:, space.width :]))
    assert shared / (own + shared) == pytest.approx(0.3, abs=0.1)


def test_canonical_axes_bring_cells_of_one_modality_nearer_to_their_like():
    rng = np.random.default_rng(0)
    cells, right = Mosaic(_mosaic(0.1), noise={"rna": 0.2, "atac": 0.2}), {}
    cells.shared = {m: s + 2 * rng.normal(size=s.shape).astype(np.float32) for m, s in cells.shared.items()}
    space = cells.fit(shared=True)
    assert space.shared_space is not None
    assert space.shared_space.n_canonical > 0
    rna, atac = (np.setdiff1d(cells.cell[m], cells.cell[other]) for m, other in (("rna", "atac"), ("atac", "rna")))
    kind = cells.kind.astype(str)
    for name, fitted in (("with", space), ("without", replace(space, shared_space=None))):
        z = cells.embed(fitted, shared=True).z[:, space.width :]
        right[name] = float((knn_labels(z[rna], kind[rna], query=z[atac], k=15) == kind[atac]).mean())
    assert right["with"] > right["without"] + 0.2


def test_shared_coordinates_without_signal_have_a_small_scale():
    cells = Mosaic(_mosaic(0.4))
    useful = cells.fit(shared=True).shared_scale
    for i, m in enumerate(cells.shared):
        cells.shared[m] = np.random.default_rng(i).normal(size=cells.shared[m].shape).astype(np.float32)
    assert cells.fit(shared=True).shared_scale < 0.5 * useful


def test_order_of_cells_and_rows_does_not_matter():
    cells = Mosaic(_mosaic(0.5))
    first = cells.embed(cells.fit(shared=True), shared=True)
    rng = np.random.default_rng(0)
    position = rng.permutation(N)  # cell i becomes cell position[i]
    rows = {m: rng.permutation(len(x)) for m, x in cells.views.items()}
    views = {m: x[rows[m]] for m, x in cells.views.items()}
    cell = {m: position[rank[rows[m]]] for m, rank in cells.cell.items()}
    shared = {m: s[rows[m]] for m, s in cells.shared.items()}
    batch = np.empty_like(cells.batch)
    batch[position] = cells.batch
    space = fit_joint_space(views, cell, batch, shared=shared)
    embedding = embed_cells(space, views, cell, N, shared=shared)
    np.testing.assert_allclose(embedding.z[position], first.z, atol=1e-4)
    np.testing.assert_allclose(embedding.weights[position], first.weights, atol=1e-4)


def test_the_same_seed_gives_the_same_bits(mosaic):
    first, again = (mosaic.embed(mosaic.fit(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.weights, again.weights)


def test_a_cell_is_embedded_by_itself(mosaic):
    space = mosaic.fit(shared=True)
    all_cells = mosaic.embed(space, shared=True)
    cell = {"atac": mosaic.views["atac"][-1:]}
    alone = embed_cells(space, cell, {"atac": np.array([0])}, 1, shared={"atac": mosaic.shared["atac"][-1:]})
    np.testing.assert_allclose(alone.z[0], all_cells.z[mosaic.cell["atac"][-1]], atol=1e-5)
    # without shared coordinates, the regressions on paired cells predict the missing modality
    assert np.isfinite(embed_cells(space, cell, {"atac": np.array([0])}, 1).z).all()


def test_three_modalities_joined_by_a_chain():
    have = {"rna": np.arange(0, 300), "atac": np.arange(150, 450), "adt": np.arange(300, 600)}
    cells = Mosaic(have)
    space = cells.fit()
    assert space.predictor.paths["rna"]["adt"] == ("atac", "adt")
    embedding = cells.embed(space)
    parts = split_modalities(space, embedding.z)
    lacking = ~embedding.observed[:, 2] & ~embedding.observed[:, 1]
    true = cells.full["adt"][lacking]
    assert np.square(parts["adt"][lacking] - true).sum() < 0.5 * np.square(true - cells.views["adt"].mean(0)).sum()
    assert _purity(embedding.z, cells.kind) > 0.8


def test_a_modality_without_paired_cells_needs_a_shared_space():
    cells = Mosaic({"rna": np.arange(200), "atac": np.arange(200), "adt": np.arange(200, 400)})
    with pytest.raises(ValueError, match="'adt'.*coordinates that all share"):
        cells.fit()
    embedding = cells.embed(cells.fit(shared=True), shared=True)
    assert np.isfinite(embedding.z).all()
    assert _purity(embedding.z, cells.kind) > 0.7


@pytest.mark.parametrize("n_paired", [1, 2, 3, 5, 19])
@pytest.mark.parametrize("shared", [True, False])
def test_few_pairs_raise_no_error(n_paired, shared):
    cells = Mosaic({"rna": np.arange(60), "atac": np.r_[0:n_paired, 60:100]})
    embedding = cells.embed(cells.fit(shared=shared), shared=shared)
    assert np.isfinite(embedding.z).all()


def test_a_batch_that_lacks_a_modality_and_duplicate_cells():
    cells = Mosaic(_mosaic(0.5))
    cells.batch[:] = np.arange(N) >= N * 3 // 4
    for m in cells.views:
        cells.views[m][5:25] = cells.views[m][5]
    embedding = cells.embed(cells.fit())
    assert np.isfinite(embedding.z).all()
    np.testing.assert_allclose(embedding.z[5:25], np.tile(embedding.z[5], (20, 1)), atol=1e-5)


def test_a_fitted_space_can_be_saved(mosaic):
    space = mosaic.fit(shared=True)
    tensors: dict[str, np.ndarray] = {}
    again = unpack(pack(space, "joint", tensors), tensors, state_classes(JointSpace))
    np.testing.assert_array_equal(mosaic.embed(again, shared=True).z, mosaic.embed(space, shared=True).z)
    assert max(len(x) for x in tensors.values()) <= 300


def test_bad_input_is_named(paired):
    with pytest.raises(ValueError, match="at least two modalities"):
        fit_joint_space({"rna": paired.full["rna"]}, {"rna": np.arange(N)}, paired.batch)
    space = paired.fit()
    with pytest.raises(ValueError, match="'adt' is not in the joint space"):
        embed_cells(space, {"adt": paired.full["rna"]}, {"adt": np.arange(N)}, N)
    with pytest.raises(ValueError, match="'rna' has 6 coordinates.* 8"):
        embed_cells(space, {"rna": paired.full["atac"]}, {"rna": np.arange(N)}, N)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), pattern=st.lists(st.integers(1, 7), min_size=20, max_size=60))
def test_any_pattern_of_modalities_gives_finite_cells(seed, pattern):
    code = np.array([7, *pattern])
    have = {m: np.flatnonzero(code & bit) for m, bit in (("rna", 1), ("atac", 2), ("adt", 4))}
    cells = Mosaic(have, seed)
    cells.n, cells.batch = len(code), np.resize(cells.batch, len(code))
    embedding = cells.embed(cells.fit())
    assert embedding.z.shape == (len(code), sum(WIDTH.values()))
    assert np.isfinite(embedding.z).all()
    np.testing.assert_array_equal(embedding.observed, (code[:, None] & np.array([1, 2, 4])) > 0)


def test_the_corrected_representation_of_a_modality_has_its_scale():
    rng = np.random.default_rng(0)
    x = (5 + 40 * np.eye(3, 6)[rng.integers(3, size=300)] + 4 * rng.normal(size=(300, 6))).astype(np.float32)
    # each modality predicts the other, so that nothing is lost but the scale
    own, cells = {"rna": x, "atac": 0.01 * x}, {"rna": np.arange(300), "atac": np.arange(300)}
    space = fit_joint_space(own, cells, np.zeros(300, np.int64))
    corrected = split_modalities(space, embed_cells(space, own, cells, 300).z)
    for name, values in own.items():
        centered = values - values.mean(axis=0)
        slope = (corrected[name] - corrected[name].mean(axis=0)).ravel() @ centered.ravel() / np.square(centered).sum()
        assert abs(slope - 1) < 0.05
        assert np.allclose(corrected[name].mean(axis=0), values.mean(axis=0), atol=0.05 * centered.std())
