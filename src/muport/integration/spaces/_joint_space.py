"""One space for cells measured in several modalities: weighted sums of measurements and of predictions between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._axis_weights import fit_axis_weights
from muport.integration.spaces._cross_modality import (
    PREDICTION_WEIGHT,
    CrossModalPredictor,
    align_shared,
    fit_predictor,
    impute_modalities,
    predict_modality,
)
from muport.integration.spaces._distance_maps import fit_distance_maps
from muport.integration.spaces._held_out_pairs import estimate_shared_fraction
from muport.integration.spaces._modality_weights import (
    ModalityWeights,
    fit_constant_weights,
    fit_weights,
    interpolate_weights,
    score_modalities,
)
from muport.integration.spaces._scaling import fit_scaling
from muport.integration.spaces._shared_space import SharedSpace, embed_modality, fit_shared_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._held_out_pairs import BothSides, Side
    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

__all__ = ["JointEmbedding", "JointSpace", "embed_cells", "fit_joint_space", "split_modalities"]

_CHUNK_SIZE = 2**14  # cells embedded together: bounds the memory
_SHARED_FRACTION = 0.01, 0.9  # smallest and largest fraction of the squared distances from shared coordinates


@dataclass(frozen=True, eq=False)
class JointSpace:
    """Joint space of M modalities; its size does not grow with the number of cells.

    - `modalities`: Names, in the order of their coordinates.
    - `center`, `scale`: Modality -> (d_m,) mean of its coordinates and root mean square distance to it, by which they
      are standardized.
    - `predictor`: Predictions of each modality from the others.
    - `weights`: Weights of the modalities.
    - `shared_scale`: Factor of the shared coordinates, which are appended to those of the modalities; 0 if they are not
      appended.
    - `shared_space`: Space in which the shared coordinates are embedded before they are appended; None if they are not
      appended, and in models of versions that appended them as they are.
    - `axis_weights`: Modality -> (d_m,) factors of its standardized coordinates; without one, they are 1.
    - `distance_weights`: Modality -> (d_m,) further factors of its coordinates in the space, after the predictions;
      only in spaces of older versions.
    - `distance_maps`: Modality -> (d_m, d_m) matrix that its coordinates are multiplied by, after the predictions; none
      in spaces of older versions.
    - `measured_share`: Share of the coordinates that are measurements alone, without predictions and modality weights.
    """

    modalities: Annotated[tuple[str, ...], "M"]
    center: dict[str, Annotated[NDArray[np.float32], "*"]]
    scale: dict[str, Annotated[float, "0.."]]
    predictor: CrossModalPredictor
    weights: ModalityWeights
    shared_scale: Annotated[float, "0.."] = 0.0
    axis_weights: dict[str, Annotated[NDArray[np.float32], "*", "0.."]] = field(default_factory=dict)
    distance_weights: dict[str, Annotated[NDArray[np.float32], "*", "0.."]] = field(default_factory=dict)
    distance_maps: dict[str, Annotated[NDArray[np.float32], "* *"]] = field(default_factory=dict)
    measured_share: Annotated[float, "0..1"] = 0.0
    shared_space: SharedSpace | None = None

    def check_consistency(self) -> None:
        """Raise a ValueError unless the statistics, weights and predictions are those of the modalities."""
        widths = {name: len(self.center[name]) for name in self.modalities}
        if widths.keys() != self.scale.keys() or len(self.weights.mean_weights) != len(widths):
            raise ValueError(f"there are scales of {sorted(self.scale)}, expected those of {self.modalities}.")
        for fitted in (self.axis_weights, self.distance_weights):
            if any(len(weights) != widths.get(name) for name, weights in fitted.items()):
                raise ValueError(f"the axis weights of {sorted(fitted)} do not fit the widths {widths}.")
        if any(matrix.shape != (widths.get(name),) * 2 for name, matrix in self.distance_maps.items()):
            raise ValueError(f"the distance maps of {sorted(self.distance_maps)} do not fit the widths {widths}.")
        for source, regressions in self.predictor.direct.items():
            for target, regression in regressions.items():
                if regression.widths != (widths[source], widths[target]):
                    raise ValueError(f"the regression of {target!r} on {source!r} has the widths {regression.widths}.")
        if self.shared_space is not None:
            self.shared_space.check_consistency()

    @property
    def width(self) -> int:
        """Number D of coordinates of all modalities together."""
        return sum(len(center) for center in self.center.values())

    @property
    def shared_width(self) -> int:
        """Number d_s of shared coordinates that are appended; 0 if they are not."""
        if self.shared_space is not None:
            return self.shared_space.width
        shared = self.predictor.shared
        return len(next(iter(shared.center.values()))) if shared is not None and self.shared_scale else 0


@dataclass(frozen=True, eq=False)
class JointEmbedding:
    """Cells in the joint space.

    - `z`: (n, D + d_s) float32 coordinates: those of all modalities side by side, then the shared ones.
    - `weights`: (n, M) float32 weight of each modality that the cell was measured in; rows sum to 1. Predicted
      modalities have weight 0, although they count in z as if they were measured.
    - `observed`: (n, M) whether the cell was measured in the modality.
    """

    z: NDArray[np.float32]
    weights: NDArray[np.float32]
    observed: NDArray[np.bool_]


def fit_joint_space(
    representations: Coordinates,
    cell_index: CellIndex,
    batch: NDArray[np.int64],
    *,
    shared: Coordinates | None = None,
    random_state: int = 0,
) -> JointSpace:
    """Fit the joint space of modalities that have cells in common.

    - `representations`: Modality -> (n_m, d_m) its own representation.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells; a cell in several is paired.
    - `batch`: (n_cells,) codes.
    - `shared`: Modality -> (n_m, d_s) coordinates in a space that all modalities share. They improve the predictions
      for cells that lack a modality. If there are such cells, they are also embedded as those of unpaired cells
      (:func:`fit_shared_space`) and appended to the coordinates of the modalities, with a scale that grows with how
      well they match held-out pairs (:func:`estimate_shared_fraction`).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(90, 3)).astype(np.float32)
    >>> y = (x @ rng.normal(size=(3, 4))).astype(np.float32)
    >>> cells = np.arange(90)
    >>> space = fit_joint_space({"rna": x, "atac": y}, {"rna": cells, "atac": cells}, np.zeros(90, np.int64))
    >>> embed_cells(space, {"rna": x}, {"rna": cells}, 90).z.shape
    (90, 7)
    """
    names = tuple(representations)
    if len(names) < 2:
        raise ValueError(f"a joint space needs at least two modalities, but there is only {list(names)}.")
    center, scale = fit_scaling(representations)
    x = {m: standardize(representations[m], center[m], scale[m]) for m in names}
    axis_weights = fit_axis_weights(x, cell_index, batch, random_state)
    distance = fit_distance_maps(x, axis_weights, cell_index, batch, random_state)
    x = {m: values * axis_weights[m] for m, values in x.items()}
    predictor = fit_predictor(x, cell_index, len(batch), shared, random_state)
    mapped = {m: values @ distance.maps[m] for m, values in x.items()}
    # (n_cells, M) scores, NaN where a cell was not scored, and their (M,) means; weights are squares of scores
    factor = distance.dimensions ** (distance.share / 2)
    scores, mean_scores = (values * factor for values in score_modalities(mapped, cell_index, batch, random_state))
    # weights depend on the location in the space: the cells are embedded with constant weights first
    constant = fit_constant_weights(mean_scores, sum(values.shape[1] for values in x.values()))
    space = JointSpace(
        names,
        center,
        scale,
        predictor,
        constant,
        axis_weights=axis_weights,
        distance_maps=distance.maps,
        measured_share=distance.share,
    )
    rows = np.flatnonzero(np.isfinite(scores).any(axis=1))
    scored, cell_of_scored = _take_cells(representations, cell_index, rows, len(batch))
    scored_shared = _take_cells(shared or {}, cell_index, rows, len(batch))[0]
    z = embed_cells(space, scored, cell_of_scored, len(rows), shared=scored_shared).z
    order = canonical_order(z)
    space = replace(space, weights=fit_weights(z[order], scores[rows][order], mean_scores, random_state))
    if not shared or all(len(rows_of_modality) == len(batch) for rows_of_modality in cell_index.values()):
        return space
    shared_space = fit_shared_space(representations, shared, random_state)
    embedded = {m: embed_modality(shared_space, m, representations[m], shared[m]) for m in names}
    found = _estimate_fraction(space, x, cell_index, shared, embedded, random_state)
    fraction = np.clip(found, *_SHARED_FRACTION)
    mean_square = np.square(z[order] - z[order].mean(axis=0)).sum(axis=1).mean()
    mean_square_shared = np.mean([np.square(values).sum(axis=1).mean() for values in embedded.values()])
    # scale^2 * mean_square_shared / (scale^2 * mean_square_shared + mean_square) = fraction
    ratio = fraction / (1 - fraction) * mean_square / max(mean_square_shared, np.finfo(np.float32).tiny)
    return replace(space, shared_space=shared_space, shared_scale=float(np.sqrt(ratio)))


def embed_cells(
    space: JointSpace,
    representations: Coordinates,
    cell_index: CellIndex,
    n_cells: int,
    *,
    shared: Coordinates | None = None,
) -> JointEmbedding:
    """Embed cells in the joint space, each cell by itself.

    Let x_m be the standardized coordinates of modality m times the weights of its axes, and P_bm(x_b) the prediction of
    m from b. The modalities that a cell lacks are predicted from those it has. Then y_m = w_m x_m + (sum over b != m of
    w_b P_bm(x_b)) / 3, where w are the weights of the modalities at the cell's location, and 1/3 is
    `PREDICTION_WEIGHT`: predictions have less noise than measurements, but they lack what only one modality measures,
    so they count less. The coordinates are z_m = (f x_m + (1 - f) y_m) A_m, where A_m is the map of the modality and f
    the share of the maps (see :func:`fit_distance_maps`): if all cells have all modalities, measurements count alone.

    - `representations`: Modality -> (n_m, d_m) own representations, of any of the space's modalities.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells.
    - `shared`: As in :func:`fit_joint_space`. Without it, missing modalities are predicted from the measured ones
      alone, and appended shared coordinates are 0.

    Raises ValueError if a modality is unknown, or its width is not that of the fit.
    """
    _check_representations(space, representations)
    observed = np.zeros((n_cells, len(space.modalities)), bool)
    x: dict[str, NDArray[np.float32]] = {}
    for i, m in enumerate(space.modalities):
        x[m] = np.zeros((n_cells, len(space.center[m])), np.float32)
        if m in representations:
            observed[cell_index[m], i] = True
            x[m][cell_index[m]] = standardize(representations[m], space.center[m], space.scale[m])
            x[m] *= _get(space.axis_weights, m)
    s = align_shared(space.predictor, shared, cell_index, n_cells) if shared else None
    z, weights = np.zeros((n_cells, space.width + space.shared_width), np.float32), observed.astype(np.float32)
    for low in range(0, n_cells, _CHUNK_SIZE):
        rows = slice(low, low + _CHUNK_SIZE)
        chunk_of_shared = None if s is None else {m: values[rows] for m, values in s.items()}
        chunk = {m: values[rows] for m, values in x.items()}
        z[rows, : space.width], chunk_weights = _combine_modalities(space, chunk, chunk_of_shared, observed[rows])
        weights[rows] *= np.maximum(chunk_weights, np.finfo(np.float32).tiny)
    if shared and s is not None and space.shared_scale:
        if space.shared_space is not None:
            s = _embed_shared(space.shared_space, representations, shared, cell_index, n_cells)
        z[:, space.width :] = np.float32(space.shared_scale) * _average_shared(space, s, observed)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return JointEmbedding(z, weights, observed)


def split_modalities(space: JointSpace, y: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Split the first D columns of cells (n, D + d_s) into the representations (n, d_m) of all modalities.

    The map of the modality is inverted first. With w its mean weight and f the share of measurements alone, its
    coordinates are divided by f + (1 - f) (w + (1 - w) / 3), and by the weights of the axes. This restores what all
    modalities predict alike; what only this modality measures has the factor f + (1 - f) w: it is shrunk, as noise is.
    """
    bounds = np.cumsum([0, *(len(space.center[m]) for m in space.modalities)])
    w, f = space.weights.mean_weights, space.measured_share
    factor = f + (1 - f) * (w + PREDICTION_WEIGHT * (1 - w))
    scale = {m: np.float32(space.scale[m] / own) for m, own in zip(space.modalities, factor, strict=True)}
    parts: dict[str, NDArray[np.float32]] = {}
    for m, low, high in zip(space.modalities, bounds[:-1], bounds[1:], strict=True):
        x = y[:, low:high] / _get(space.distance_weights, m)
        if m in space.distance_maps:
            x = x @ np.linalg.inv(space.distance_maps[m].astype(np.float64))
        parts[m] = np.ascontiguousarray(x * (scale[m] / _get(space.axis_weights, m)) + space.center[m], np.float32)
    return parts


def _estimate_fraction(
    space: JointSpace,
    x: Coordinates,
    cell_index: CellIndex,
    shared: Coordinates,
    embedded: Coordinates,
    seed: int,
) -> float:
    """Estimate the fraction of the squared distances that the embedded shared coordinates should have.

    The space in which they are embedded knows no pairs, so that it is fitted only once.
    """
    n_cells = 1 + max(int(cells.max(initial=-1)) for cells in cell_index.values())

    def embed_held_out(separated: CellIndex, first: Side, second: Side) -> tuple[BothSides, BothSides]:
        n = len(first[1])
        predictor = fit_predictor(x, separated, n_cells + n_cells, shared, seed)
        # Split each pair into two single-modality cells: rows 0..n-1 hold the first modality, n..2n-1 the second.
        sides = {first[0]: (np.arange(n), first[1]), second[0]: (np.arange(n, 2 * n), second[1])}
        values = {m: np.zeros((2 * n, own.shape[1]), np.float32) for m, own in x.items()}
        observed = np.zeros((2 * n, len(space.modalities)), bool)
        for m, (rows, rows_of_modality) in sides.items():
            values[m][rows] = x[m][rows_of_modality]
            observed[rows, space.modalities.index(m)] = True
        shared_of_sides = {m: shared[m][rows_of_modality] for m, (_, rows_of_modality) in sides.items()}
        s = align_shared(predictor, shared_of_sides, {m: rows for m, (rows, _) in sides.items()}, 2 * n)
        assert s is not None  # for mypy; the predictor was fitted with the shared coordinates  # nosec B101
        z = _combine_modalities(replace(space, predictor=predictor), values, s, observed)[0]
        return (z[:n], z[n:]), (embedded[first[0]][first[1]], embedded[second[0]][second[1]])

    return estimate_shared_fraction(x, cell_index, n_cells, embed_held_out)


def _embed_shared(
    space: SharedSpace, representations: Coordinates, shared: Coordinates, cell_index: CellIndex, n_cells: int
) -> dict[str, NDArray[np.float32]]:
    """Embed the shared coordinates of each modality, by cell: (n_cells, d_s), 0 where a cell lacks the modality."""
    embedded = {m: np.zeros((n_cells, space.width), np.float32) for m in space.regressions}
    for m in embedded.keys() & shared.keys() & representations.keys():
        embedded[m][cell_index[m]] = embed_modality(space, m, representations[m], shared[m])
    return embedded


def _average_shared(space: JointSpace, s: Coordinates, observed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Average the shared coordinates (n, d_s) over the modalities that a cell was measured in."""
    total = np.add.reduce([s[m] * observed[:, [i]] for i, m in enumerate(space.modalities)])
    mean: NDArray[np.float32] = total / np.maximum(observed.sum(axis=1, keepdims=True), 1).astype(np.float32)
    return mean


def _combine_modalities(
    space: JointSpace, x: Coordinates, s: Coordinates | None, observed: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the joint coordinates (n, D) and the weights (n, M) of standardized cells."""
    names = space.modalities
    x = impute_modalities(space.predictor, x, s, {m: observed[:, i] for i, m in enumerate(names)})
    coordinates = {
        (b, m): x[m] if b == m else predict_modality(space.predictor, b, m, x[b], None if s is None else s[b])
        for b, m in product(names, repeat=2)
    }
    mean_weights = np.broadcast_to(space.weights.mean_weights, observed.shape)
    weights = interpolate_weights(_sum_weighted(space, coordinates, mean_weights), space.weights)
    return _sum_weighted(space, coordinates, weights), weights


def _sum_weighted(
    space: JointSpace, coordinates: dict[tuple[str, str], NDArray[np.float32]], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum, for each modality, its own coordinates and those predicted from the others, by the weights of the sources.

    - `coordinates`: (source, target) -> (n, d_target) coordinates, predicted unless the source is the target.
    - `weights`: (n, M) weights of the sources.
    """
    z, share = [], np.float32(space.measured_share)
    for m in space.modalities:
        z_m = share * coordinates[m, m]
        for i, b in enumerate(space.modalities):
            factor = (1 - share) * np.float32(1 if b == m else PREDICTION_WEIGHT)
            z_m += factor * weights[:, [i]] * coordinates[b, m]
        z_m *= _get(space.distance_weights, m)
        z.append(z_m @ space.distance_maps[m] if m in space.distance_maps else z_m)
    return np.concatenate(z, axis=1)


def _get(weights: dict[str, NDArray[np.float32]], modality: str) -> NDArray[np.float32]:
    """Return the factors (d_m,) of a modality; 1 if there are none, as in spaces of older versions."""
    return weights.get(modality, np.ones(1, np.float32))


def _take_cells(
    representations: Coordinates, cell_index: CellIndex, cells: NDArray[np.int64], n: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]:
    """Take the rows of some of n cells, and the index of each row among these cells."""
    new_index = np.full(n, -1)
    new_index[cells] = np.arange(len(cells))
    index = {m: new_index[cell_index[m]] for m in representations}
    return {m: x[index[m] >= 0] for m, x in representations.items()}, {m: i[i >= 0] for m, i in index.items()}


def _check_representations(space: JointSpace, representations: Coordinates) -> None:
    for m, x in representations.items():
        if m not in space.center:
            raise ValueError(f"modality {m!r} is not in the joint space, which holds {list(space.modalities)}.")
        if x.shape[1] != len(space.center[m]):
            raise ValueError(f"{m!r} has {x.shape[1]} coordinates, but the joint space has {len(space.center[m])}.")
