"""Features of the representation on learned axes and in components, ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_option
from muport._tables import rows_by_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["axis_loadings", "component_shifts", "order_loadings", "rank_features"]


def axis_loadings(w: ArrayLike, loadings: ArrayLike) -> NDArray[np.float64]:
    """Compute the weight of each feature on each axis: with the representation z = V' x, W z = (V W')' x.

    - `w`: (r, d) metric.
    - `loadings`: (g, d) loadings V of the representation on the features, such as ``adata.varm["PCs"]``.

    Returns (g, r). Raises ValueError if the dimensions differ, or an entry is not finite.

    Examples
    --------
    >>> axis_loadings([[0.0, 2.0]], [[1.0, 0.0], [0.0, 0.5]]).tolist()
    [[0.0], [1.0]]
    """
    metric, matrix = np.asarray(w, dtype=np.float64), np.asarray(loadings, dtype=np.float64)
    if metric.ndim != 2 or matrix.ndim != 2 or metric.shape[1] != matrix.shape[1]:
        raise ValueError(f"w {metric.shape} and loadings {matrix.shape} must be (axes, d) and (features, d).")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ValueError(f"loadings have NaN or infinite entries for {int(bad.sum())} features: leave these out.")
    return matrix @ metric.T


def order_loadings(loadings: Any, features: Sequence[str]) -> Any:
    """Loadings (g, d) in the order of the features; a table is matched by name.

    Raises TypeError if the features are one string, or the loadings are not real numbers; ValueError if names are
    missing, repeat or are not those of the loadings.
    """
    if isinstance(features, str):
        raise TypeError(f"features={features!r} is one string: pass a list of names.")
    names = pd.Index(list(features))
    if names.hasnans:
        raise ValueError("features holds a missing name (NaN): name each feature.")
    if not names.is_unique:
        raise ValueError(f"features names {names[names.duplicated()][0]!r} twice: make the names unique.")
    if isinstance(loadings, pd.DataFrame) and not isinstance(loadings.index, pd.RangeIndex):
        loadings = rows_by_name(loadings, names, "loadings", row="feature")
    loadings = loadings.toarray() if sparse.issparse(loadings) else loadings
    if not isinstance(loadings, pd.DataFrame) and (kind := np.asarray(loadings).dtype).kind not in "biuf":
        raise TypeError(f"loadings hold {kind}, not real numbers: convert them with .astype(float).")
    if len(loadings) != len(names):
        raise ValueError(f"features has {len(names)} names for {len(loadings)} rows of loadings.")
    return loadings


def component_shifts(means: ArrayLike, mass: ArrayLike) -> NDArray[np.float64]:
    """Compute the offset of each component's mean from the mean of all other components.

    The product of the loadings (g, d) and its transpose is (g, M) scores for :func:`rank_features`.

    - `means`: (M, d) means, such as those of :class:`ComponentGroups`.
    - `mass`: (M,) masses, such as mean fractions of cells.

    Returns (M, d); 0 for a single component, and for a component with all the mass. Raises ValueError if shapes do not
    fit.

    Examples
    --------
    >>> component_shifts([[0.0], [2.0], [4.0]], [1.0, 1.0, 2.0]).round(3).tolist()
    [[-3.333], [-0.667], [3.0]]
    """
    mean, weight = np.asarray(means, dtype=np.float64), np.asarray(mass, dtype=np.float64)
    if mean.ndim != 2 or weight.shape != mean.shape[:1]:
        raise ValueError(f"means {mean.shape} and mass {weight.shape} must be (M, d) and (M,).")
    total = weight.sum()
    shift = mean - weight @ mean / total
    # m_k - (T m - p_k m_k) / (T - p_k) = (m_k - m) T / (T - p_k)
    rest = total - weight
    alone = rest <= 1e-12 * total
    return np.where(alone[:, None], 0.0, shift * (total / np.where(alone, 1.0, rest))[:, None])


def rank_features(
    scores: ArrayLike,
    features: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    n: int | None = None,
    by: Literal["magnitude", "up", "down"] = "magnitude",
) -> pd.DataFrame:
    """Rank features for each axis or component.

    - `scores`: (g, r) scores of g features; see :func:`axis_loadings` and :func:`component_shifts`.
    - `features`: (g,) names of the features.
    - `names`: (r,) names of the axes or components; 0, 1, ... by default.
    - `n`: Number of features for each; all by default.
    - `by`: Order: by the ``"magnitude"`` of the score, from the highest (``"up"``) or from the lowest (``"down"``).

    Returns ``item``, ``rank`` (from 1), ``feature`` and ``score``, one item after another. Features of equal scores
    keep their order. Raises ValueError if shapes do not fit or `by` is unknown.

    Examples
    --------
    >>> rank_features([[0.1], [-3.0], [2.0]], ["A", "B", "C"], n=2)["feature"].tolist()
    ['B', 'C']
    """
    matrix = np.asarray(scores, dtype=np.float64)
    keys = {"magnitude": np.abs, "up": np.positive, "down": np.negative}
    check_option("by", by, keys)
    if matrix.ndim != 2 or len(matrix) != len(features):
        raise ValueError(f"scores of shape {matrix.shape} do not fit {len(features)} features: one row each is needed.")
    items = [str(name) for name in (range(matrix.shape[1]) if names is None else names)]
    if len(items) != matrix.shape[1]:
        raise ValueError(f"names has {len(items)} entries for {matrix.shape[1]} columns of scores.")
    order = np.argsort(-keys[by](matrix), axis=0, kind="stable")[:n]
    kept = len(order)
    return pd.DataFrame(
        {
            "item": np.repeat(items, kept),
            "rank": np.tile(np.arange(1, kept + 1), len(items)),
            "feature": np.asarray(features)[order.T.ravel()],
            "score": np.take_along_axis(matrix, order, axis=0).T.ravel(),
        }
    )
