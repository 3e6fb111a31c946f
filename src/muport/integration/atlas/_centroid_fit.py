"""The fit on very many cells: a sample of every group, its weighted centroids, and the transport of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import single_threaded
from muport.integration.atlas._sampling import draw
from muport.integration.prototypes._prototypes import NEIGHBORS, count_prototypes
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._fit import fit_shared_centers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.atlas._sampling import Blocks, Read, Sample
    from muport.integration.shared_centers._fit import FitOptions, IntegrationFit

__all__ = ["CentroidOptions", "fit_centroids", "rows_at_once"]

_TOTAL = 32_768  # centroids of all groups
_READ = 2**25  # bytes read together
_BLOCK = 2**16  # sampled cells summed together


@dataclass(frozen=True)
class CentroidOptions:
    """How cells are summarised.

    Attributes
    ----------
    n_centroids
        Most centroids of a group.
    max_samples
        Most cells of a group that are sampled.
    k_interp
        Centroids of its own group that carry a cell.
    """

    n_centroids: int = 2048
    max_samples: int = 500_000
    k_interp: int = NEIGHBORS


def rows_at_once(width: int) -> int:
    """Rows of 32 MB."""
    return max(1, _READ // (4 * width))


def fit_centroids(
    read: Read,
    blocks: Blocks,
    names: tuple[str, ...],
    shape: tuple[int, int],
    hyperparameters: Hyperparameters,
    options: FitOptions,
    centroids: CentroidOptions | None = None,
    *,
    labels: Blocks | None = None,
    fixed: tuple[str, ...] = (),
    step: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit on cells that are read by rows: memory and the size of the state do not grow with their number.

    Every group is sampled (:func:`draw`) and clustered on its own; the centroids, weighted by their cells, are
    transported as in :func:`fit`, which does the rest. If the sample holds every cell, the state is that of the fit in
    memory, bit by bit. Otherwise the centre and the scale of the data are those of all cells: sampled ones count as
    often as the cells they stand for.

    Parameters
    ----------
    read
        (start, stop) -> (stop - start, d) float32 rows.
    blocks
        Group codes by blocks of rows; called anew for each pass.
    names
        Names of the groups.
    shape
        (n, d).
    hyperparameters, options
        As for :func:`fit`, but groups that stay in place are named by `fixed`.
    centroids
        How cells are summarised. A group of s sampled cells has 3 sqrt(s) centroids, at most 400, as in memory, times
        the resolution that the hyperparameter `prototypes` sets; fewer where `n_centroids` or the limit of 32,768
        centroids for all groups requires it.
    labels
        Label codes by blocks of rows, -1 where unknown.
    fixed
        Names of groups that stay in place.
    step
        Rows that are read together; those of 32 MB by default.
    progress
        Called with the name of each stage.

    Returns
    -------
    The fit; the state's groups are `names` in another order.
    """
    how = centroids or CentroidOptions()
    progress("sample")
    at_once = step or rows_at_once(shape[1])
    sample = draw(read, blocks, len(names), shape, how.max_samples, options.seed, at_once)
    label = None if labels is None else _pick(labels, sample.row)
    with single_threaded():
        cells = standardize_cells(sample.x, sample.group, names, label, None if sample.whole else _scaling(sample))
        held = np.bincount(sample.group, minlength=len(names))
        del sample
        reference = tuple(i for i, name in enumerate(cells.names) if name in fixed)
        found = fit_shared_centers(
            cells, _within(hyperparameters, held, how.n_centroids), replace(options, fixed_groups=reference), progress
        )
    metrics = found.metrics | {
        "n_centroids": float(sum(len(one.position) for one in found.state.maps)),
        "n_sampled": float(held.sum()),
    }
    return replace(found, state=replace(found.state, neighbors=how.k_interp), metrics=metrics)


def _pick(blocks: Blocks, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Entries of some rows, in ascending order, of a column that is read in blocks."""
    found = np.empty(len(row), np.int64)
    for start, codes in blocks():
        low, high = np.searchsorted(row, (start, start + len(codes)))
        found[low:high] = codes[row[low:high] - start]
    return found


def _scaling(sample: Sample) -> tuple[NDArray[np.float32], float]:
    """Mean of all cells, and their root mean square distance to it, by the cells that the sampled ones stand for."""
    weight = sample.weight / sample.weight.sum()
    # a block at a time: in float64 the sample would take twice its memory again
    parts = [slice(low, low + _BLOCK) for low in range(0, len(weight), _BLOCK)]
    center = np.sum([weight[part] @ sample.x[part] for part in parts], axis=0)
    squared = sum(float(weight[part] @ np.square(sample.x[part] - center).sum(axis=1)) for part in parts)
    spread = float(np.sqrt(squared))
    return center.astype(np.float32), spread if spread > 1e-6 * float(np.abs(center).max(initial=0)) else 1.0


def _within(hyperparameters: Hyperparameters, held: NDArray[np.int64], most: int) -> Hyperparameters:
    """Lower the resolution until no group has more than `most` centroids, and all have no more than 32,768."""
    number = np.array([count_prototypes(int(n), hyperparameters.resolution) for n in held if n])
    share = min(1.0, most / number.max(), _TOTAL / number.sum())
    return hyperparameters if share == 1 else replace(hyperparameters, prototypes=hyperparameters.prototypes * share)
