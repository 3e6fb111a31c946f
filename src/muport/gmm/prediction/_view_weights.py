"""Weights of views: a combination by held-out losses, shrunk toward the simplest view.

Symbols: V views, P training patients, C conditions, G groups of patients that are held out together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["weigh_views"]

#: Standard errors by which the combination must be better than the simplest view for an equal weight: the rule of one
#: standard error. On 144 simulated cohorts of 11 kinds, 10 to 50 patients, the AUROC was .666 for the log-ratios of
#: types alone, .719 without shrinkage, and .715, .713, .712 and .707 for margins of 0, .5, 1 and 2; where only a rare
#: type changed, it was .882 for the types, .855 without shrinkage, and .870, .872, .874 and .880 with it.
_MARGIN = 1.0
_TINY = 1e-12


def weigh_views(
    held_out: NDArray[np.float64],
    families: Sequence[str],
    simplest: int | None,
    condition: NDArray[np.int64],
    group: NDArray[np.int64],
) -> NDArray[np.float64]:
    r"""Compute the weights (V,) of views from their predictions of held-out training patients; they sum to 1.

    1. The combination: a view has the weight prior x exp(-G loss), with G the number of groups: stacking by pseudo
       Bayesian model averaging (Yao et al. 2018). Families have equal prior weights, divided evenly within a family.
    2. The loss of the combination is nested: for the patients of a group, its weights are those that the losses of the
       other groups give.
    3. The weight of the combination against the simplest view is the logistic function of G (gain - `_MARGIN` x
       standard error of the gain); the gain is the difference of their losses. With few patients it is uncertain, and
       the simplest view keeps most of the weight.

    - `held_out`: (V, P, C) probabilities by fits to the other patients; NaN for patients that were never held out.
    - `families`: Family of each view.
    - `simplest`: Position of the simplest view; None: the combination alone.
    - `condition`: (P,) codes.
    - `group`: (P,) group of each patient.
    """
    scored = np.isfinite(held_out).all(axis=(0, 2))
    prior = np.log([1 / families.count(family) for family in families])
    if not scored.any():
        even: NDArray[np.float64] = softmax(prior)
        return even if simplest is None else (even + np.eye(len(even))[simplest]) / 2
    own, code = held_out[:, scored], condition[scored]
    _, groups = np.unique(group[scored], return_inverse=True)
    n_groups = int(groups.max()) + 1
    # every condition has the same weight
    balance = 1 / np.bincount(code)[code]
    balance /= balance.sum()
    losses = _losses(own, code) * balance
    weights: NDArray[np.float64] = softmax(prior - n_groups * losses.sum(axis=1))
    if simplest is None:
        return weights
    member = np.eye(n_groups)[groups]
    rest = (losses.sum(axis=1, keepdims=True) - losses @ member) / np.maximum(1 - balance @ member, _TINY)
    nested = softmax(prior[:, None] - (n_groups - 1) * rest, axis=0)
    combined = np.einsum("vp,vpc->pc", nested[:, groups], own)
    gains = (losses[simplest] - _losses(combined[None], code)[0] * balance) @ member
    error = np.sqrt(n_groups / max(n_groups - 1, 1) * np.square(gains - gains.mean()).sum())
    share = expit(n_groups * (gains.sum() - _MARGIN * error))
    shrunk: NDArray[np.float64] = share * weights + (1 - share) * np.eye(len(weights))[simplest]
    return shrunk


def _losses(p: NDArray[np.float64], condition: NDArray[np.int64]) -> NDArray[np.float64]:
    """Loss -log p (V, P) of the true condition, in nats."""
    losses: NDArray[np.float64] = -np.log(np.maximum(p[:, np.arange(len(condition)), condition], _TINY))
    return losses
