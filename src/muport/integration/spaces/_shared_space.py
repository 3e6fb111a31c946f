"""A space that unpaired modalities share, denoised and completed by the representation that each has of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order, unit_rows
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._canonical_axes import (
    CanonicalAxes,
    find_mutual_neighbors,
    find_neighbors,
    fit_canonical_axes,
)
from muport.integration.spaces._cross_modality import PREDICTION_WEIGHT
from muport.integration.spaces._ridge_regression import RidgeRegression, fit_ridge
from muport.integration.spaces._scaling import fit_scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._canonical_axes import Neighbors
    from muport.integration.spaces._scaling import Coordinates

__all__ = ["SharedSpace", "denoise", "embed_modality", "fit_shared_space"]

_MAX_CELLS = 20_000  # of a modality, on which canonical axes are fitted
_MAX_CELLS_OF_CHOICE = 2_000  # of a modality, on which the number of rounds is chosen
_MAX_ROUNDS = 2  # of matching cells and fitting the canonical axes
_N_SPLITS = 3  # of the shared axes into two halves


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Regressions that denoise the shared coordinates, and canonical axes; their size does not grow with the cells.

    - `center`, `scale`: Modality -> (d_m,) mean of its own representation, and root mean square distance to it.
    - `regressions`: Modality -> regression of the shared coordinates on the standardized own representation.
    - `denoised_center`: Modality -> (d_s,) mean of its denoised coordinates.
    - `rescaling`: Modality -> (d_s,) factors that give its denoised coordinates the same standard deviations as the
      others'.
    - `canonical_axes`: Axes on which the own representations agree, beside the denoised coordinates; None where they
      do not help, and in models of versions that did not fit them.
    """

    center: dict[str, Annotated[NDArray[np.float32], "*"]]
    scale: dict[str, Annotated[float, "0.."]]
    regressions: dict[str, RidgeRegression]
    denoised_center: dict[str, Annotated[NDArray[np.float32], "S"]]
    rescaling: dict[str, Annotated[NDArray[np.float32], "S"]]
    canonical_axes: CanonicalAxes | None = None

    @property
    def width(self) -> int:
        """Number d_s + k of coordinates of a cell in the space."""
        return len(next(iter(self.denoised_center.values()))) + self.n_canonical

    @property
    def n_canonical(self) -> int:
        """Number k of the canonical axes; 0 without them."""
        return 0 if self.canonical_axes is None else self.canonical_axes.n_axes

    def check_consistency(self) -> None:
        """Raise a ValueError unless each modality has its statistics and a regression of their widths."""
        for name, regression in self.regressions.items():
            expected = (len(self.center[name]), len(self.denoised_center[name]))
            if regression.widths != expected or name not in self.scale or name not in self.rescaling:
                raise ValueError(f"the regression of {name!r} has the widths {regression.widths}, expected {expected}.")
        if self.canonical_axes is not None:
            self.canonical_axes.check_widths({name: len(center) for name, center in self.center.items()})


def fit_shared_space(own: Coordinates, shared: Coordinates, random_state: int = 0) -> SharedSpace:
    """Fit the space of modalities that share coordinates, where each also has a representation of its own.

    Modalities often share few features, and the values s of one cell are mostly noise. The cell's own representation x
    is made from all features. It enters in two ways.

    The prediction E[s | x] by ridge regression has less noise; but it lacks what x does not predict, in the first place
    rare types. As in the joint space, a prediction therefore counts a third of a measurement:
    (s + E[s | x] / 3) / (1 + 1 / 3). Each axis is then rescaled, in each modality, to the geometric mean of its
    standard deviations over the modalities: an axis that one modality cannot predict shrinks in all.

    What the shared features do not measure at all, the own representations may still have in common. Cells of two
    modalities that are mutual neighbors in the denoised coordinates are roughly alike, and the canonical axes of their
    own representations average over many such matches. These axes stand beside the denoised coordinates, and a second
    round matches the cells in both. The number of rounds (0, 1 or 2) is chosen by shared axes that were left out (see
    :func:`_choose_rounds`). MaxFuse [1]_ alternates between matching and canonical correlation in this way.

    - `own`: Modality -> (n_m, d_m) own representation.
    - `shared`: Modality -> (n_m, d_s) shared coordinates, row by row.

    References
    ----------
    .. [1] Chen et al. (2024), Integration of spatial and single-cell data across modalities with weakly linked
       features. Nature Biotechnology.
    """
    center, scale = fit_scaling(own)
    rows, values = {}, {}
    for m, x in own.items():
        order = canonical_order(np.concatenate([x, shared[m]], axis=1))
        rows[m], values[m] = standardize(x[order], center[m], scale[m]), shared[m][order]
    space = _fit_denoising(center, scale, rows, values, random_state)
    sample = _sample_cells(rows, _MAX_CELLS, random_state)
    rows, values = ({m: x[sample[m]] for m, x in of.items()} for of in (rows, values))
    n_rounds = _choose_rounds(rows, values, random_state)
    denoised = {m: denoise(space, m, rows[m], values[m]) for m in rows}
    axes = None
    for _ in range(n_rounds):
        axes = _fit_round(rows, _find_neighbors(rows, denoised, axes))
    return replace(space, canonical_axes=axes)


def embed_modality(
    space: SharedSpace, modality: str, own: NDArray[np.float32], shared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Embed cells of a modality in the shared space, each cell by itself.

    - `own`: (n, d_m) own representation.
    - `shared`: (n, d_s) shared coordinates.

    Returns the (n, d_s) denoised coordinates. If the space has canonical axes: the directions, as unit vectors, of the
    denoised coordinates, and beside them those of the (n, k) canonical ones.
    """
    x = standardize(own, space.center[modality], space.scale[modality])
    denoised = denoise(space, modality, x, shared)
    return denoised if space.canonical_axes is None else _join_directions(space.canonical_axes, modality, x, denoised)


def denoise(
    space: SharedSpace, modality: str, x: NDArray[np.float32], shared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Denoise shared coordinates (n, d_s) by standardized own representations (n, d_m): mean 0 in each modality."""
    denoised = _average_with_prediction(x, shared, space.regressions[modality])
    denoised -= space.denoised_center[modality]
    denoised *= space.rescaling[modality]
    return denoised


def _fit_denoising(
    center: dict[str, NDArray[np.float32]], scale: dict[str, float], rows: Coordinates, values: Coordinates, seed: int
) -> SharedSpace:
    """Fit the regressions and the rescaling on standardized own representations and the shared coordinates."""
    regressions, denoised_center, deviation = {}, {}, {}
    for m, x in rows.items():
        regressions[m] = fit_ridge(x, values[m], seed)
        denoised = _average_with_prediction(x, values[m], regressions[m])
        denoised_center[m] = denoised.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation[m] = np.maximum(denoised.std(axis=0, dtype=np.float64), np.finfo(np.float32).tiny)
    common = np.exp(np.mean([np.log(values) for values in deviation.values()], axis=0))
    rescaling = {m: (common / values).astype(np.float32) for m, values in deviation.items()}
    return SharedSpace(center, scale, regressions, denoised_center, rescaling)


def _find_neighbors(x: Coordinates, denoised: Coordinates, axes: CanonicalAxes | None) -> Neighbors:
    """Find the nearest cells in each other modality, in the denoised and the canonical coordinates."""
    return find_neighbors({m: _join_directions(axes, m, x[m], denoised[m]) for m in x})


def _fit_round(x: Coordinates, neighbors: Neighbors) -> CanonicalAxes | None:
    """Fit the canonical axes on the cells that are neighbors of each other."""
    return fit_canonical_axes(x, find_mutual_neighbors(neighbors))


def _choose_rounds(x: Coordinates, shared: Coordinates, seed: int) -> int:
    """Choose the number of rounds whose matches agree best in shared axes that were left out.

    The shared axes are split into two halves, several times. One half is all that the modalities share in the fit; by
    the other it is measured how well cells and their matches agree. The measure needs neither pairs nor labels. The
    gain of the first round must be larger than its standard error over the halves. The second round is judged only if
    the first is of use, because it matches cells by the axes of the first.
    """
    n_axes = next(iter(shared.values())).shape[1]
    if n_axes < 2:
        return 0
    sample = _sample_cells(x, _MAX_CELLS_OF_CHOICE, seed)
    x, shared = ({m: values[sample[m]] for m, values in of.items()} for of in (x, shared))
    halves, rng = [], np.random.default_rng(seed)
    for _ in range(_N_SPLITS):
        first, second = np.array_split(rng.permutation(n_axes), 2)
        halves += [(first, second), (second, first)]
    agreement = np.array([_measure_rounds(x, shared, fitted, left_out, seed) for fitted, left_out in halves])
    gain = agreement[:, 1] - agreement[:, 0]
    if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)):
        return 0
    return 1 + int(agreement.mean(axis=0)[1:].argmax())


def _measure_rounds(
    x: Coordinates, shared: Coordinates, fitted: NDArray[np.int64], left_out: NDArray[np.int64], seed: int
) -> list[float]:
    """Measure the agreement in the left-out shared axes after 0, 1, ... rounds that see the other axes alone."""
    center, scale = {m: np.zeros(v.shape[1], np.float32) for m, v in x.items()}, dict.fromkeys(x, 1.0)
    values = {m: s[:, fitted] for m, s in shared.items()}
    space = _fit_denoising(center, scale, x, values, seed)
    denoised = {m: denoise(space, m, x[m], values[m]) for m in x}
    held_out = {m: s[:, left_out] - s[:, left_out].mean(axis=0) for m, s in shared.items()}
    neighbors = _find_neighbors(x, denoised, None)
    agreement = [_measure_agreement(neighbors, held_out)]
    for _ in range(_MAX_ROUNDS):
        neighbors = _find_neighbors(x, denoised, _fit_round(x, neighbors))
        agreement.append(_measure_agreement(neighbors, held_out))
    return agreement


def _measure_agreement(neighbors: Neighbors, values: Coordinates) -> float:
    """Correlation of the values of cells with the means of their neighbors in each other modality."""
    found = []
    for (a, b), nearest in neighbors.items():
        pair = np.stack([values[a][nearest].mean(axis=1).ravel(), values[b].ravel()]).astype(np.float64)
        found.append(float(np.prod(unit_rows(pair), axis=0).sum()))
    return float(np.mean(found))


def _sample_cells(x: Coordinates, most: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Sample at most `most` rows of each modality, sorted."""
    rng = np.random.default_rng(seed)
    return {m: np.sort(rng.choice(len(x[m]), min(most, len(x[m])), replace=False)) for m in sorted(x)}


def _join_directions(
    axes: CanonicalAxes | None, modality: str, x: NDArray[np.float32], denoised: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit vectors along the denoised coordinates (n, d_s), and beside them along the canonical ones (n, k).

    The length of a vector follows the depth to which a cell is sequenced, its direction the kind of the cell.
    """
    parts = [denoised] if axes is None else [denoised, axes.project(modality, x)]
    return np.concatenate([unit_rows(part) for part in parts], axis=1)


def _average_with_prediction(
    x: NDArray[np.float32], s: NDArray[np.float32], regression: RidgeRegression
) -> NDArray[np.float32]:
    average = regression.predict(x)
    average *= np.float32(PREDICTION_WEIGHT)
    average += s
    average /= np.float32(1 + PREDICTION_WEIGHT)
    return average
