"""Training of a ground metric by gradient steps on the triplets of ggml-ot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport._checks import check_option
from muport.gmm.distances._mixture_wasserstein import solve_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["TrainingSettings", "compute_triplet_loss", "matrix_norm", "train_metric"]


@dataclass(frozen=True)
class TrainingSettings:
    """Options of the gradient training of a metric.

    - `alpha`: Margin of the triplets, in units of the mean squared distance at the start.
    - `reg`: Weight of the norm of W, relative to that at the start.
    - `reg_type`: Norm: ``"fro"`` (Frobenius), 1 (sum of absolute entries) or ``"nuc"`` (nuclear).
    - `lr`: Learning rate of Adam, relative to the root mean square entry of the start.
    - `max_iter`: Maximum number of steps.
    - `entropic_reg`: Entropic regularization of the plans, in units of the mean cost; 0 is exact.
    - `mi_reg`: Weight of the mutual information between the axes in a component, 1/2 (sum log diag - log det) of W S
      W'.
    - `stop_thr`: Norm of the gradient below which training stops.
    """

    alpha: float = 1.0
    reg: float = 1e-3
    reg_type: Literal["fro", "nuc", 1] = "fro"
    lr: float = 0.1
    max_iter: int = 30
    entropic_reg: float = 0.0
    mi_reg: float = 0.0
    stop_thr: float = 1e-6

    def __post_init__(self) -> None:
        check_option("reg_type", self.reg_type, ("fro", 1, "nuc"))
        if self.max_iter < 1 or self.lr <= 0 or min(self.alpha, self.reg, self.entropic_reg, self.mi_reg) < 0:
            raise ValueError("max_iter must be at least 1, lr positive, and alpha, reg, entropic_reg and mi_reg >= 0.")


def train_metric(
    features: NDArray[np.float64],
    plan: NDArray[np.float64],
    w: NDArray[np.float64],
    condition: NDArray[np.int64],
    settings: TrainingSettings = TrainingSettings(),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Improve a metric by gradient steps on the mean over triplets of relu(D_ij - D_ik + margin).

    i and j != i have one condition and k another one; plans are solved again under W in every step.

    - `features`: (P K, d, c) features of the components of all patients: means, and roots of covariances if c > 1.
    - `plan`: (P, P, K, K) plans between patients, each with sum 1; the plan of a patient with itself is its weights.
    - `w`: (r, d) start.
    - `condition`: (P,) codes.

    Returns W of the smallest loss (r, d), and the loss of every step. Raises ValueError for mi_reg without covariances.
    """
    if settings.mi_reg and features.shape[2] == 1:
        raise ValueError("mi_reg needs the covariances: set bures=True.")
    points, code = torch.from_numpy(features), torch.from_numpy(np.asarray(condition))
    plans, start = torch.from_numpy(plan), torch.from_numpy(np.ascontiguousarray(w))
    scale = float(_squared_distances(start, points, plans).mean()) or 1.0
    start = start / scale**0.5
    weights = plans.diagonal(dim1=0, dim2=1).sum(1).T.contiguous()
    size = matrix_norm(start, settings.reg_type)

    def loss(metric: Tensor) -> Tensor:
        current = _solve_plans(metric.detach(), points, weights, settings.entropic_reg)
        triplets = compute_triplet_loss(_squared_distances(metric, points, current), code, settings.alpha)
        value = triplets + settings.reg * matrix_norm(metric, settings.reg_type) / size
        return value + settings.mi_reg * _mutual_information(metric, points, weights) if settings.mi_reg else value

    trained, history = _minimize(loss, start, settings)
    return (trained * scale**0.5).numpy(), history


def compute_triplet_loss(squared: Tensor, condition: Tensor, margin: float) -> Tensor:
    """Mean of relu(D_ij - D_ik + margin) over i and j != i of one condition and k of another; 0 without triplets.

    Examples
    --------
    >>> d = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 4.0], [3.0, 4.0, 0.0]])
    >>> compute_triplet_loss(d, torch.tensor([0, 0, 1]), margin=2.5)
    tensor(0.2500)
    """
    same = condition[:, None] == condition
    near = same & ~torch.eye(len(same), dtype=torch.bool)
    i, j = near.nonzero(as_tuple=True)
    gap = squared[i, j][:, None] - squared[i] + margin
    different = ~same[i]
    return (gap.clamp(min=0) * different).sum() / different.sum().clamp(min=1)


def matrix_norm(w: Tensor, reg_type: str | int) -> Tensor:
    """Frobenius, entrywise l1 or nuclear norm."""
    if reg_type == 1:
        return w.abs().sum()
    size: Tensor = torch.linalg.matrix_norm(w, str(reg_type))
    return size


def _squared_distances(w: Tensor, features: Tensor, plan: Tensor) -> Tensor:
    """D_ij(W) = sum_kl P_kl |W (F_k - F_l)|^2, (P, P)."""
    projected = (w @ features).flatten(1)
    size = projected.square().sum(1)
    cost = size[:, None] + size - 2 * projected @ projected.T
    p, k = len(plan), plan.shape[2]
    return (cost.reshape(p, k, p, k).transpose(1, 2) * plan).sum((2, 3)).clamp(min=0)


def _solve_plans(w: Tensor, features: Tensor, weights: Tensor, entropic_reg: float) -> Tensor:
    """Balanced plans (P, P, K, K) under W; by the envelope theorem they are constants for the gradient."""
    p, k = weights.shape
    projected = (w @ features).flatten(1)
    cost = torch.cdist(projected, projected).square().reshape(p, k, p, k).transpose(1, 2)
    i, j = torch.triu_indices(p, p, 1)
    reg = None if entropic_reg == 0 else entropic_reg * float(cost.mean())
    pairs = solve_transport(cost[i, j].contiguous(), weights[i], weights[j], reg=reg)
    plan = torch.zeros_like(cost)
    plan[i, j], plan[j, i] = pairs, pairs.mT
    own = torch.arange(p)
    plan[own, own] = torch.diag_embed(weights)
    return plan


def _mutual_information(w: Tensor, features: Tensor, weights: Tensor) -> Tensor:
    """Mean over components of KL(N(., W S W') | its diagonal)."""
    factor = w @ features[:, :, 1:]
    covariance = factor @ factor.mT
    variance = covariance.diagonal(dim1=1, dim2=2)
    covariance = covariance + torch.diag_embed(1e-9 * variance.mean(1, keepdim=True).expand_as(variance))
    information: Tensor = 0.5 * (variance.clamp(min=1e-300).log().sum(1) - torch.linalg.slogdet(covariance)[1])
    return (information * weights.flatten()).sum() / weights.sum()


def _minimize(
    loss: Callable[[Tensor], Tensor], start: Tensor, settings: TrainingSettings
) -> tuple[Tensor, NDArray[np.float64]]:
    """The best step of Adam (Kingma and Ba 2015) with its default rates, and the loss of every step."""
    # not torch.optim, whose import loads a compiler for several seconds
    step, w = settings.lr * float(start.square().mean().sqrt()), start.clone()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    best, history = start, []
    for t in range(1, settings.max_iter + 1):
        w.requires_grad_()
        current = loss(w)
        gradient = torch.autograd.grad(current, w)[0]
        w = w.detach()
        history.append(float(current.detach()))
        if history[-1] <= min(history):
            best = w
        if float(gradient.norm()) < settings.stop_thr:
            break
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        w = w - step * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return best, np.array(history)
