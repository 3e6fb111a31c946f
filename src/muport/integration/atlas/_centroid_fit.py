"""The fit on very many cells: a sample of every group, its weighted centroids, and the transport of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import single_threaded
from muport.integration.atlas._sampling import draw_sample
from muport.integration.batch_variables._covariates import fit_covariates, remove_covariates
from muport.integration.prototypes._prototypes import NEIGHBORS, count_prototypes
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._fit import fit_shared_centers
from muport.integration.shared_centers._variable_maps import measure_covariates

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.atlas._sampling import Blocks, CellSource, Sample
    from muport.integration.shared_centers._fit import IntegrationFit

__all__ = ["CentroidOptions", "fit_centroids", "rows_at_once"]

_TOTAL = 32_768  # largest number of centroids of all groups
_READ_BYTES = 2**25  # size of the coordinates that are read together
_BLOCK = 2**16  # number of sampled cells that are summed together


@dataclass(frozen=True)
class CentroidOptions:
    """How cells are summarized by centroids.

    - `n_centroids`: Maximum number of centroids of a group.
    - `max_samples`: Maximum number of cells of a group that are sampled.
    - `k_interp`: Number of nearest centroids of its group from which a cell gets its displacement.
    """

    n_centroids: int = 2048
    max_samples: int = 500_000
    k_interp: int = NEIGHBORS


def rows_at_once(width: int) -> int:
    """Return the number of rows of 32 MB."""
    return max(1, _READ_BYTES // (4 * width))


def fit_centroids(
    source: CellSource,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    centroids: CentroidOptions | None = None,
    *,
    fixed: tuple[str, ...] = (),
    step: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit on cells that are read by rows: memory and the size of the state do not grow with their number.

    Every group is sampled (:func:`draw_sample`) and clustered on its own. The centroids, weighted by their cells, are
    then transported by :func:`fit_shared_centers`. If the sample contains every cell, the state is bit-identical to
    that of a fit in memory. Otherwise each sampled cell is weighted by the number of cells that it represents, so that
    center and scale are those of all cells.

    - `hyperparameters`, `options`: As for :func:`fit_shared_centers`, but groups that stay in place are named by
      `fixed`.
    - `centroids`: How cells are summarized. A group of s sampled cells has 3 sqrt(s) centroids, at most 400, as in
      memory, times the resolution that the hyperparameter `prototypes` sets; fewer where `n_centroids` or the limit of
      32,768 centroids for all groups requires it.
    - `fixed`: Names of groups that stay in place.
    - `step`: Number of rows that are read together; those of 32 MB by default.

    Returns the fit. The groups of its state are those of the source in another order.
    """
    how = centroids or CentroidOptions()
    progress("sample")
    sample = draw_sample(source, how.max_samples, options.seed, step or rows_at_once(source.shape[1]))
    label = None if source.labels is None else _read_rows(source.labels, sample.row)
    with single_threaded():
        before, effects, values = sample.x, None, None
        if source.covariates is not None:
            values = _read_covariates(source.covariates, sample.row, source.shape[0])
            names, fractions = list(source.covariate_fractions), list(source.covariate_fractions.values())
            effects = fit_covariates(sample.x, sample.group, values, names, fractions, options.seed)
            sample = replace(sample, x=remove_covariates(sample.x, values, effects, options.search_device))
        scaling = None if sample.is_complete else _measure_scaling(sample)
        cells = standardize_cells(sample.x, sample.group, source.names, label, scaling)
        n_sampled = np.bincount(sample.group, minlength=len(source.names))
        group, measured = sample.group, sample.x if effects is not None else None
        # the sample takes as much memory as its sorted copy
        del sample
        fixed_groups = tuple(i for i, name in enumerate(cells.group_names) if name in fixed)
        limited = _limit_resolution(hyperparameters, n_sampled, how.n_centroids)
        fit = fit_shared_centers(cells, limited, replace(options, fixed_groups=fixed_groups), progress)
    metrics = fit.metrics | {
        "n_centroids": float(sum(len(group_map.position) for group_map in fit.state.maps)),
        "n_sampled": float(n_sampled.sum()),
    }
    state = replace(fit.state, neighbors=how.k_interp, covariates=effects)
    if values is not None and measured is not None:
        code_of_name = {name: code for code, name in enumerate(fit.state.groups)}
        codes = np.array([code_of_name.get(name, -1) for name in source.names])[group]
        metrics |= measure_covariates(before, measured, codes, values, state, options.seed)
    return replace(fit, state=state, metrics=metrics)


def _read_covariates(
    read: Callable[[int, int], NDArray[np.float64]], row: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """Read the covariates of some rows, in ascending order, of `n`."""
    parts = []
    for start in range(0, n, _BLOCK):
        low, high = np.searchsorted(row, (start, start + _BLOCK))
        if high > low:
            parts.append(read(start, min(start + _BLOCK, n))[row[low:high] - start])
    return np.concatenate(parts)


def _read_rows(blocks: Blocks, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read some rows, in ascending order, of a column that is read in blocks."""
    values = np.empty(len(row), np.int64)
    for start, codes in blocks():
        low, high = np.searchsorted(row, (start, start + len(codes)))
        values[low:high] = codes[row[low:high] - start]
    return values


def _measure_scaling(sample: Sample) -> tuple[NDArray[np.float32], float]:
    """Mean of all cells and root mean square distance to it, from the sample, weighted by the cells it represents."""
    weight = sample.weight / sample.weight.sum()
    # In blocks: a copy of the sample in float64 would take twice its memory.
    blocks = [slice(low, low + _BLOCK) for low in range(0, len(weight), _BLOCK)]
    center = np.sum([weight[block] @ sample.x[block] for block in blocks], axis=0)
    squared = sum(float(weight[block] @ np.square(sample.x[block] - center).sum(axis=1)) for block in blocks)
    scale = float(np.sqrt(squared))
    return center.astype(np.float32), scale if scale > 1e-6 * float(np.abs(center).max(initial=0)) else 1.0


def _limit_resolution(hyperparameters: Hyperparameters, n_sampled: NDArray[np.int64], most: int) -> Hyperparameters:
    """Lower the resolution until no group has more than `most` centroids, and all have no more than 32,768."""
    number = np.array([count_prototypes(int(n), hyperparameters.resolution) for n in n_sampled if n])
    factor = min(1.0, most / number.max(), _TOTAL / number.sum())
    if factor == 1:
        return hyperparameters
    return replace(hyperparameters, prototypes=hyperparameters.prototypes * factor)
