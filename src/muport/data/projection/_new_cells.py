"""The representations of new cells: projected where they are missing, refused where they are of another space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.projection._counts_to_coordinates import compute_coordinates
from muport.data.projection._recipe import find_recipe
from muport.data.reading._count_matrix import counts_layer, get_counts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data.projection._recipe import ProjectionRecipe

    type Parts = Mapping[str, anndata.AnnData | mudata.MuData]
    #: Modality -> key of ``obsm`` -> recipe.
    type Recipes = Mapping[str, Mapping[str, ProjectionRecipe]]

__all__ = ["add_missing_coordinates", "project_cells"]

_COMPARED_CELLS = 100
_MOST_DIFFERENCE = 0.2  # relative, between coordinates and those of the recipe; rounding and approximations are below


def add_missing_coordinates(
    data: anndata.AnnData | mudata.MuData, parts: Parts, recipes: Recipes, optional: Collection[str] = ()
) -> dict[str, anndata.AnnData | mudata.MuData]:
    """Return the modalities of new cells, with the representations of the model that they lack.

    The objects of the user are not changed: a modality that lacks one is replaced by an object without counts.

    - `data`: The new cells.
    - `parts`: Their modalities, by name.
    - `optional`: Keys of ``obsm`` that may be missing where there are no counts.

    Raises KeyError or ValueError if counts are needed and missing, or if a representation is not in the space of the
    model: a principal component analysis of the new cells alone has other axes.
    """
    import anndata

    completed = dict(parts)
    for name, part in parts.items():
        missing = {}
        for key, recipe in recipes.get(name, {}).items():
            if key in part.obsm:
                _check_same_space(data, part, name, key, recipe)
                continue
            try:
                missing[key] = project_cells(data, part, name, key, recipe)
            except (KeyError, ValueError):
                if key not in optional:
                    raise
        if missing:
            held: dict[str, Any] = {key: part.obsm[key] for key in part.obsm}
            completed[name] = anndata.AnnData(obs=pd.DataFrame(index=part.obs_names), obsm=held | missing)
    return completed


def project_cells(
    data: anndata.AnnData | mudata.MuData,
    part: anndata.AnnData,
    name: str,
    key: str,
    recipe: ProjectionRecipe,
    *,
    allow_missing: float = 0.0,
) -> NDArray[np.float32]:
    """Compute the coordinates (n, k) of the cells of a modality from its counts, or from those of `recipe.source`.

    - `allow_missing`: Largest fraction of the features that may be missing.
    """
    source, mods = part, getattr(data, "mod", {})
    if part.n_obs == 0:
        return np.empty((0, recipe.loadings.shape[1]), np.float32)
    if recipe.source:
        if recipe.source not in mods:
            raise KeyError(f"obsm[{key!r}] of {name!r} is projected from modality {recipe.source!r}, which is missing.")
        rows = mods[recipe.source].obs_names.get_indexer(part.obs_names)
        if (rows < 0).any():
            cell = part.obs_names[int(np.flatnonzero(rows < 0)[0])]
            raise ValueError(f"modality {recipe.source!r} lacks {int((rows < 0).sum())} cells, for example {cell!r}.")
        source = mods[recipe.source][rows]
    where = f"modality {recipe.source or name!r}"
    try:
        counts = get_counts(source, counts_layer(source), (1, 1))
    except ValueError as error:
        raise ValueError(f"obsm[{key!r}] of {name!r} is missing, and is projected from counts; {error}") from error
    return compute_coordinates(counts, source.var_names, recipe, where, allow_missing=allow_missing)


def _check_same_space(
    data: anndata.AnnData | mudata.MuData, part: anndata.AnnData, name: str, key: str, recipe: ProjectionRecipe
) -> None:
    """Refuse coordinates that another recipe gave, or that are far from those of the recipe."""
    own = find_recipe(part, key)
    if own is not None and own.fingerprint == recipe.fingerprint:
        return
    difference = "by another preparation"
    if own is None:
        sample = part[:_COMPARED_CELLS]
        try:
            expected = project_cells(data, sample, name, key, recipe)
        except (KeyError, ValueError):
            # without counts nothing can be compared
            return
        found: NDArray[np.float64] = np.asarray(sample.obsm[key], np.float64)
        if found.shape == expected.shape:
            relative = np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12)
            if relative <= _MOST_DIFFERENCE:
                return
            difference = f"in another way: they differ from the projected ones by {relative:.0%} of their length"
    raise ValueError(
        f"obsm[{key!r}] of {name!r}: the coordinates of the new cells were computed {difference}, so they are not in "
        f"the space of the model. Delete obsm[{key!r}], and they are projected from the counts; or call "
        "muport.pp.project(new, model)."
    )
