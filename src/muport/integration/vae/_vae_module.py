"""The dual-view VAE as a scvi-tools module: posteriors of two views, prototypes in the latent space, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.nn.functional import normalize, softmax

from muport.integration.vae._losses import (
    Objective,
    compute_target,
    cosine_logits,
    loss_center,
    loss_clust,
    loss_cons,
    loss_kl,
    loss_margin,
    loss_reconstruction,
    loss_repulse,
    loss_sup,
    sum_terms,
    update_prototypes,
)
from muport.integration.vae._networks import Decoder, Posterior

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["DualViewVAE"]


class DualViewVAE(BaseModuleClass):  # type: ignore[misc]
    """VAE with two views of each cell, a posterior for each view in one latent space, and K prototypes in that space.

    The mean of a posterior is the linear part of its view plus a network that starts at 0, so that before training the
    latent coordinates are the linear part.

    - `n_features`: Number of decoded coordinates of each view.
    - `n_prototypes`: Number of prototypes, K.
    - `encoder`: ``"mlp"`` or ``"transformer"``.
    - `objective`: Weights and constants of the loss.

    Examples
    --------
    >>> import torch
    >>> from muport.integration.vae._vae_module import DualViewVAE
    >>> module = DualViewVAE((5, 5), n_latent=2, n_batches=1, n_prototypes=3)
    >>> view, linear = torch.zeros(4, 5), torch.zeros(4, 2)
    >>> module.posteriors[0](view, linear)[0].shape
    torch.Size([4, 2])
    """

    prior: Tensor

    def __init__(
        self,
        n_features: tuple[int, int],
        n_latent: int,
        n_batches: int,
        n_prototypes: int,
        encoder: str = "mlp",
        objective: Objective = Objective(),
    ) -> None:
        super().__init__()
        self.objective = objective
        self.posteriors = nn.ModuleList([Posterior(encoder, n, n_latent) for n in n_features])
        self.decoders = nn.ModuleList([Decoder(n_latent, n, n_batches) for n in n_features])
        self.prototypes = nn.Parameter(normalize(torch.randn(n_prototypes, n_latent), dim=1))
        self.register_buffer("prior", torch.ones(n_latent))
        #: Sums (K, d) of assigned directions and masses (K,) of the last training minibatch, for `move_prototypes`.
        self.assignment_sums: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def start(self, prototypes: Tensor, prior: Tensor, linear: Sequence[Tensor]) -> None:
        """Set what is known before training.

        - `prototypes`: (K, n_latent) directions.
        - `prior`: (n_latent,) variance of the prior.
        - `linear`: (d, n_latent) linear part of each decoder.
        """
        self.prototypes.copy_(normalize(prototypes, dim=1))
        self.prior.copy_(prior)
        for decoder, weight in zip(cast("Iterable[Decoder]", self.decoders), linear, strict=True):
            decoder.start(weight)

    @auto_move_data  # type: ignore[untyped-decorator]
    def forward(
        self, tensors: Mapping[str, Tensor], loss_kwargs: Mapping[str, Any] | None = None, **_: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], LossOutput]:
        """Compute posteriors, reconstructions and loss of a minibatch, as the training plan of scvi-tools expects."""
        inferred = self.inference(**self._get_inference_input(tensors))
        generated = self.generative(**self._get_generative_input(tensors, inferred))
        return inferred, generated, self.loss(tensors, inferred, generated, **(loss_kwargs or {}))

    def _get_inference_input(self, tensors: Mapping[str, Tensor], **_: Any) -> dict[str, Any]:
        return {name: (tensors[f"{name}_0"], tensors[f"{name}_1"]) for name in ("view", "linear")}

    def _get_generative_input(
        self, tensors: Mapping[str, Tensor], inference_outputs: Mapping[str, Tensor], **_: Any
    ) -> dict[str, Any]:
        return {"z": (inference_outputs["z_0"], inference_outputs["z_1"]), "batch": tensors["batch"]}

    def inference(self, view: tuple[Tensor, Tensor], linear: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Compute the posterior means, log variances and samples (n, n_latent) of both views.

        - `view`: (n, d) views.
        - `linear`: (n, n_latent) linear part of each mean.
        """
        out: dict[str, Tensor] = {}
        for i, posterior in enumerate(self.posteriors):
            mu, logvar = posterior(view[i], linear[i])
            noise = torch.randn_like(mu) if self.training else torch.zeros_like(mu)
            out |= {f"mu_{i}": mu, f"logvar_{i}": logvar, f"z_{i}": mu + noise * (0.5 * logvar).exp()}
        return out

    def generative(self, z: tuple[Tensor, Tensor], batch: Tensor) -> dict[str, Tensor]:
        """Decode the mean of each view from its latent.

        - `z`: (n, n_latent) latents.
        - `batch`: (n,) batches.
        """
        return {f"mean_{i}": decode(z[i], batch) for i, decode in enumerate(self.decoders)}

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: Mapping[str, Tensor],
        generative_outputs: Mapping[str, Tensor],
        epoch: int = 0,
    ) -> LossOutput:
        """Compute the objective of a minibatch (Eq. 11).

        - `tensors`, `inference_outputs`, `generative_outputs`: Data, and the outputs of the two passes.
        - `epoch`: Number of finished epochs, for the ramps.
        """
        rec, kl = self._compute_elbo(tensors, inference_outputs, generative_outputs)
        terms = {"vae": (rec + self.objective.beta * kl).mean()} | self._compute_prototype_terms(
            tensors, inference_outputs
        )
        logged = {f"loss_{name}": value.detach() for name, value in terms.items()}
        return LossOutput(
            sum_terms(terms, self.objective, epoch), reconstruction_loss=rec, kl_local=self.objective.beta * kl,
            extra_metrics=logged,
        )  # fmt: skip

    def _compute_elbo(
        self, tensors: Mapping[str, Tensor], inferred: Mapping[str, Tensor], generated: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute the reconstruction error and the divergence (n,), each the mean over both views (Eq. 1)."""
        rec = [loss_reconstruction(tensors[f"target_{i}"], generated[f"mean_{i}"]) for i in (0, 1)]
        kl = [loss_kl(inferred[f"mu_{i}"], inferred[f"logvar_{i}"], self.prior) for i in (0, 1)]
        return torch.stack(rec).mean(dim=0), torch.stack(kl).mean(dim=0)

    def _compute_prototype_terms(
        self, tensors: Mapping[str, Tensor], inferred: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        constants = self.objective
        logits_of_views = [cosine_logits(inferred[f"z_{i}"], self.prototypes, constants.proto_tau) for i in (0, 1)]
        z = (inferred["z_0"] + inferred["z_1"]) / 2
        logits = cosine_logits(z, self.prototypes, constants.proto_tau)
        p = compute_target(softmax(logits, dim=1))
        if self.training:
            self.assignment_sums = p.T @ normalize(z.detach(), dim=1), p.sum(dim=0)
        return {
            "clust": loss_clust(logits, p),
            "center": loss_center(z, self.prototypes, p),
            "repulse": loss_repulse(self.prototypes, constants.repulse_target),
            "margin": loss_margin(logits, constants.conf_thr, constants.cosface_m, constants.proto_tau),
            "sup": loss_sup(logits, tensors["label"], constants.label_eps),
            "cons": loss_cons(*logits_of_views),
        }

    @torch.no_grad()
    def move_prototypes(self, direction_sum: Tensor, mass: Tensor) -> None:
        """Move the prototypes toward their cells: an exponential moving average.

        - `direction_sum`, `mass`: `assignment_sums` of a minibatch, or their sums over all devices.
        """
        self.prototypes.copy_(update_prototypes(self.prototypes, direction_sum, mass, self.objective.proto_ema_m))
