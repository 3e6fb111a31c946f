"""Simulated patients whose condition changes one cell state, one proportion of cells, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import ortho_group

from muport._checks import check_integers, check_not_negative, check_numbers, check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LARGEST_EFFECT = 1e6  # in standard deviations
_QUIET_AXES = 0.3  # fraction of the axes without signal on which the standard deviation is 1, as on signal axes


@dataclass(frozen=True)
class _Design:
    """Condition of each patient (P,), patient and state of each cell (n,), standard deviation on each axis (d,)."""

    condition: NDArray[np.int64]
    patient: NDArray[np.int64]
    state: NDArray[np.int64]
    scale: NDArray[np.float64]


def simulated_cohort(
    n_patients: int = 20,
    n_cells: int | tuple[int, int] = 500,
    n_dims: int = 30,
    n_states: int = 5,
    n_genes: int = 150,
    conditions: Sequence[str] = ("control", "case"),
    state_effect: float = 2.0,
    composition_effect: float = 0.0,
    patient_offset: float = 0.3,
    composition_noise: float = 0.5,
    noise: float = 3.0,
    separation: float = 15.0,
    random_state: int = 0,
) -> anndata.AnnData:
    r"""Simulate the cells of patients in two or more conditions; the cause of every difference is known.

    On hidden axes, a cell of state s of patient i in condition c lies at

    .. math:: z = \mu_s + b_i + \delta_c \, [s = s^*] \, e_c + \epsilon, \qquad \epsilon_j \sim N(0, \sigma_j^2),

    and is observed after a random rotation. The first condition is the reference (:math:`\delta = 0`). Each other
    condition shifts the cells of one affected state :math:`s^*` by `state_effect` along an axis :math:`e_c` of its own
    (where :math:`\sigma = 1`), and multiplies the odds of one other state by exp(`composition_effect`). Three things
    do not depend on the condition: the offset of a patient
    :math:`b_i \sim N(0, (` `patient_offset` :math:`\sigma_j)^2)`, the composition of a patient (log proportions with
    standard deviation `composition_noise`), and axes on which all cells vary with standard deviation `noise`.

    Parameters
    ----------
    n_patients
        Number of patients, ``"P00"`` ..., assigned to the conditions in equal numbers and in random order.
    n_cells
        Number of cells of each patient; a pair (low, high) is a range to draw from uniformly, both ends included.
    n_dims
        Dimensions of the representation.
    n_states
        Number of cell states, ``"S0"`` ...
    n_genes
        Number of genes; each follows one hidden axis, so that the genes of the signal are known.
    conditions
        Names of the conditions; the first is the reference.
    state_effect
        Shift of the affected state, in standard deviations of its cells along the shift; 0 is no shift.
    composition_effect
        Change of the log odds of the other state; 0 is no change.
    patient_offset
        Standard deviation of a patient's shift of all cells, in standard deviations of the cells on each axis.
    composition_noise
        Standard deviation of the log proportions of a patient.
    noise
        Standard deviation of the cells on the noisy axes, about 70 % of all axes.
    separation
        Root mean squared distance of two state means.
    random_state
        Seed.

    Returns
    -------
    AnnData with ``obs`` columns ``sample``, ``condition`` and ``cell_type``; ``obsm["X_pca"]`` (cells x `n_dims`,
    float32); ``X`` (cells x `n_genes`), its back-projection through ``varm["PCs"]`` (`n_genes` x `n_dims`,
    orthonormal columns); ``var["signal"]``: genes of the signal axes. ``uns["simulation"]`` has ``signal_axes``
    (conditions - 1, `n_dims`), ``affected_state``, ``enriched_states`` (one for each condition but the first),
    ``state_means`` (`n_states`, `n_dims`), ``patient_offsets`` (`n_patients`, `n_dims`) and ``shares``
    (`n_patients`, `n_states`).

    Raises
    ------
    ValueError
        If a number is out of its range, or the conditions are fewer than two or not distinct.

    Examples
    --------
    >>> adata = simulated_cohort(n_patients=6, n_cells=(20, 40), n_dims=5, n_genes=10)
    >>> adata.obs["sample"].nunique(), adata.obsm["X_pca"].shape[1], adata.uns["simulation"]["signal_axes"].shape
    (6, 5, (1, 5))
    """
    low, high = (n_cells, n_cells) if isinstance(n_cells, int | np.integer) else n_cells
    names = [str(name) for name in conditions]
    if isinstance(conditions, str) or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"conditions={conditions!r}: give two or more different names.")
    if not 1 <= low <= high:
        raise ValueError(f"n_cells={low, high}: give a number, or a range (low, high), of 1 or more.")
    # a patient and an axis for each condition, another state for the composition, and a gene on each axis
    check_integers(len(names), n_patients=n_patients, n_dims=n_dims)
    check_integers(2, n_states=n_states)
    check_integers(n_dims, n_genes=n_genes)
    check_not_negative(
        patient_offset=patient_offset, composition_noise=composition_noise, noise=noise, separation=separation
    )
    check_numbers(-_LARGEST_EFFECT, _LARGEST_EFFECT, state_effect=state_effect, composition_effect=composition_effect)
    check_seed(random_state)
    rng = np.random.default_rng(random_state)
    n_axes, affected = len(names) - 1, int(rng.integers(n_states))
    enriched = (affected + 1 + np.arange(n_axes) % (n_states - 1)) % n_states
    condition = rng.permutation(np.arange(n_patients) % len(names))
    proportions = _draw_proportions(rng, condition, n_states, enriched, composition_effect, composition_noise)
    n_quiet = n_axes + round(_QUIET_AXES * (n_dims - n_axes))
    scale = np.where(np.arange(n_dims) < n_quiet, 1.0, noise)
    n_cells_of_patient = rng.integers(low, high + 1, size=n_patients)
    design = _draw_cells(rng, condition, proportions, n_cells_of_patient, scale)
    means = rng.normal(size=(n_states, n_dims)) * separation / np.sqrt(2 * n_dims)
    offsets = rng.normal(size=(n_patients, n_dims)) * patient_offset * design.scale
    hidden = means[design.state] + offsets[design.patient] + rng.normal(size=(len(design.state), n_dims)) * design.scale
    _add_state_effect(hidden, design, affected, state_effect)
    rotation = ortho_group.rvs(n_dims, random_state=rng).T if n_dims > 1 else np.ones((1, 1))
    gene_axis = np.arange(n_genes) % n_dims
    adata = _assemble(hidden @ rotation, design, names, gene_axis, _loadings(rng, gene_axis, n_dims) @ rotation)
    adata.var["signal"] = gene_axis < n_axes
    adata.uns["simulation"] = {
        "signal_axes": rotation[:n_axes],
        "affected_state": f"S{affected}",
        "enriched_states": [f"S{s}" for s in enriched],
        "state_means": means @ rotation,
        "patient_offsets": offsets @ rotation,
        "shares": proportions,
    }
    return adata


def _draw_proportions(
    rng: np.random.Generator,
    condition: NDArray[np.int64],
    n_states: int,
    enriched: NDArray[np.int64],
    effect: float,
    noise: float,
) -> NDArray[np.float64]:
    """Draw the proportions (P, n_states) of the cell states of each patient."""
    log_odds = noise * rng.normal(size=(len(condition), n_states))
    treated = np.flatnonzero(condition > 0)
    log_odds[treated, enriched[condition[treated] - 1]] += effect
    proportions: NDArray[np.float64] = softmax(log_odds, axis=1)
    return proportions


def _draw_cells(
    rng: np.random.Generator,
    condition: NDArray[np.int64],
    proportions: NDArray[np.float64],
    n_cells: NDArray[np.int64],
    scale: NDArray[np.float64],
) -> _Design:
    patient = np.repeat(np.arange(len(condition)), n_cells)
    is_later_state = rng.random(len(patient))[:, None] > proportions.cumsum(axis=1)[patient]
    # rounding may leave the last cumulative proportion below 1
    return _Design(condition, patient, is_later_state.sum(axis=1).clip(max=proportions.shape[1] - 1), scale)


def _add_state_effect(hidden: NDArray[np.float64], design: _Design, affected: int, effect: float) -> None:
    condition = design.condition[design.patient]
    shifted = np.flatnonzero((design.state == affected) & (condition > 0))
    hidden[shifted, condition[shifted] - 1] += effect


def _loadings(rng: np.random.Generator, gene_axis: NDArray[np.int64], n_dims: int) -> NDArray[np.float64]:
    """Draw loadings (genes, hidden axes) with orthonormal columns: each gene has a loading on one axis only."""
    n_genes = len(gene_axis)
    loading = np.zeros((n_genes, n_dims))
    loading[np.arange(n_genes), gene_axis] = rng.uniform(0.5, 1.5, n_genes) * rng.choice([-1, 1], n_genes)
    unit: NDArray[np.float64] = loading / np.linalg.norm(loading, axis=0)
    return unit


def _assemble(
    x: NDArray[np.float64], design: _Design, names: list[str], gene_axis: NDArray[np.int64], pcs: NDArray[Any]
) -> anndata.AnnData:
    width = len(str(len(design.condition) - 1))
    sample = [f"P{i:0{max(width, 2)}d}" for i in range(len(design.condition))]
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical.from_codes(design.patient, sample),
            "condition": pd.Categorical.from_codes(design.condition[design.patient], names),
            "cell_type": pd.Categorical([f"S{s}" for s in design.state]),
        },
        index=[f"cell{i}" for i in range(len(x))],
    )
    var = pd.DataFrame({"axis": gene_axis}, index=[f"gene{j}" for j in range(len(gene_axis))])
    scores, pcs = x.astype(np.float32), pcs.astype(np.float32)
    adata = anndata.AnnData(scores @ pcs.T, obs=obs, var=var)
    adata.obsm["X_pca"], adata.varm["PCs"] = scores, pcs
    return adata
