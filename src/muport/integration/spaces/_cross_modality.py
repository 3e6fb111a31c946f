"""Prediction of one modality from another: through paired cells, and through coordinates that all modalities share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._ridge_regression import RidgeRegression, find_paired_rows, fit_ridge
from muport.integration.spaces._scaling import fit_scaling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

__all__ = [
    "PREDICTION_WEIGHT",
    "AssistedPredictor",
    "CrossModalPredictor",
    "SharedPredictor",
    "align_shared",
    "fit_predictor",
    "impute_modalities",
    "predict_modality",
]

PREDICTION_WEIGHT = 1 / 3  # weight of predicted coordinates, relative to measured ones
_MIN_PAIRS = 20  # with fewer paired cells, the shared coordinates alone predict
_MIN_R2 = 1e-6  # R squared that a prediction counts with if it explains nothing


@dataclass(frozen=True, eq=False)
class AssistedPredictor:
    """Prediction of a modality from another and from the shared coordinates of the cells.

    - `shared_weight`: 1 if the prediction from the shared coordinates alone is added to the regression, 0 if not.
    - `regression`: Regression of the target, or of what the shared coordinates leave of it, on the coordinates of the
      source beside the shared ones; None if there are too few paired cells.
    - `r2`: Fraction of the target's variance that is predicted on held-out paired cells.
    """

    shared_weight: Annotated[float, "0..1"]
    regression: RidgeRegression | None
    r2: float


@dataclass(frozen=True, eq=False)
class SharedPredictor:
    """Predictions that use coordinates which all modalities share.

    - `center`, `scale`: Modality -> (d_s,) mean of its shared coordinates, and root mean square distance to it.
    - `from_shared`: Modality -> regression of its own representation on its shared coordinates.
    - `assisted`: Source -> target -> prediction from the source and the shared coordinates together.
    """

    center: dict[str, Annotated[NDArray[np.float32], "S"]]
    scale: dict[str, Annotated[float, "0.."]]
    from_shared: dict[str, RidgeRegression]
    assisted: dict[str, dict[str, AssistedPredictor]]


@dataclass(frozen=True, eq=False)
class CrossModalPredictor:
    """Predictions of each modality from each other one.

    - `direct`: Source -> target -> regression, fitted on the cells that have both.
    - `paths`: Source -> target -> modalities that are predicted one after the other, the target last.
    - `shared`: Predictions with shared coordinates; None if there are no such coordinates.
    """

    direct: dict[str, dict[str, RidgeRegression]]
    paths: dict[str, dict[str, tuple[str, ...]]]
    shared: SharedPredictor | None


def fit_predictor(
    x: Coordinates, cell_index: CellIndex, n_cells: int, shared: Coordinates | None, seed: int
) -> CrossModalPredictor:
    """Fit the predictions of each modality from each other one.

    - `x`: Modality -> (n_m, d_m) standardized coordinates.
    - `shared`: Modality -> (n_m, d_s) shared coordinates.
    """
    pairs = {(b, m): find_paired_rows(x, cell_index, b, m, n_cells) for b, m in permutations(x, 2)}
    direct: dict[str, dict[str, RidgeRegression]] = {b: {} for b in x}
    for (b, m), (source_rows, target_rows) in pairs.items():
        if len(source_rows):
            direct[b][m] = fit_ridge(x[b][source_rows], x[m][target_rows], seed)
    paths = _find_paths(direct)
    unreached = [(b, m) for b, m in pairs if m not in paths[b]]
    if unreached and not shared:
        b, m = unreached[0]
        raise ValueError(f"no chain of paired cells leads from {b!r} to {m!r}: give coordinates that all share.")
    return CrossModalPredictor(direct, paths, _fit_shared(x, shared, pairs, direct, seed) if shared else None)


def _find_paths(direct: Mapping[str, Mapping[str, RidgeRegression]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Find the best chain of regressions between any two modalities, by the product of their R squared."""
    r2 = {(b, m): max(fit.r2, _MIN_R2) for b, targets in direct.items() for m, fit in targets.items()}
    paths: dict[str, dict[str, tuple[str, ...]]] = {b: {m: (m,) for m in targets} for b, targets in direct.items()}
    for via in direct:
        for b, m in permutations(direct, 2):
            detour = r2.get((b, via), 0.0) * r2.get((via, m), 0.0) if via not in (b, m) else 0.0
            # the direct regression is preferred, unless it explains nothing
            if detour > r2.get((b, m), 0.0) and (m not in direct[b] or r2[b, m] <= _MIN_R2):
                r2[b, m] = detour
                paths[b][m] = (*paths[b][via], *paths[via][m])
    return paths


def _fit_shared(
    x: Coordinates,
    shared: Coordinates,
    pairs: Mapping[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]],
    direct: Mapping[str, Mapping[str, RidgeRegression]],
    seed: int,
) -> SharedPredictor:
    center, scale = fit_scaling({m: shared[m] for m in x})
    s = {m: standardize(shared[m], center[m], scale[m]) for m in x}
    from_shared = {}
    for m in x:
        order = canonical_order(np.concatenate([s[m], x[m]], axis=1))
        from_shared[m] = fit_ridge(s[m][order], x[m][order], seed)
    assisted: dict[str, dict[str, AssistedPredictor]] = {b: {} for b in x}
    for (b, m), (source_rows, target_rows) in pairs.items():
        assisted[b][m] = _fit_assisted(
            x[b][source_rows], s[b][source_rows], x[m][target_rows], from_shared[m], direct[b].get(m), seed
        )
    return SharedPredictor(center, scale, from_shared, assisted)


def _fit_assisted(
    x: NDArray[np.float32],
    s: NDArray[np.float32],
    y: NDArray[np.float32],
    from_shared: RidgeRegression,
    direct: RidgeRegression | None,
    seed: int,
) -> AssistedPredictor:
    """Fit the regression on source and shared coordinates: of the target, or of the residual of `from_shared`.

    The one with the higher R squared on held-out paired cells is kept.
    """
    if len(x) < _MIN_PAIRS or direct is None:
        return AssistedPredictor(1.0, None, from_shared.r2 / 2)
    residual = y - from_shared.predict(s)
    both = np.concatenate([x, s], axis=1)
    of_residual, of_target = fit_ridge(both, residual, seed), fit_ridge(both, y, seed)
    unexplained = float(residual.var(axis=0).sum() / max(y.var(axis=0).sum(), np.finfo(np.float32).tiny))
    candidates = (
        AssistedPredictor(1.0, of_residual, 1 - unexplained * (1 - of_residual.r2)),
        AssistedPredictor(0.0, of_target, of_target.r2),
    )
    return max(candidates, key=lambda candidate: candidate.r2)


def align_shared(
    predictor: CrossModalPredictor, shared: Coordinates, cell_index: CellIndex, n_cells: int
) -> dict[str, NDArray[np.float32]] | None:
    """Align the shared coordinates of all modalities by cell, standardized.

    Returns modality -> (n_cells, d_s); where a cell lacks the modality, the mean over the modalities that it has. None
    if the predictor was fitted without shared coordinates.
    """
    if predictor.shared is None:
        return None
    fitted = predictor.shared
    width = len(next(iter(fitted.center.values())))
    total, count = np.zeros((n_cells, width), np.float32), np.zeros((n_cells, 1), np.float32)
    observed = {m: np.zeros(n_cells, bool) for m in fitted.center}
    aligned = {m: np.zeros((n_cells, width), np.float32) for m in fitted.center}
    for m, coordinates in shared.items():
        aligned[m][cell_index[m]] = standardize(coordinates, fitted.center[m], fitted.scale[m])
        observed[m][cell_index[m]] = True
        total += aligned[m]
        count += observed[m][:, None]
    total /= np.maximum(count, 1)
    return {m: np.where(observed[m][:, None], aligned[m], total) for m in fitted.center}


def predict_modality(
    predictor: CrossModalPredictor, source: str, target: str, x: NDArray[np.float32], s: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Predict a modality from another.

    - `source`, `target`: The modalities.
    - `x`: (n, d_source) standardized coordinates of the source.
    - `s`: (n, d_s) shared coordinates; None if they are not known.

    Returns (n, d_target) standardized coordinates of the target; 0 where no chain of paired cells leads to it.
    """
    if s is not None and predictor.shared is not None:
        assisted = predictor.shared.assisted[source][target]
        base = predictor.shared.from_shared[target].predict(s) if assisted.shared_weight else np.float32(0)
        both = np.concatenate([x, s], axis=1)
        correction = assisted.regression.predict(both) if assisted.regression else np.float32(0)
        return np.asarray(base + correction, np.float32)
    if target not in predictor.paths[source]:
        # without shared coordinates a chain leads to every modality
        assert predictor.shared is not None  # for mypy  # nosec B101
        return np.zeros((len(x), len(predictor.shared.from_shared[target].intercept)), np.float32)
    predicted = x
    for via in predictor.paths[source][target]:
        predicted = predictor.direct[source][via].predict(predicted)
        source = via
    return predicted


def _get_r2(predictor: CrossModalPredictor, source: str, target: str, *, with_shared: bool) -> float:
    """Return the R squared of a prediction; along a chain, the product of those of its regressions."""
    if with_shared and predictor.shared is not None:
        return max(predictor.shared.assisted[source][target].r2, _MIN_R2)
    if target not in predictor.paths[source]:
        return _MIN_R2
    r2 = 1.0
    for via in predictor.paths[source][target]:
        r2 *= predictor.direct[source][via].r2
        source = via
    return max(r2, _MIN_R2)


def impute_modalities(
    predictor: CrossModalPredictor, x: Coordinates, s: Coordinates | None, observed: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.float32]]:
    """Fill in the modalities that a cell lacks: the mean of the predictions from those it has, weighted by R squared.

    - `x`: Modality -> (n, d_m) standardized coordinates; rows of cells that lack the modality are not read.
    - `s`: Modality -> (n, d_s) shared coordinates, as :func:`align_shared` returns them.
    - `observed`: Modality -> (n,) whether the cell was measured in it.
    """
    out: dict[str, NDArray[np.float32]] = {}
    for m, values in x.items():
        total = np.zeros((len(values), 1), np.float32)
        imputed = np.zeros_like(values)
        for b in x:
            rows = np.flatnonzero(observed[b] & ~observed[m])
            if b == m or not len(rows):
                continue
            r2 = np.float32(_get_r2(predictor, b, m, with_shared=s is not None))
            imputed[rows] += r2 * predict_modality(predictor, b, m, x[b][rows], None if s is None else s[b][rows])
            total[rows] += r2
        imputed /= np.maximum(total, np.finfo(np.float32).tiny)
        out[m] = np.where(observed[m][:, None], values, imputed)
    return out
