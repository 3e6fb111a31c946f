"""The coordinates of cells, computed from their counts by a recipe, in blocks of cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from muport._arrays import unit_rows
from muport.data.reading._count_matrix import iterate_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.data.projection._recipe import ProjectionRecipe

__all__ = ["compute_coordinates"]


def compute_coordinates(
    counts: Any,
    names: Sequence[str] | pd.Index,
    recipe: ProjectionRecipe,
    where: str,
    *,
    allow_missing: float = 0.0,
) -> NDArray[np.float32]:
    """Compute the coordinates (n, k) of cells; those of a cell depend on its own counts and the recipe only.

    - `counts`: (n, p) counts.
    - `names`: (p,) names of their features, in any order. Features that the recipe does not use are ignored.
    - `where`: How the message calls the data.
    - `allow_missing`: Largest fraction of the features with loadings that may be missing. A missing one counts as if it
      had its mean in the reference: it changes no coordinate.

    Raises KeyError if more of these features are missing; ValueError if names repeat.
    """
    columns = _match_features(pd.Index(names), recipe, where, allow_missing)
    if allow_missing and not _needs_all(recipe):
        recipe = replace(recipe, mean=np.where(columns[recipe.used] < 0, 0, recipe.mean))
    links, present = recipe.links, columns >= 0
    # a feature that is missing has no counts; only the depth of the cell depends on it
    selection = sparse.csr_matrix(
        (np.ones(present.sum(), np.float32), (columns[present], np.flatnonzero(present))),
        shape=(counts.shape[1], len(columns)),
    )
    if links is not None:
        selection = (selection @ links).tocsr()
    z = np.empty((counts.shape[0], recipe.loadings.shape[1]), dtype=np.float32)
    for rows, block in iterate_blocks(counts):
        z[rows] = _reduce(_transform(sparse.csr_matrix(block @ selection), recipe), recipe)
    return z


def _needs_all(recipe: ProjectionRecipe) -> bool:
    """Whether a coordinate depends on all features: each cell's mean over the proteins, or the peaks of a gene."""
    return recipe.transform == "clr" or len(recipe.link_start) > 0


def _match_features(names: pd.Index, recipe: ProjectionRecipe, where: str, allow_missing: float) -> NDArray[np.int64]:
    """Return the column of each feature of the recipe, -1 where it is missing."""
    if not names.is_unique:
        raise ValueError(f"{where}: names of features repeat, for example {names[names.duplicated()][0]!r}.")
    columns = np.asarray(names.get_indexer(pd.Index(recipe.features)), dtype=np.int64)
    needed = np.ones(len(columns), dtype=bool)
    if not _needs_all(recipe):
        needed[:] = False
        needed[recipe.used] = True
    missing = np.flatnonzero(needed & (columns < 0))
    if len(missing) > (0 if _needs_all(recipe) else allow_missing * needed.sum()):
        fix = "If they were not measured, muport.pp.project(..., allow_missing=fraction) projects without them."
        raise KeyError(
            f"{where} lacks {len(missing)} of the {int(needed.sum())} features that the projection needs, for example "
            f"{recipe.features[int(missing[0])]!r}: count the new cells on the features of the reference."
            + ("" if _needs_all(recipe) else f" {fix}")
        )
    return columns


def _transform(x: sparse.csr_matrix, recipe: ProjectionRecipe) -> sparse.csr_matrix | NDArray[np.float64]:
    """Return the transformed values of the used columns."""
    if recipe.transform == "clr":
        log = np.log1p(x.toarray().astype(np.float64))
        return (log - log.mean(axis=1, keepdims=True))[:, recipe.used]
    if recipe.transform == "tfidf":
        x = x[:, recipe.used]
    x = x.astype(np.float64)
    depth = np.asarray(x.sum(axis=1)).ravel()
    rate = np.divide(recipe.target, depth, out=np.zeros(len(depth)), where=depth > 0)
    x.data *= np.repeat(rate, np.diff(x.indptr))
    if recipe.log_tf:
        np.log1p(x.data, out=x.data)
    return x if recipe.transform == "tfidf" else x[:, recipe.used].tocsr()


def _reduce(x: Any, recipe: ProjectionRecipe) -> NDArray[np.float32]:
    """Scale, center and project transformed values, sparse or dense."""
    if sparse.issparse(x):
        x.data *= recipe.scale[x.indices]
        if recipe.log_tfidf:
            np.log1p(x.data, out=x.data)
        np.minimum(x.data, recipe.largest, out=x.data)
        squared = np.asarray(x.multiply(x).sum(axis=1)).ravel()
    else:
        x = np.minimum(x * recipe.scale, recipe.largest)
        squared = np.square(x).sum(axis=1)
    mean, loadings = recipe.mean, recipe.loadings.astype(np.float64)
    z = x @ loadings - mean @ loadings
    if recipe.unit_values:
        norm = np.sqrt(np.maximum(squared - 2 * (x @ mean) + mean @ mean, 0))
        z /= np.where(norm > 0, norm, 1)[:, None]
    z -= recipe.offset
    return np.asarray(unit_rows(z) if recipe.unit_coordinates else z, np.float32)
