"""Training and reading the network: what the caller gets, and that nothing else changes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.preprocessing import QuantileTransformer

from muport.data._serialization import pack, state_classes, unpack
from muport.integration.vae._losses import Objective
from muport.integration.vae._network_fit import fit_network
from muport.integration.vae._networks import Posterior
from muport.integration.vae._trained_network import TrainedNetwork, refine
from muport.integration.vae._vae_options import TrainingOptions, VAEOptions
from muport.integration.vae._vae_training import ArraySplitter, _Minibatches
from muport.integration.vae._views import compute_batch_view, compute_quantile_view, fit_statistics

TINY = TrainingOptions(max_epochs=3, batch_size=64, accelerator="cpu")


def draw(n: int = 240, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of three types in two batches."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    y = 3 * np.eye(3, d)[kind] + rng.normal(size=(n, d))
    return y.astype(np.float32), rng.integers(2, size=n), kind


@pytest.fixture(scope="module")
def fitted():
    y, batch, kind = draw()
    return y, batch, kind, fit_network(y, batch, 2, training=TINY)


def test_shapes_and_history(fitted):
    y, batch, _, fit = fitted
    z = refine(fit.network, y, batch)
    assert z.shape == (240, fit.network.n_latent)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert {"train_loss", "validation_loss", "elbo_train", "loss_clust_train", "loss_cons_validation"} <= set(
        fit.history
    )
    assert all(len(value) == 3 and np.isfinite(value).all() for value in fit.history.values())


def test_the_same_seed_gives_the_same_bits_and_another_not(fitted):
    y, batch, _, fit = fitted
    torch.manual_seed(5)
    again = fit_network(y, batch, 2, training=TINY).network
    assert all((again.weights[name] == value).all() for name, value in fit.network.weights.items())
    np.testing.assert_array_equal(refine(again, y, batch), refine(fit.network, y, batch))
    other = fit_network(y, batch, 2, training=replace(TINY, random_state=1)).network
    assert any((other.weights[name] != value).any() for name, value in fit.network.weights.items())


def test_the_global_generators_and_threads_stay_as_they_were(fitted):
    y, batch, _, fit = fitted
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state(), torch.get_num_threads())  # noqa: NPY002
    network = fit_network(y, batch, 2, training=replace(TINY, max_epochs=1)).network
    refine(network, y, batch)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert (torch.get_rng_state() == before[2]).all()
    assert torch.get_num_threads() == before[3]
    assert torch.is_grad_enabled()


def test_nothing_is_written_where_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y, batch, _ = draw(120)
    fit_network(y, batch, 2, training=replace(TINY, trainer_kwargs={"enable_checkpointing": True}))
    assert list(tmp_path.iterdir()) == []


def test_a_cell_depends_on_nothing_but_itself(fitted):
    y, batch, _, fit = fitted
    z = refine(fit.network, y, batch)
    np.testing.assert_allclose(refine(fit.network, y[7:8], batch[7:8]), z[7:8], atol=1e-5)
    np.testing.assert_allclose(refine(fit.network, y[::-1], batch[::-1]), z[::-1], atol=1e-5)


def test_the_read_out_is_the_product_of_both_posteriors(fitted):
    y, batch, _, fit = fitted
    network = fit.network
    views = compute_quantile_view(y, network.statistics), compute_batch_view(y, batch, network.statistics)
    linear = (y - network.statistics.center) / network.statistics.scale @ network.linear[0]
    means, precisions = [], []
    for i, view in enumerate(views):
        posterior = Posterior("mlp", 6, network.n_latent)
        prefix = f"posteriors.{i}."
        own = {k.removeprefix(prefix): torch.tensor(v) for k, v in network.weights.items() if k.startswith(prefix)}
        posterior.load_state_dict(own)
        with torch.no_grad():
            mean, logvar = (out.numpy() for out in posterior(torch.tensor(view), torch.tensor(linear)))
        means.append(mean)
        precisions.append(np.exp(-logvar))
    assert np.std(precisions[0] / precisions[1]) > 0
    expected = (means[0] * precisions[0] + means[1] * precisions[1]) / (precisions[0] + precisions[1])
    typical = np.sqrt(network.weights["prior"].sum())
    expected *= network.scale * np.sqrt(typical / np.linalg.norm(expected, axis=1, keepdims=True))
    np.testing.assert_allclose(refine(network, y, batch), expected, rtol=1e-3, atol=1e-4)


def test_an_unknown_batch_has_the_statistics_of_all(fitted):
    y, batch, _, fit = fitted
    statistics = fit.network.statistics
    unknown = compute_batch_view(y, np.full(240, -1), statistics)
    np.testing.assert_allclose(unknown, np.clip((y - statistics.location[-1]) / statistics.spread[-1], -5, 5))
    assert np.isfinite(refine(fit.network, y, np.full(240, -1))).all()
    np.testing.assert_array_equal(refine(fit.network, y, np.full(240, -1)), refine(fit.network, y, np.full(240, 9)))


def test_packed_and_unpacked(fitted):
    y, batch, _, fit = fitted
    tensors: dict[str, np.ndarray] = {}
    saved = pack(fit.network, "network", tensors)
    loaded = unpack(saved, tensors, state_classes(TrainedNetwork))
    assert loaded.objective == Objective()
    np.testing.assert_array_equal(refine(loaded, y, batch), refine(fit.network, y, batch))


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("encoder", ["mlp", "transformer"])
def test_labels_for_none_some_and_all(known, encoder):
    y, batch, kind = draw()
    label = np.where(np.random.default_rng(1).random(240) < known, kind, -1)
    fit = fit_network(y, batch, 2, label=label, options=VAEOptions(encoder=encoder), training=TINY)
    assert np.isfinite(refine(fit.network, y, batch)).all()
    assert (fit.history["loss_sup_train"][-1] > 0) == (known > 0)


def test_labels_may_outnumber_the_prototypes():
    y, batch, _ = draw()
    label = np.arange(240) % 9
    fit = fit_network(y, batch, 2, label=label, options=VAEOptions(objective=Objective(n_prototypes=2)), training=TINY)
    assert len(fit.network.weights["prototypes"]) == 9


def test_labels_draw_their_cells_together():
    y, batch, kind = draw(400)
    off = {f"lam_{name}": 0.0 for name in ("clust", "center", "repulse", "margin", "cons")}
    label = np.where(np.arange(400) % 2 == 0, kind, -1)

    def apart(lam_sup: float) -> float:
        options = VAEOptions(objective=Objective(lam_sup=lam_sup, **off))
        training = replace(TINY, max_epochs=12, lr=2e-2)
        network = fit_network(y, batch, 2, label=label, options=options, training=training).network
        z = refine(network, y, batch)
        held = label < 0
        means = np.stack([z[held & (kind == c)].mean(axis=0) for c in range(3)])
        return float(np.var(means, axis=0).sum() / (z[held] - means[kind[held]]).var(axis=0).sum())

    assert apart(5.0) > 1.2 * apart(0.0)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_few_cells(n):
    y, batch, _ = draw(n)
    network = fit_network(y, np.zeros(n, int), 1, training=TINY).network
    assert np.isfinite(refine(network, y, np.zeros(n, int))).all()


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20])
def test_any_number_of_steps(steps):
    y, batch, _ = draw(60)
    fit = fit_network(y, batch, 2, training=replace(TINY, max_epochs=steps))
    assert np.isfinite(refine(fit.network, y, batch)).all()


def test_a_last_minibatch_of_one_cell_and_coordinates_that_do_not_vary():
    y, batch, _ = draw(65)
    y[:, 2] = 4.0
    network = fit_network(y, batch, 2, training=TINY).network
    assert np.isfinite(refine(network, y, batch)).all()


def test_two_modalities():
    y, batch, kind = draw()
    second = (y[:, :4] @ np.random.default_rng(3).normal(size=(4, 4)) + 0.1).astype(np.float32)
    network = fit_network(y, batch, 2, second=second, options=VAEOptions(n_latent=3), training=TINY).network
    z = refine(network, y, batch, second=second)
    assert z.shape == (240, 3)
    assert not np.allclose(z, refine(network, y, batch, second=second[::-1]))
    with pytest.raises(ValueError, match="second="):
        refine(network, y, batch)
    with pytest.raises(ValueError, match="second has shape"):
        refine(network, y, batch, second=second[:, :2])


def test_training_lowers_the_loss_and_stops_early():
    y, batch, _ = draw(400)
    fit = fit_network(y, batch, 2, training=replace(TINY, max_epochs=120, batch_size=400, lr=2e-2))
    loss = fit.history["validation_loss"]
    assert 8 < len(loss) < 120
    assert fit.history["train_loss"][-1] < fit.history["train_loss"][8]


def test_the_best_epoch_is_kept():
    y, batch, _ = draw(400)
    training = replace(TINY, max_epochs=14, lr=0.05, batch_size=360)
    last = fit_network(y, batch, 2, training=training)
    with_best = replace(training, trainer_kwargs={"enable_checkpointing": True})
    best = fit_network(y, batch, 2, training=with_best)
    np.testing.assert_array_equal(last.history["validation_loss"], best.history["validation_loss"])
    differ = any((last.network.weights[k] != v).any() for k, v in best.network.weights.items())
    assert differ == (int(np.argmin(last.history["validation_loss"][8:])) + 9 < 14)


def test_view_1_is_that_of_scikit_learn():
    y, batch, _ = draw(600, 3)
    statistics = fit_statistics(y, batch, 2)
    n_quantiles = len(statistics.quantiles)
    oracle = QuantileTransformer(n_quantiles=n_quantiles, output_distribution="normal", subsample=None).fit(y)
    new = draw(50, 3, seed=4)[0]
    np.testing.assert_allclose(compute_quantile_view(new, statistics), np.clip(oracle.transform(new), -5, 5), atol=2e-3)
    assert np.abs(compute_quantile_view(1e6 * new, statistics)).max() <= 5


def test_view_2_shrinks_the_statistics():
    y, batch, _ = draw(3000, 2)
    y[batch == 1] = 2 * y[batch == 1] + 3
    statistics = fit_statistics(y, batch, 3)
    mad = 1 / norm.ppf(0.75)
    center = np.median(y, axis=0)
    spread = mad * np.median(np.abs(y - center), axis=0)
    own = y[batch == 1]
    weight = 0.9 * len(own) / (len(own) + 100)
    own_spread = mad * np.median(np.abs(own - np.median(own, axis=0)), axis=0)
    np.testing.assert_allclose(
        statistics.location[1], (1 - weight) * center + weight * np.median(own, axis=0), rtol=1e-3
    )
    np.testing.assert_allclose(statistics.spread[1], (1 - weight) * spread + weight * own_spread, rtol=1e-3)
    # the third batch has no cell
    np.testing.assert_allclose(statistics.location[2], center, rtol=1e-5)


def test_each_cell_is_seen_once_in_an_epoch():
    data = ArraySplitter({"x": torch.arange(100)}, 32, seed=0, held_out=0.1)
    seen = [torch.cat([part["x"] for part in data.train_dataloader()]).sort().values for _ in range(2)]
    assert (seen[0].numpy() == data.train_idx).all()
    held = torch.cat([part["x"] for part in data.val_dataloader()])
    assert (held.numpy() == data.val_idx).all()
    assert len(held) == 10
    assert not set(data.val_idx) & set(data.train_idx)
    rows = _Minibatches(torch.arange(100), 32, torch.Generator().manual_seed(0))
    assert not torch.equal(torch.cat(list(rows)), torch.cat(list(rows)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full((240, 6), np.nan)}, "y"),
        ({"batch": np.zeros(3, int)}, "batch has shape"),
        ({"batch": np.full(240, 2)}, "n_batches=2"),
        ({"label": np.full(240, 0.5)}, "label has shape"),
        ({"second": np.zeros((3, 2))}, "second has 3 rows"),
        ({"options": {"encoder": "cnn"}}, "encoder='cnn'"),
        ({"options": {"n_latent": 7}}, "n_latent=7"),
        ({"training": {"batch_size": 0}}, "batch_size=0"),
        ({"training": {"lr": 0.0}}, "lr=0"),
    ],
)
def test_bad_input_is_named(change, message):
    y, batch, _ = draw()
    arguments = {"y": y, "batch": batch, "n_batches": 2} | change

    def fit():
        options = VAEOptions(**arguments.pop("options", {}))
        training = TrainingOptions(**arguments.pop("training", {}))
        fit_network(**arguments, options=options, training=training)

    with pytest.raises((ValueError, TypeError), match=message):
        fit()


def test_cells_of_another_width_are_refused(fitted):
    y, batch, _, fit = fitted
    with pytest.raises(ValueError, match="y has 5 coordinates; the network was trained on 6"):
        refine(fit.network, y[:, :5], batch)
    with pytest.raises(ValueError, match="without a second"):
        refine(fit.network, y, batch, second=y)


def test_weights_that_are_not_finite_are_refused():
    y, batch, _ = draw()
    with pytest.raises(ValueError, match="lower lr"):
        fit_network(y, batch, 2, training=replace(TINY, lr=1e30))


def test_the_input_is_left_alone(fitted):
    y, batch, _, fit = fitted
    before = y.copy()
    refine(replace(fit.network), y, batch)
    np.testing.assert_array_equal(y, before)


def test_order_of_cells_and_names_of_labels_have_no_effect():
    y, batch, kind = draw()
    label = np.where(np.arange(240) % 3 == 0, -1, kind)
    order, renamed = np.random.default_rng(1).permutation(240), np.array([2, 0, 1, -1])
    fit = fit_network(y, batch, 2, label=label, training=TINY)
    other = fit_network(y[order], batch[order], 2, label=renamed[label[order]], training=TINY)
    assert np.array_equal(refine(fit.network, y, batch)[order], refine(other.network, y[order], batch[order]))
