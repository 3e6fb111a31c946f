"""The objective of the dual-view VAE with prototypes: each term is a function of tensors (VAE Eqs 1-11)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax

from muport._checks import check_numbers, check_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "Objective",
    "cosine_logits",
    "compute_ramps",
    "compute_target",
    "loss_center",
    "loss_clust",
    "loss_cons",
    "loss_kl",
    "loss_margin",
    "loss_reconstruction",
    "loss_repulse",
    "loss_sup",
    "sum_terms",
    "update_prototypes",
]

_CENTER_EPOCHS, _SUP_EPOCHS = 8, 5  # epochs after which a term has its full weight
_TINY = 1e-12
_FRACTIONS = ("repulse_target", "conf_thr", "label_eps", "proto_ema_m")


@dataclass(frozen=True)
class Objective:
    """Weights and constants of the objective, named as in the paper.

    The published weights of clust, center, repulse and margin are a hundred times the defaults here, and the published
    beta is a tenth: with them, each type splits into prototypes.

    - `n_prototypes`: Number of prototypes K, at least 1. There are at least as many prototypes as labels, and, beyond
      that, at most a thirtieth of the cells.
    - `beta`: Weight of the Kullback-Leibler term (Eq. 1), at least 0.
    - `proto_tau`: Temperature of the cosine assignments (Eq. 2), above 0.
    - `lam_clust`, `lam_center`, `lam_repulse`, `lam_margin`, `lam_sup`, `lam_cons`: Weights of the terms (Eq. 11), at
      least 0; 0 switches a term off.
    - `repulse_target`: Cosine between two prototypes above which they repel each other (Eq. 7), 0..1.
    - `cosface_m`: Margin of the confident self-labels, as a cosine (Eq. 8), at least 0.
    - `conf_thr`: Probability from which a cell labels itself (Eq. 8), 0..1.
    - `label_eps`: Smoothing of the given labels (Eq. 9), 0..1.
    - `proto_ema_m`: Momentum of the moving average of the prototypes, 0..1; with 1 only the gradient moves them.
    """

    n_prototypes: int = 64
    beta: float = 1e-2
    proto_tau: float = 0.08
    lam_clust: float = 0.01
    lam_center: float = 0.01
    lam_repulse: float = 0.01
    repulse_target: float = 0.1
    lam_margin: float = 0.015
    cosface_m: float = 0.15
    conf_thr: float = 0.8
    lam_sup: float = 1.0
    label_eps: float = 0.1
    lam_cons: float = 1.5
    proto_ema_m: float = 0.95

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _FRACTIONS:
                check_numbers(0, 1, **{field.name: value})
            elif not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name}={value!r} must be a finite number of at least 0.")
        check_positive(proto_tau=self.proto_tau)
        if self.n_prototypes < 1 or self.n_prototypes != int(self.n_prototypes):
            raise ValueError(f"n_prototypes={self.n_prototypes!r} must be an integer of at least 1.")


def loss_reconstruction(x: Tensor, mean: Tensor) -> Tensor:
    """Mean squared error (n,) of the features: -log p(x | z) of Eq. 1 up to a constant, p Gaussian of variance d / 2.

    With this variance the weight of the reconstruction, beside the other terms, does not depend on the number of
    features.
    """
    return (x - mean).square().mean(dim=1)


def loss_kl(mu: Tensor, logvar: Tensor, prior: Tensor) -> Tensor:
    """KL(q(z | x) || p(z)) (n,) of Eq. 1 in closed form, summed over dimensions.

    - `mu`, `logvar`: (n, d) mean and log variance of the posterior.
    - `prior`: (d,) variance of the prior, whose mean is 0.
    """
    return 0.5 * ((mu.square() + logvar.exp()) / prior - 1 - logvar + prior.log()).sum(dim=1)


def cosine_logits(z: Tensor, prototypes: Tensor, tau: float) -> Tensor:
    """Cosines (n, K) of cells (n, d) and prototypes (K, d), divided by the temperature (Eq. 2)."""
    return normalize(z, dim=1) @ normalize(prototypes, dim=1).T / tau


def compute_target(q: Tensor) -> Tensor:
    """Sharpened assignments p (n, K) (Eq. 4); they are a target, so no gradient passes through them."""
    q = q.detach()
    weight = q.square() / q.sum(dim=0).clamp_min(_TINY)
    return weight / weight.sum(dim=1, keepdim=True).clamp_min(_TINY)


def loss_clust(logits: Tensor, p: Tensor) -> Tensor:
    """KL(p || softmax(logits)), mean over cells (Eq. 5)."""
    return (p * (p.clamp_min(_TINY).log() - log_softmax(logits, dim=1))).sum(dim=1).mean()


def loss_center(z: Tensor, prototypes: Tensor, p: Tensor) -> Tensor:
    """Mean squared distance of normalized cells to normalized prototypes, weighted by p (Eq. 6 without its ramp)."""
    # |a - b|^2 = 2 - 2 cos(a, b) for unit vectors: no (n, K, d) array of differences is needed
    return (p * (2 - 2 * cosine_logits(z, prototypes, 1.0))).sum(dim=1).mean()


def loss_repulse(prototypes: Tensor, repulse_target: float) -> Tensor:
    """Mean over pairs of max(0, cos - t)^2 (Eq. 7, the square inside the mean); 0 for a single prototype."""
    n = len(prototypes)
    unit = normalize(prototypes, dim=1)
    excess = (unit @ unit.T - repulse_target).clamp_min(0).square()
    return (excess.sum() - excess.diagonal().sum()) / max(n * (n - 1), 1)


def loss_margin(logits: Tensor, conf_thr: float, cosface_m: float, tau: float) -> Tensor:
    """Cross entropy with the prototype that a cell is assigned to, its logit lowered by a margin (Eq. 8).

    Only confident cells count.

    The margin is a cosine, as in CosFace: (cos - m) / tau, so m / tau is subtracted from the logits, which are cosines
    over the temperature. In units of the logits the margin would be m tau = .012 as a cosine, which has no effect.

    - `logits`: (n, K) cosines over the temperature.
    - `conf_thr`: Probability from which a cell is confident. Without confident cells the loss is 0.
    - `tau`: Temperature of the logits.
    """
    confidence, assigned = softmax(logits.detach(), dim=1).max(dim=1)
    confident = (confidence >= conf_thr).to(logits.dtype)
    margin = torch.zeros_like(logits).scatter_(1, assigned[:, None], cosface_m / tau)
    entropy = cross_entropy(logits - margin, assigned, reduction="none")
    return (entropy * confident).sum() / confident.sum().clamp_min(1)


def loss_sup(logits: Tensor, label: Tensor, label_eps: float) -> Tensor:
    """Label-smoothed cross entropy over the cells with a label >= 0 (Eq. 9); 0 if there is none.

    Label c is prototype c; the smoothing is spread over all prototypes equally.
    """
    known = (label >= 0).to(logits.dtype)
    entropy = cross_entropy(logits, label.clamp_min(0), reduction="none", label_smoothing=label_eps)
    return (entropy * known).sum() / known.sum().clamp_min(1)


def loss_cons(first: Tensor, second: Tensor) -> Tensor:
    """Half the symmetric KL divergence of both views' assignments, mean over cells (Eq. 10)."""
    a, b = log_softmax(first, dim=1), log_softmax(second, dim=1)
    return 0.5 * ((a.exp() - b.exp()) * (a - b)).sum(dim=1).mean()


def compute_ramps(epoch: int) -> tuple[float, float]:
    """Return r_center = min(1, epoch / 8) and r_sup = min(1, epoch / 5)."""
    return min(1.0, epoch / _CENTER_EPOCHS), min(1.0, epoch / _SUP_EPOCHS)


def sum_terms(terms: Mapping[str, Tensor], objective: Objective, epoch: int) -> Tensor:
    """Sum the terms, each with its weight and its ramp (Eq. 11).

    - `terms`: ``"vae"``, ``"clust"``, ``"center"`` (without its ramp), ``"repulse"``, ``"margin"``, ``"sup"``,
      ``"cons"``.
    """
    r_center, r_sup = compute_ramps(epoch)
    ramp = {"center": r_center, "margin": r_sup, "sup": r_sup}
    loss = terms["vae"]
    for name in ("clust", "center", "repulse", "margin", "sup", "cons"):
        loss = loss + ramp.get(name, 1.0) * getattr(objective, f"lam_{name}") * terms[name]
    return loss


def update_prototypes(prototypes: Tensor, direction_sum: Tensor, mass: Tensor, momentum: float) -> Tensor:
    """Move prototypes toward the mean direction of their cells; the results have length 1.

    - `prototypes`: (K, d) prototypes.
    - `direction_sum`: (K, d) sums over cells of p(i, k) times the normalized cell.
    - `mass`: (K,) sums of p(i, k); a prototype without mass keeps its direction.
    - `momentum`: Weight of the old direction, 0..1.
    """
    unit = normalize(prototypes, dim=1)
    mean = direction_sum / mass.clamp_min(_TINY)[:, None]
    has_mass = (mass > _TINY)[:, None]
    return normalize(torch.where(has_mass, momentum * unit + (1 - momentum) * mean, unit), dim=1)
