"""The scvi-tools module: its passes, what the loss is made of, and its prototypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch.nn.functional import normalize

from muport.integration.vae import _losses
from muport.integration.vae._losses import Objective
from muport.integration.vae._vae_module import DualViewVAE

N, D, D2, L, B, K = 6, 5, 4, 3, 2, 4


def data(seed: int = 0, n: int = N) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    views = {"view_0": normal(n, D), "view_1": normal(n, D2), "target_0": normal(n, D), "target_1": normal(n, D2)}
    linear = {"linear_0": normal(n, L), "linear_1": normal(n, L)}
    return views | linear | {"batch": torch.arange(n) % B, "label": torch.arange(n) % 3 - 1}


def build(encoder: str = "mlp", **objective: float) -> DualViewVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DualViewVAE((D, D2), L, B, K, encoder, Objective(**objective))
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_it_is_a_module_of_scvi_tools():
    inferred, generated, loss = build().eval()(data())
    assert isinstance(build(), BaseModuleClass)
    assert isinstance(loss, LossOutput)
    assert inferred["z_0"].shape == inferred["logvar_1"].shape == (N, L)
    assert generated["mean_0"].shape == (N, D)
    assert generated["mean_1"].shape == (N, D2)
    assert loss.n_obs_minibatch == N


@pytest.mark.parametrize("encoder", ["mlp", "transformer"])
def test_before_training_the_latent_is_the_linear_part(encoder):
    module = DualViewVAE((D, D2), L, B, K, encoder).eval()
    cells = data()
    inferred = module(cells)[0]
    torch.testing.assert_close(inferred["mu_0"], cells["linear_0"])
    torch.testing.assert_close(inferred["mu_1"], cells["linear_1"])
    assert float(inferred["logvar_0"].detach().std()) == 0


@pytest.mark.parametrize("epoch", [0, 3, 20])
def test_the_loss_is_the_sum_of_its_terms(epoch):
    module = build(beta=0.3, lam_clust=0.7, conf_thr=0.4).eval()
    module.prior.fill_(1.7)
    cells = data()
    inferred, generated, loss = module(cells, loss_kwargs={"epoch": epoch})
    constants, prototypes = module.objective, module.prototypes
    rec = [_losses.loss_reconstruction(cells[f"target_{i}"], generated[f"mean_{i}"]) for i in (0, 1)]
    kl = [_losses.loss_kl(inferred[f"mu_{i}"], inferred[f"logvar_{i}"], module.prior) for i in (0, 1)]
    z = (inferred["z_0"] + inferred["z_1"]) / 2
    logits = [_losses.cosine_logits(x, prototypes, 0.08) for x in (z, inferred["z_0"], inferred["z_1"])]
    p = _losses.compute_target(torch.softmax(logits[0], dim=1))
    expected = (
        (rec[0] + rec[1] + 0.3 * (kl[0] + kl[1])).mean() / 2
        + 0.7 * _losses.loss_clust(logits[0], p)
        + min(1, epoch / 8) * constants.lam_center * _losses.loss_center(z, prototypes, p)
        + constants.lam_repulse * _losses.loss_repulse(prototypes, constants.repulse_target)
        + min(1, epoch / 5) * constants.lam_margin * _losses.loss_margin(logits[0], 0.4, 0.15, 0.08)
        + min(1, epoch / 5) * constants.lam_sup * _losses.loss_sup(logits[0], cells["label"], 0.1)
        + constants.lam_cons * _losses.loss_cons(logits[1], logits[2])
    )
    torch.testing.assert_close(loss.loss, expected)
    assert {f"loss_{name}" for name in ("vae", "clust", "center", "repulse", "margin", "sup", "cons")} == set(
        loss.extra_metrics
    )


def test_samples_follow_the_posterior():
    module = build().train()
    cells = {name: value[:1].repeat(20_000, *[1] * (value.ndim - 1)) for name, value in data().items()}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        out = module.inference(**module._get_inference_input(cells))
    error = (out["z_0"] - out["mu_0"]) / (0.5 * out["logvar_0"]).exp()
    assert torch.allclose(error.mean(0), torch.zeros(L), atol=0.03)
    assert torch.allclose(error.std(0), torch.ones(L), atol=0.03)


@pytest.mark.parametrize("encoder", ["mlp", "transformer"])
@pytest.mark.parametrize("n", [1, N])
def test_every_parameter_has_a_finite_gradient(encoder, n):
    module = build(encoder, conf_thr=0.0).train()
    module(data(n=n), loss_kwargs={"epoch": 10})[2].loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert n == 1 or "transformer" in name or parameter.grad.abs().sum() > 0, name


def test_the_decoder_knows_the_batch():
    module, cells = build().eval(), data()
    other = cells | {"batch": 1 - cells["batch"]}
    first, second = module(cells), module(other)
    torch.testing.assert_close(first[0]["z_0"], second[0]["z_0"])
    assert not torch.allclose(first[1]["mean_0"], second[1]["mean_0"])


def test_the_prototypes_follow_their_cells():
    module, cells = build().train(), data()
    assert module.assignment_sums is None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inferred = module(cells)[0]
    z = (inferred["z_0"] + inferred["z_1"]).detach() / 2
    before = module.prototypes.detach().clone()
    p = _losses.compute_target(torch.softmax(_losses.cosine_logits(z, before, 0.08), dim=1))
    sums = module.assignment_sums
    assert sums is not None
    torch.testing.assert_close(sums[0], p.T @ normalize(z, dim=1))
    module.move_prototypes(*sums)
    torch.testing.assert_close(module.prototypes.detach(), _losses.update_prototypes(before, *sums, 0.95))
    np.testing.assert_allclose(module.prototypes.detach().norm(dim=1).numpy(), 1, rtol=1e-5)
