"""Each term of the objective against its formula, written out in NumPy."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from muport.integration.vae import _losses
from muport.integration.vae._losses import Objective

TERMS = ("clust", "center", "repulse", "margin", "sup", "cons")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(11, 4)), rng.normal(size=(3, 4))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def logits_of(z: np.ndarray, prototypes: np.ndarray, tau: float = 0.08) -> np.ndarray:
    return unit(z) @ unit(prototypes).T / tau


def test_equation_1(made):
    mu, logvar = made[0], made[0][::-1] * 0.3
    prior = np.array([0.5, 1.0, 2.0, 3.0])
    value = _losses.loss_kl(*tensors(mu, logvar.copy(), prior))
    # E_q[log q - log p] by its definition, over many draws of q
    rng = np.random.default_rng(1)
    draws = mu[0] + np.exp(logvar[0] / 2) * rng.normal(size=(200_000, 4))
    q = multivariate_normal(mu[0], np.diag(np.exp(logvar[0]))).logpdf(draws)
    assert float(value[0]) == pytest.approx(
        (q - multivariate_normal(np.zeros(4), np.diag(prior)).logpdf(draws)).mean(), rel=1e-2
    )
    assert np.isclose(_losses.loss_kl(*tensors(np.zeros((1, 4)), np.log(prior)[None], prior)), 0)


def test_the_reconstruction_is_a_gaussian_likelihood(made):
    x, mean = made[0], made[0][::-1].copy()
    value = _losses.loss_reconstruction(*tensors(x, mean)).numpy()
    expected = np.array([-multivariate_normal(m, np.eye(4) * 2).logpdf(row) for row, m in zip(x, mean, strict=True)])
    np.testing.assert_allclose(np.diff(value), np.diff(expected), atol=1e-9)


def test_equations_2_and_3(made):
    z, prototypes = made
    value = _losses.cosine_logits(*tensors(z, 7 * prototypes), 0.08).numpy()
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.08 for b in prototypes] for a in z]
    np.testing.assert_allclose(value, expected)


def test_equation_4(made):
    q = softmax(logits_of(*made), axis=1)
    f = q.sum(axis=0)
    expected = np.array([[q[i, k] ** 2 / f[k] / sum(q[i] ** 2 / f) for k in range(3)] for i in range(11)])
    np.testing.assert_allclose(_losses.compute_target(torch.from_numpy(q)), expected)


def test_no_gradient_passes_through_the_target(made):
    q = torch.softmax(torch.from_numpy(logits_of(*made)).requires_grad_(), dim=1)
    assert not _losses.compute_target(q).requires_grad


def test_equation_5(made):
    logits = logits_of(*made)
    p = softmax(2 * logits, axis=1)
    expected = np.mean([sum(p[i] * np.log(p[i] / softmax(logits, axis=1)[i])) for i in range(11)])
    assert float(_losses.loss_clust(*tensors(logits, p))) == pytest.approx(expected)


def test_equation_6(made):
    z, prototypes = made
    p = softmax(logits_of(z, prototypes), axis=1)
    expected = np.mean([
        sum(p[i, k] * np.sum((unit(z)[i] - unit(prototypes)[k]) ** 2) for k in range(3)) for i in range(11)
    ])  # fmt: skip
    assert float(_losses.loss_center(*tensors(z, prototypes, p))) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [-0.5, 0.1])
def test_equation_7(made, limit):
    c = unit(made[1])
    expected = np.mean([max(0, c[i] @ c[j] - limit) ** 2 for i in range(3) for j in range(3) if i != j])
    assert expected > 0 or limit > 0
    assert float(_losses.loss_repulse(torch.from_numpy(made[1]), limit)) == pytest.approx(expected)
    assert float(_losses.loss_repulse(torch.from_numpy(made[1][:1]), limit)) == 0


def test_equation_8(made):
    logits = logits_of(*made)
    q = softmax(logits, axis=1)
    losses = []
    for i in range(11):
        if q[i].max() >= 0.9:
            own = q[i].argmax()
            shifted = logits[i].copy()
            shifted[own] = (logits[i, own] * 0.08 - 0.15) / 0.08  # (cos - m) / tau
            losses.append(logsumexp(shifted) - shifted[own])
    assert 0 < len(losses) < 11
    assert float(_losses.loss_margin(torch.from_numpy(logits), 0.9, 0.15, 0.08)) == pytest.approx(np.mean(losses))
    assert float(_losses.loss_margin(torch.from_numpy(0 * logits), 0.9, 0.15, 0.08)) == 0


def test_equation_9(made):
    logits = logits_of(*made)
    label = np.array([0, 1, 2, -1, -1, 1, 0, -1, 2, 2, 1])
    log_q = np.log(softmax(logits, axis=1))
    losses = []
    for i in np.flatnonzero(label >= 0):
        smooth = np.full(3, 0.1 / 3)
        smooth[label[i]] += 0.9
        losses.append(-smooth @ log_q[i])
    assert float(_losses.loss_sup(*tensors(logits, label), 0.1)) == pytest.approx(np.mean(losses))
    assert float(_losses.loss_sup(*tensors(logits, np.full(11, -1)), 0.1)) == 0


def test_equation_10(made):
    z, prototypes = made
    a, b = softmax(logits_of(z, prototypes), axis=1), softmax(logits_of(z[::-1], prototypes), axis=1)
    expected = np.mean([0.5 * (a[i] @ np.log(a[i] / b[i]) + b[i] @ np.log(b[i] / a[i])) for i in range(11)])
    first, second = tensors(logits_of(z, prototypes), logits_of(z[::-1], prototypes))
    assert float(_losses.loss_cons(first, second)) == pytest.approx(expected)


@pytest.mark.parametrize(("epoch", "center", "sup"), [(0, 0, 0), (2, 0.25, 0.4), (5, 0.625, 1), (8, 1, 1), (90, 1, 1)])
def test_equation_11(epoch, center, sup):
    assert _losses.compute_ramps(epoch) == (center, sup)
    weights = Objective(lam_clust=2, lam_center=3, lam_repulse=5, lam_margin=7, lam_sup=11, lam_cons=13)
    value = {name: torch.tensor(float(10**i)) for i, name in enumerate(("vae", *TERMS))}
    expected = 1 + 2e1 + center * 3e2 + 5e3 + sup * 7e4 + sup * 11e5 + 13e6
    assert float(_losses.sum_terms(value, weights, epoch)) == pytest.approx(expected)


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_of_0_switches_a_term_off(name):
    value = {term: torch.tensor(float(term == name)) for term in ("vae", *TERMS)}
    assert float(_losses.sum_terms(value, Objective(), 100)) > 0
    assert float(_losses.sum_terms(value, Objective(**{f"lam_{name}": 0.0}), 100)) == 0


def test_the_moving_average(made):
    z, prototypes = made
    p = softmax(logits_of(z, prototypes), axis=1)
    p[:, 2] = 0
    direction_sum, mass = p.T @ unit(z), p.sum(axis=0)
    value = _losses.update_prototypes(*tensors(prototypes, direction_sum, mass), 0.95).numpy()
    for k in (0, 1):
        moved = 0.95 * unit(prototypes)[k] + 0.05 * sum(p[i, k] * unit(z)[i] for i in range(11)) / sum(p[:, k])
        np.testing.assert_allclose(value[k], moved / np.linalg.norm(moved))
    # no cell is assigned to the third
    np.testing.assert_allclose(value[2], unit(prototypes)[2])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6), k=st.integers(1, 5), scale=st.sampled_from([0.0, 1e-20, 1.0, 1e15]), seed=st.integers(0, 99)
)
def test_finite_with_finite_gradients(n, k, scale, seed):
    rng = np.random.default_rng(seed)
    first, second = (torch.from_numpy((scale * rng.normal(size=(n, 3))).astype(np.float32)) for _ in range(2))
    prototypes = torch.from_numpy(rng.normal(size=(k, 3)).astype(np.float32)).requires_grad_()
    first.requires_grad_()
    z = (first + second) / 2
    logits = _losses.cosine_logits(z, prototypes, 0.08)
    p = _losses.compute_target(torch.softmax(logits, dim=1))
    label = torch.from_numpy(rng.integers(-1, k, n))
    losses = [
        _losses.loss_clust(logits, p),
        _losses.loss_center(z, prototypes, p),
        _losses.loss_repulse(prototypes, 0.1),
        _losses.loss_margin(logits, 0.8, 0.15, 0.08),
        _losses.loss_sup(logits, label, 0.1),
        _losses.loss_cons(_losses.cosine_logits(first, prototypes, 0.08), logits),
    ]
    torch.stack(losses).sum().backward()
    assert all(np.isfinite(loss.item()) and loss.item() > -1e-5 for loss in losses)
    assert bool(torch.isfinite(first.grad).all())
    assert bool(torch.isfinite(prototypes.grad).all())


@pytest.mark.parametrize("field", [field.name for field in fields(Objective)])
def test_constants_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}="):
        Objective(**{field: -1})
    with pytest.raises(ValueError, match=f"{field}="):
        Objective(**{field: float("nan")})


@pytest.mark.parametrize(
    ("field", "value"), [("proto_tau", 0), ("conf_thr", 1.1), ("n_prototypes", 0), ("n_prototypes", 2.5)]
)
def test_bounds(field, value):
    with pytest.raises(ValueError, match=f"{field}="):
        Objective(**{field: value})
