"""The annealed iterations: transport onto the centers and displacement of the prototypes in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.shared_centers._coupling import CouplingSettings, fit_coupling
from muport.integration.shared_centers._displacement import compute_smoothing, estimate_translation, summarize_centers
from muport.integration.shared_centers._label_penalty import compute_label_penalty

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.shared_centers._coupling import Coupling
    from muport.integration.shared_centers._displacement import CenterSummary, Translation

__all__ = [
    "History",
    "Transport",
    "TransportProblem",
    "anneal_coupling_settings",
    "anneal_theta",
    "fit_transport",
    "weighted_rms",
]

_ANNEALED = 6  # iterations in which theta falls to 0

#: One row per iteration: theta (marginal relaxation of the transport divided by its regularization), root mean square
#: displacement of the prototypes, and root mean square change of the displacement.
type History = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, eq=False)
class TransportProblem:
    """Input of the iterations.

    - `prototypes`: The prototypes that are transported.
    - `second_moment`: (B,) sum over the cells of a group of their squared norms.
    - `hyperparameters`, `options`: How to transport them.
    - `type_probabilities`: (P, C) probabilities of the types of the prototypes, weighted by how predictable a type is;
      None without labels.
    - `fitted_centers`: Fitted centers onto which new groups are transported; None in a fit, which updates its centers.
    """

    prototypes: Prototypes
    second_moment: NDArray[np.float64]
    hyperparameters: Hyperparameters
    options: FitOptions
    type_probabilities: NDArray[np.float32] | None = None
    fitted_centers: CenterSummary | None = None


@dataclass(frozen=True, eq=False)
class Transport:
    """Result of the iterations.

    - `coupling`: The last coupling.
    - `centers`: Numbers and means of the cells of each group at each center.
    - `translation`: Displacements of the groups and of the prototypes.
    - `history`: The iterations.
    """

    coupling: Coupling
    centers: CenterSummary
    translation: Translation
    history: History

    @property
    def transported_mass(self) -> float:
        """Fraction of the cells of a group, on average, at centers whose mean proportions have room for them."""
        centers = self.centers
        return float(np.minimum(centers.proportions, centers.mean_proportions).sum(axis=1).mean())


def fit_transport(
    problem: TransportProblem,
    coupling: Coupling,
    progress: Callable[[str], None] = lambda _: None,
    start: NDArray[np.float32] | None = None,
) -> Transport:
    """Alternate coupling and displacement until the displacements no longer change.

    Theta falls to 0. While it is large, the groups share all centers, and types without a partner may be transported
    to a wrong center. At 0 these are released.

    - `problem`: What to transport, and how.
    - `coupling`: Centers, masses and potentials to start from.
    - `start`: (P, d) displacements to start from; 0 by default.
    """
    prototypes, hyperparameters, options = problem.prototypes, problem.hyperparameters, problem.options
    frozen = problem.fitted_centers is not None
    smoothing, penalty = compute_smoothing(prototypes), None
    shift = np.zeros_like(prototypes.position) if start is None else start
    history: list[tuple[float, float, float]] = []
    for iteration in range(options.max_iter):
        progress("transport")
        settings = anneal_coupling_settings(iteration, hyperparameters, options, frozen)
        coupling = fit_coupling(prototypes.position - shift, prototypes, coupling, settings, penalty)
        if problem.type_probabilities is not None:
            # the penalty needs the types at the centers, which the first coupling gives
            penalty = compute_label_penalty(
                problem.type_probabilities, prototypes, coupling, hyperparameters.supervision
            )
        centers = summarize_centers(prototypes, coupling, options.fixed_groups, problem.fitted_centers)
        # from the original positions in every iteration, so that errors do not accumulate
        translation = estimate_translation(
            prototypes, coupling, centers, hyperparameters.full_agreement, problem.second_moment, smoothing
        )
        updated = translation.of_prototypes(prototypes.group)
        change, shift = weighted_rms(updated - shift, prototypes.mass), updated
        history.append((settings.theta, weighted_rms(shift, prototypes.mass), change))
        if settings.theta == 0 and change < options.tol:
            break
    return Transport(coupling, centers, translation, tuple(history))


def anneal_coupling_settings(
    iteration: int, hyperparameters: Hyperparameters, options: FitOptions, frozen: bool = False
) -> CouplingSettings:
    """Return the settings of the transport in an outer iteration."""
    theta = anneal_theta(iteration, hyperparameters, options)
    return CouplingSettings(theta, frozen, options.max_sinkhorn_iter, device=options.device)


def anneal_theta(iteration: int, hyperparameters: Hyperparameters, options: FitOptions) -> float:
    """Return theta of an outer iteration: it falls linearly to 0, and is 0 in the last one."""
    last = min(_ANNEALED, options.max_iter) - 1
    return hyperparameters.theta * (1 - iteration / last) if iteration < last else 0.0


def weighted_rms(displacement: NDArray[np.float32], mass: NDArray[np.float32]) -> float:
    """Root mean square length of displacements (P, d), weighted by the mass (P,) of the prototypes."""
    return float(np.sqrt(mass @ np.square(displacement).sum(axis=1) / mass.sum()))
