"""Simulated multiome of several batches with known types, batch effects, gene links and pairing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_integers, check_not_negative, check_numbers, check_seed
from muport._global_state import preserve_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LATENT = 10  # dimensions of the latent state
_BLOCK = 2048  # cells whose counts are drawn together; limits the memory of the dense rates


@dataclass(frozen=True)
class _SimulatedCells:
    """Type (n,), batch (n,), latent state (n, _LATENT) and position within the type (n,) of each cell."""

    type: NDArray[np.int64]
    batch: NDArray[np.int64]
    state: NDArray[np.float64]
    time: NDArray[np.float64]


@dataclass(frozen=True)
class _CountModel:
    """Rates of a modality: log rate = base + state @ loading + shift of the batch; and the depth (n,) of each cell.

    With a dispersion the counts are negative binomial, without one they are Poisson.
    """

    base: NDArray[np.float64]
    loading: NDArray[np.float64]
    shift: NDArray[np.float64]
    depth: NDArray[np.float64]
    dispersion: NDArray[np.float64] | None


def simulated_multiome(
    n_cells: int = 2000,
    n_genes: int = 500,
    n_peaks: int = 1500,
    n_types: int = 6,
    n_batches: int = 3,
    rare_fraction: float = 0.01,
    paired: bool | float = False,
    missing_type_from: int | None = 0,
    batch_effect: float = 0.5,
    random_state: int = 0,
) -> mudata.MuData:
    r"""Simulate genes and peaks of the same cells from one latent state.

    A cell of type t at position u in [0, 1] along its type has the state z = c_t + u d_t + noise; the types belong to
    two lineages. Gene rates are log-linear in z. The rate of a peak follows the gene it is linked to, or z for peaks
    without a gene. Counts are negative binomial for genes and Poisson for peaks. A batch scales each gene and each
    peak by its own factor exp(N(0, `batch_effect`\\ :sup:`2`)), a part of which depends on the type, and has its own
    depth.

    Parameters
    ----------
    n_cells
        Number of cells. Each is measured twice; see `paired`.
    n_genes
        Number of genes.
    n_peaks
        Number of peaks.
    n_types
        Number of cell types, ``"T0"`` ..., of unequal size; the last is rare.
    n_batches
        Number of batches, ``"batch0"`` ..., of unequal size.
    rare_fraction
        Fraction of the cells that are of the rare type.
    paired
        Fraction of the cells whose two measurements have the same name; True is all, False is none. Without pairs
        ``mdata`` has 2 `n_cells` cells, and the true match of a cell is the other cell with the same
        ``obs["pair_id"]``.
    missing_type_from
        Index of the batch without cells of type ``"T1"``; None: every batch has every type.
    batch_effect
        Standard deviation of the log factors of a batch; with 0 batches do not differ.
    random_state
        Seed.

    Returns
    -------
    MuData with modalities ``rna`` (`n_genes`) and ``atac`` (`n_peaks`), CSR float32 counts. Both have ``obs`` columns
    ``batch``, ``cell_type``, ``pair_id`` and ``position`` (u). ``atac.varm["gene_link"]`` (peaks x genes, 0/1) with
    ``atac.uns["gene_link_genes"]`` gives gene activity as ``X @ gene_link``; ``uns["simulation"]`` names the rare and
    the missing type.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> mdata = simulated_multiome(n_cells=200, n_genes=50, n_peaks=80)
    >>> mdata["rna"].shape, mdata["atac"].shape, mdata.n_obs
    ((200, 50), (200, 80), 400)
    """
    check_integers(10, n_cells=n_cells)
    check_integers(2, n_genes=n_genes, n_peaks=n_peaks)
    check_integers(3, n_types=n_types)
    check_integers(1, n_batches=n_batches)
    check_numbers(0, 1, rare_fraction=rare_fraction, paired=float(paired))
    check_not_negative(batch_effect=batch_effect)
    if missing_type_from is not None and not 0 <= missing_type_from < n_batches:
        raise ValueError(
            f"missing_type_from={missing_type_from} must be None or the index of one of the {n_batches} batches."
        )
    check_seed(random_state)
    rng = np.random.default_rng(random_state)
    cells = _draw_cells(rng, n_cells, n_types, n_batches, rare_fraction, missing_type_from)
    genes = _draw_genes(rng, cells, n_genes, n_types, n_batches, batch_effect)
    link = _draw_link(rng, n_peaks, n_genes)
    peaks = _draw_peaks(rng, cells, genes, link, n_types, n_batches, batch_effect)
    is_paired = rng.permutation(n_cells) < round(float(paired) * n_cells)
    rna = _draw_counts(rng, cells, genes, "gene", np.where(is_paired, "cell", "rna"))
    atac = _draw_counts(rng, cells, peaks, "peak", np.where(is_paired, "cell", "atac"))
    atac = atac[rng.permutation(n_cells)].copy()
    atac.varm["gene_link"] = link
    atac.uns["gene_link_genes"] = rna.var_names.to_numpy(dtype=object)
    with preserve_generators():  # mudata draws random names of columns
        mdata = mudata.MuData({"rna": rna, "atac": atac})
    mdata.uns["simulation"] = {"rare_type": f"T{n_types - 1}", "seed": random_state, "batch_effect": batch_effect}
    if missing_type_from is not None:
        mdata.uns["simulation"] |= {"missing_type": "T1", "missing_from": f"batch{missing_type_from}"}
    return mdata


def _draw_cells(
    rng: np.random.Generator, n: int, n_types: int, n_batches: int, rare: float, missing: int | None
) -> _SimulatedCells:
    common = rng.dirichlet(np.full(n_types - 1, 8.0)) * (1 - rare)
    cell_type = rng.choice(n_types, size=n, p=np.append(common, rare))
    # the rare type must have cells
    cell_type[: max(1, round(rare * n))] = n_types - 1
    batch = rng.choice(n_batches, size=n, p=rng.dirichlet(np.full(n_batches, 20.0)))
    if missing is not None and n_batches > 1:
        reassigned = (cell_type == 1) & (batch == missing)
        batch[reassigned] = (missing + 1 + rng.integers(n_batches - 1, size=int(reassigned.sum()))) % n_batches
    # two lineages: types of the same lineage are hard to separate, lineages are not
    lineage = rng.normal(scale=0.6, size=(2, _LATENT))
    center = lineage[np.arange(n_types) % 2] + rng.normal(scale=0.5, size=(n_types, _LATENT))
    direction = rng.normal(scale=0.5, size=(n_types, _LATENT))
    time = rng.uniform(size=n)
    state = center[cell_type] + time[:, None] * direction[cell_type] + rng.normal(scale=0.2, size=(n, _LATENT))
    return _SimulatedCells(cell_type, batch, state, time)


def _draw_batch_effects(
    rng: np.random.Generator, cells: _SimulatedCells, n_types: int, n_batches: int, p: int, effect: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the shift (batches, types, p) of the log rates, and the depth (n,) of each cell."""
    shift = effect * (rng.normal(size=(n_batches, 1, p)) + 0.3 * rng.normal(size=(n_batches, n_types, p)))
    depth = rng.lognormal(sigma=0.3, size=len(cells.type))
    return shift, depth * np.exp(effect * rng.normal(scale=0.6, size=n_batches))[cells.batch]


def _draw_genes(
    rng: np.random.Generator, cells: _SimulatedCells, p: int, n_types: int, n_batches: int, effect: float
) -> _CountModel:
    loading = rng.normal(scale=0.5, size=(_LATENT, p)) * (rng.uniform(size=(_LATENT, p)) < 0.3)
    shift, depth = _draw_batch_effects(rng, cells, n_types, n_batches, p, effect)
    return _CountModel(rng.normal(-1.2, 1.0, size=p), loading, shift, depth, rng.gamma(4.0, 0.5, size=p))


def _draw_link(rng: np.random.Generator, n_peaks: int, n_genes: int) -> sparse.csr_matrix:
    linked = np.flatnonzero(rng.uniform(size=n_peaks) < 0.7)
    gene = rng.integers(n_genes, size=len(linked))
    ones = np.ones(len(linked), dtype=np.float32)
    return sparse.csr_matrix((ones, (linked, gene)), shape=(n_peaks, n_genes))


def _draw_peaks(
    rng: np.random.Generator,
    cells: _SimulatedCells,
    genes: _CountModel,
    link: sparse.csr_matrix,
    n_types: int,
    n_batches: int,
    effect: float,
) -> _CountModel:
    p = link.shape[0]
    independent = rng.normal(scale=0.4, size=(_LATENT, p)) * (rng.uniform(size=(_LATENT, p)) < 0.2)
    # a peak responds to the state like its gene but less strongly, and has an independent part
    from_gene: NDArray[np.float64] = 0.6 * np.asarray(link @ genes.loading.T).T
    shift, depth = _draw_batch_effects(rng, cells, n_types, n_batches, p, effect)
    return _CountModel(rng.normal(-2.8, 0.7, size=p), from_gene + 0.5 * independent, shift, depth, None)


def _draw_counts(
    rng: np.random.Generator, cells: _SimulatedCells, features: _CountModel, feature_name: str, prefix: NDArray[Any]
) -> anndata.AnnData:
    """Draw the counts of one modality; cell names are a prefix for each cell and its ``pair_id``."""
    blocks = []
    for start in range(0, len(cells.type), _BLOCK):
        rows = slice(start, start + _BLOCK)
        log_rate = features.base + cells.state[rows] @ features.loading
        log_rate += features.shift[cells.batch[rows], cells.type[rows]]
        # rates above exp(6) = 400 counts do not occur in single cells
        rate = np.exp(np.minimum(log_rate, 6.0)) * features.depth[rows, None]
        if features.dispersion is not None:
            rate = rng.gamma(features.dispersion, rate / features.dispersion)
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata = anndata.AnnData(sparse.vstack(blocks, format="csr"))
    pair_id = np.array([f"{i:06d}" for i in range(len(cells.type))])
    adata.obs_names = [f"{start}_{name}" for start, name in zip(prefix, pair_id, strict=True)]
    adata.var_names = [f"{feature_name}{j}" for j in range(adata.n_vars)]
    adata.obs["batch"] = pd.Categorical([f"batch{b}" for b in cells.batch])
    adata.obs["cell_type"] = pd.Categorical([f"T{t}" for t in cells.type])
    adata.obs["pair_id"] = pair_id
    adata.obs["position"] = cells.time
    return adata
