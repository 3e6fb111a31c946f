"""Simulated patients whose condition changes one cell state, one share of cells, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy.stats import ortho_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_STATE_DIMS = 0.3  # share of the axes, beside the signal's, on which a cell varies as little as on the signal's


@dataclass(frozen=True)
class _Design:
    """Patients (P,): condition and number of cells; cells (n,): patient, state; scales of the axes (d,)."""

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
    r"""Simulate the cells of patients in two or more conditions, with the cause of every difference known.

    On hidden axes, a cell of state s of patient i in condition c lies at

    .. math:: z = \mu_s + b_i + \delta_c \, [s = s^*] \, e_c + \epsilon, \qquad \epsilon_j \sim N(0, \sigma_j^2),

    and is seen rotated at random. The first condition is the reference (:math:`\delta = 0`); each other one moves the
    cells of one affected state :math:`s^*` by `state_effect` along an axis :math:`e_c` of its own
    (:math:`\sigma = 1` there), and multiplies the odds of one other state by exp(`composition_effect`). What is not
    the condition's: the patient's offset
    :math:`b_i \sim N(0, (` `patient_offset` :math:`\sigma_j)^2)`, the patient's composition (log shares with standard
    deviation `composition_noise`), and axes on which all cells vary with standard deviation `noise`.

    Parameters
    ----------
    n_patients
        Number of patients, ``"P00"`` ..., spread evenly over the conditions, in random order.
    n_cells
        Cells of each patient; two numbers are a range, drawn from evenly, both ends included.
    n_dims
        Dimensions of the representation.
    n_states
        Number of cell states, ``"S0"`` ...
    n_genes
        Number of genes: each follows one hidden axis, so that the genes of the signal are known.
    conditions
        Names of the conditions; the first is the reference.
    state_effect
        Shift of the affected state, in standard deviations of its cells along the shift. 0: none.
    composition_effect
        Change of the log odds of the other state. 0: none.
    patient_offset
        Standard deviation of a patient's shift of all cells, in standard deviations of the cells on each axis.
    composition_noise
        Standard deviation of a patient's log shares.
    noise
        Standard deviation of the cells on the noisy axes, about .7 of all.
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
    spread = {"patient_offset": patient_offset, "composition_noise": composition_noise, "noise": noise,
              "separation": separation}  # fmt: skip
    _check(n_patients, low, high, n_dims, n_states, n_genes, names, spread)
    rng = np.random.default_rng(random_state)
    n_axes, affected = len(names) - 1, int(rng.integers(n_states))
    enriched = (affected + 1 + np.arange(n_axes) % (n_states - 1)) % n_states
    condition = rng.permutation(np.arange(n_patients) % len(names))
    shares = _draw_shares(rng, condition, n_states, enriched, composition_effect, composition_noise)
    design = _draw_cells(rng, condition, shares, low, high, _scales(n_dims, n_axes, noise))
    means = rng.normal(size=(n_states, n_dims)) * separation / np.sqrt(2 * n_dims)
    offsets = rng.normal(size=(n_patients, n_dims)) * patient_offset * design.scale
    hidden = means[design.state] + offsets[design.patient] + rng.normal(size=(len(design.state), n_dims)) * design.scale
    _shift(hidden, design, affected, state_effect)
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
        "shares": shares,
    }
    return adata


def _check(
    n_patients: int,
    low: int,
    high: int,
    n_dims: int,
    n_states: int,
    n_genes: int,
    names: list[str],
    spread: dict[str, float],
) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"conditions={names}: give two or more different names.")
    if n_patients < len(names):
        raise ValueError(f"n_patients={n_patients} for {len(names)} conditions: give at least one for each.")
    if not 1 <= low <= high:
        raise ValueError(f"n_cells={low, high}: give a number, or a range (low, high), of 1 or more.")
    if n_dims < len(names):
        raise ValueError(f"n_dims={n_dims}: must be at least {len(names)}, one axis for each condition.")
    if n_states < 2:
        raise ValueError(f"n_states={n_states}: must be at least 2.")
    if n_genes < n_dims:
        raise ValueError(f"n_genes={n_genes}: must be at least n_dims={n_dims}, one for each axis.")
    for key, value in spread.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{key}={value}: must be 0 or more, and finite.")


def _scales(n_dims: int, n_axes: int, noise: float) -> NDArray[np.float64]:
    quiet = n_axes + round(_STATE_DIMS * (n_dims - n_axes))
    return np.where(np.arange(n_dims) < quiet, 1.0, noise)


def _draw_shares(
    rng: np.random.Generator,
    condition: NDArray[np.int64],
    n_states: int,
    enriched: NDArray[np.int64],
    effect: float,
    noise: float,
) -> NDArray[np.float64]:
    logit = noise * rng.normal(size=(len(condition), n_states))
    moved = np.flatnonzero(condition > 0)
    logit[moved, enriched[condition[moved] - 1]] += effect
    share = np.exp(logit - logit.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = share / share.sum(axis=1, keepdims=True)
    return normalised


def _draw_cells(
    rng: np.random.Generator,
    condition: NDArray[np.int64],
    shares: NDArray[np.float64],
    low: int,
    high: int,
    scale: NDArray[np.float64],
) -> _Design:
    patient = np.repeat(np.arange(len(condition)), rng.integers(low, high + 1, size=len(condition)))
    drawn = rng.random(len(patient))[:, None] > shares.cumsum(axis=1)[patient]
    # rounding may leave the last cumulative share below 1
    return _Design(condition, patient, drawn.sum(axis=1).clip(max=shares.shape[1] - 1), scale)


def _shift(hidden: NDArray[np.float64], design: _Design, affected: int, effect: float) -> None:
    level = design.condition[design.patient]
    moved = np.flatnonzero((design.state == affected) & (level > 0))
    hidden[moved, level[moved] - 1] += effect


def _loadings(rng: np.random.Generator, gene_axis: NDArray[np.int64], n_dims: int) -> NDArray[np.float64]:
    """Genes x hidden axes, orthonormal columns: each gene on its one axis."""
    loading = np.zeros((len(gene_axis), n_dims))
    loading[np.arange(len(gene_axis)), gene_axis] = rng.uniform(0.5, 1.5, len(gene_axis)) * rng.choice(
        [-1, 1], len(gene_axis)
    )
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
    seen = x.astype(np.float32)
    adata = anndata.AnnData(seen @ pcs.T.astype(np.float32), obs=obs, var=var)
    adata.obsm["X_pca"], adata.varm["PCs"] = seen, pcs.astype(np.float32)
    return adata
