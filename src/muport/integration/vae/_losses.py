"""The prototype-aware objective of the dual-view VAE: each term a function of tensors (VAE Eqs 1-11)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "Objective",
    "cosine_logits",
    "ema",
    "kl_to_prior",
    "loss_center",
    "loss_clust",
    "loss_cons",
    "loss_margin",
    "loss_repulse",
    "loss_sup",
    "ramps",
    "reconstruction",
    "target",
    "total",
]

_CENTER_EPOCHS, _SUP_EPOCHS = 8, 5
_TINY = 1e-12
_SHARES = ("repulse_target", "conf_thr", "label_eps", "proto_ema_m")


@dataclass(frozen=True)
class Objective:
    """Weights and constants of the objective, named as in the paper.

    The published weights of clust, center, repulse and margin are a hundred times the defaults here, and beta a tenth:
    with them types fall apart into prototypes.

    Attributes
    ----------
    n_prototypes
        Prototypes K. There are never fewer than labels, nor more than a thirtieth of the cells beyond those.
    beta
        Weight of the Kullback-Leibler term (Eq. 1).
    proto_tau
        Temperature of the cosine assignments (Eq. 2).
    lam_clust, lam_center, lam_repulse, lam_margin, lam_sup, lam_cons
        Weights of the terms (Eq. 11); 0 switches a term off.
    repulse_target
        Cosine between two prototypes above which they repel each other (Eq. 7).
    cosface_m
        Margin of the confident self-labels, as a cosine (Eq. 8).
    conf_thr
        Probability from which a cell labels itself (Eq. 8).
    label_eps
        Smoothing of the given labels (Eq. 9).
    proto_ema_m
        Momentum of the prototypes' moving average; 1 leaves them to the gradient alone.

    Raises
    ------
    ValueError
        If one is out of range.
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
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name}={value!r} must be a number, and not negative.")
            if field.name in _SHARES and value > 1:
                raise ValueError(f"{field.name}={value!r} must be between 0 and 1.")
        if self.n_prototypes < 1 or self.n_prototypes != int(self.n_prototypes):
            raise ValueError(f"n_prototypes={self.n_prototypes!r} must be a whole number, at least 1.")
        if self.proto_tau == 0:
            raise ValueError(f"proto_tau={self.proto_tau!r} must be above 0.")


def reconstruction(x: Tensor, mean: Tensor) -> Tensor:
    """(n,) squared error per feature: -log p(x | z) of Eq. 1 up to a constant, p Gaussian of variance d / 2.

    With it a cell's reconstruction weighs the same beside the other terms whatever the number of features.
    """
    return (x - mean).square().mean(dim=1)


def kl_to_prior(mu: Tensor, logvar: Tensor, prior: Tensor) -> Tensor:
    """(n,) KL(q(z | x) || p(z)) of Eq. 1 in closed form, summed over dimensions.

    Parameters
    ----------
    mu, logvar
        (n, d) mean and log variance of the posterior.
    prior
        (d,) variance of the prior, whose mean is 0.
    """
    return 0.5 * ((mu.square() + logvar.exp()) / prior - 1 - logvar + prior.log()).sum(dim=1)


def cosine_logits(z: Tensor, prototypes: Tensor, tau: float) -> Tensor:
    """(n, K) cosines of cells (n, d) and prototypes (K, d) over the temperature (Eq. 2)."""
    return normalize(z, dim=1) @ normalize(prototypes, dim=1).T / tau


def target(q: Tensor) -> Tensor:
    """(n, K) sharpened assignments p (Eq. 4); they are a target, so no gradient passes."""
    q = q.detach()
    weight = q.square() / q.sum(dim=0).clamp_min(_TINY)
    return weight / weight.sum(dim=1, keepdim=True).clamp_min(_TINY)


def loss_clust(logits: Tensor, p: Tensor) -> Tensor:
    """KL(p || softmax(logits)), mean over cells (Eq. 5)."""
    return (p * (p.clamp_min(_TINY).log() - log_softmax(logits, dim=1))).sum(dim=1).mean()


def loss_center(z: Tensor, prototypes: Tensor, p: Tensor) -> Tensor:
    """Mean squared distance of normalised cells to normalised prototypes, weighted by p (Eq. 6 without its ramp)."""
    # of unit vectors |a - b|^2 = 2 - 2 cos(a, b), which spares the (n, K, d) block of differences
    return (p * (2 - 2 * cosine_logits(z, prototypes, 1.0))).sum(dim=1).mean()


def loss_repulse(prototypes: Tensor, repulse_target: float) -> Tensor:
    """Mean over pairs of max(0, cos - t)^2 (Eq. 7, the square inside the mean); 0 for a single prototype."""
    n = len(prototypes)
    unit = normalize(prototypes, dim=1)
    excess = (unit @ unit.T - repulse_target).clamp_min(0).square()
    return (excess.sum() - excess.diagonal().sum()) / max(n * (n - 1), 1)


def loss_margin(logits: Tensor, conf_thr: float, cosface_m: float, tau: float) -> Tensor:
    """Cross entropy with the cells' own labels, their logit lowered by a margin, over confident cells (Eq. 8).

    The margin is a cosine, as in CosFace: (cos - m) / tau, so logits, which are cosines over the temperature, lose
    m / tau. A margin in units of the logits would be m tau = .012 as a cosine, which does nothing.

    Parameters
    ----------
    logits
        (n, K) cosines over the temperature.
    conf_thr
        Probability from which a cell is confident. With none, the loss is 0.
    cosface_m
        Margin.
    tau
        Temperature of the logits.
    """
    confidence, own = softmax(logits.detach(), dim=1).max(dim=1)
    chosen = (confidence >= conf_thr).to(logits.dtype)
    margin = torch.zeros_like(logits).scatter_(1, own[:, None], cosface_m / tau)
    each = cross_entropy(logits - margin, own, reduction="none")
    return (each * chosen).sum() / chosen.sum().clamp_min(1)


def loss_sup(logits: Tensor, label: Tensor, label_eps: float) -> Tensor:
    """Label-smoothed cross entropy over the cells with a label >= 0 (Eq. 9); 0 if there is none.

    Label c stands for prototype c; the smoothing goes to all prototypes alike.
    """
    known = (label >= 0).to(logits.dtype)
    each = cross_entropy(logits, label.clamp_min(0), reduction="none", label_smoothing=label_eps)
    return (each * known).sum() / known.sum().clamp_min(1)


def loss_cons(first: Tensor, second: Tensor) -> Tensor:
    """Half the symmetric KL divergence of both views' assignments, mean over cells (Eq. 10)."""
    a, b = log_softmax(first, dim=1), log_softmax(second, dim=1)
    return 0.5 * ((a.exp() - b.exp()) * (a - b)).sum(dim=1).mean()


def ramps(epoch: int) -> tuple[float, float]:
    """r_center = min(1, epoch / 8) and r_sup = min(1, epoch / 5)."""
    return min(1.0, epoch / _CENTER_EPOCHS), min(1.0, epoch / _SUP_EPOCHS)


def total(terms: Mapping[str, Tensor], objective: Objective, epoch: int) -> Tensor:
    """Sum of the terms under their weights and ramps (Eq. 11).

    Parameters
    ----------
    terms
        ``"vae"``, ``"clust"``, ``"center"`` (without its ramp), ``"repulse"``, ``"margin"``, ``"sup"``, ``"cons"``.
    objective
        The weights.
    epoch
        Epochs done, from 0.
    """
    r_center, r_sup = ramps(epoch)
    ramp = {"center": r_center, "margin": r_sup, "sup": r_sup}
    out = terms["vae"]
    for name in ("clust", "center", "repulse", "margin", "sup", "cons"):
        out = out + ramp.get(name, 1.0) * getattr(objective, f"lam_{name}") * terms[name]
    return out


def ema(prototypes: Tensor, pulled: Tensor, mass: Tensor, momentum: float) -> Tensor:
    """Prototypes moved toward the mean direction of their cells, of unit length.

    Parameters
    ----------
    prototypes
        (K, d) prototypes.
    pulled
        (K, d) sums over cells of p(i, k) times the normalised cell.
    mass
        (K,) sums of p(i, k); a prototype without mass keeps its direction.
    momentum
        Share that stays.
    """
    unit = normalize(prototypes, dim=1)
    mean = pulled / mass.clamp_min(_TINY)[:, None]
    held = (mass > _TINY)[:, None]
    return normalize(torch.where(held, momentum * unit + (1 - momentum) * mean, unit), dim=1)
