"""Projection of new cells into the representations of prepared data, or of a model that was trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import mudata

from muport._checks import check_numbers
from muport.data import accept_data_names, check_writable
from muport.data.projection._new_cells import project_cells
from muport.data.projection._recipe import PROJECTIONS_KEY, find_recipe, store_recipe

if TYPE_CHECKING:
    from muport.data.projection._new_cells import Recipes

__all__ = ["project"]

#: Name of the only modality of an AnnData.
_ONLY = "data"


@accept_data_names
def project(
    data: anndata.AnnData | mudata.MuData,
    reference: Any,
    *,
    modality: str = "rna",
    copy: bool = False,
    allow_missing: float = 0.0,
) -> anndata.AnnData | mudata.MuData | None:
    """Project new cells into the representations that :func:`prepare` computed for a reference.

    The coordinates of a cell depend only on its own counts and on the reference: on its genes, depth, means and
    loadings. A cell of the reference gets the coordinates that it has there. A new :func:`prepare` of the new cells
    would give them other axes, and a model that was trained on the reference would place them at random.

    This holds for the components of RNA and proteins, for LSI, and for the shared space of RNA and peaks. The methods
    of a model project new cells themselves where they lack a representation. Memory: a few thousand cells at a time.

    Parameters
    ----------
    data
        New cells with counts in ``layers["counts"]``, else in ``X``: AnnData or MuData. Features are matched by name;
        others than those of the reference are ignored.
    reference
        Data after :func:`prepare`, :func:`lsi`, :func:`iterative_lsi` or :func:`shared_representation` (a subset of the
        cells is enough), or a model that was set up with such data, also one that was loaded.
    modality
        Modality of the reference that `data` is, if `data` is an AnnData and the reference has several.
    copy
        Return a copy with the results instead of writing into `data`.
    allow_missing
        Largest fraction of the features with loadings that `data` may lack. A feature that is missing is taken at its
        mean in the reference, so that cells lie nearer to the mean of the reference the more features are missing.
        Proteins, and peaks that are linked to genes, must be complete.

    Returns
    -------
    None, or the copy. Writes each representation of the reference to ``obsm`` under the same key (cells x dimensions,
    float32), and its description to ``uns["projections"]``. ``X`` stays as it is.

    Raises
    ------
    KeyError
        If the reference has no such representations, the modality does not exist, or `data` lacks more features.
    ValueError
        If values are not counts, `allow_missing` is not in 0..1, names of features repeat, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> counts = np.random.default_rng(0).poisson(2.0, (60, 20)).astype("float32")
    >>> adata, new = anndata.AnnData(counts[:50]), anndata.AnnData(counts[40:])
    >>> muport.pp.prepare(adata, n_comps=5, umap=False)
    >>> muport.pp.project(new, adata)
    >>> bool(np.allclose(new.obsm["X_pca"][:10], adata.obsm["X_pca"][40:], atol=1e-4))
    True
    """
    check_numbers(0, 1, allow_missing=allow_missing)
    data = data.copy() if copy else data
    check_writable(data)
    recipes = _read_recipes(reference)
    parts = dict(data.mod) if isinstance(data, mudata.MuData) else {_choose(recipes, modality): data}
    found = {name: recipes[name] for name in parts if name in recipes}
    if not found:
        raise KeyError(
            f"the reference can project modalities {list(recipes)}, the data have {list(parts)}: prepare the "
            "reference, or the cells of the model, with muport.pp.prepare, and name the modalities alike."
        )
    coordinates = {
        (name, key): project_cells(data, parts[name], name, key, recipe, allow_missing=allow_missing)
        for name, of_part in found.items()
        for key, recipe in of_part.items()
    }
    for (name, key), values in coordinates.items():
        parts[name].obsm[key] = values
        store_recipe(parts[name], key, found[name][key])
    return data if copy else None


def _read_recipes(reference: Any) -> Recipes:
    """Return the recipes of each modality of a reference."""
    if hasattr(reference, "projections_"):
        return dict(reference.projections_)
    if not isinstance(reference, anndata.AnnData | mudata.MuData):
        raise TypeError(f"reference is a {type(reference).__name__}, expected AnnData, MuData or a model.")
    parts = dict(reference.mod) if isinstance(reference, mudata.MuData) else {_ONLY: reference}
    recipes = {
        name: {key: find_recipe(part, key) for key in part.uns.get(PROJECTIONS_KEY, {})} for name, part in parts.items()
    }
    return {
        name: {key: recipe for key, recipe in of_part.items() if recipe is not None}
        for name, of_part in recipes.items()
        if of_part
    }


def _choose(recipes: Recipes, modality: str) -> str:
    """Return the modality of the reference that an AnnData is."""
    return next(iter(recipes)) if len(recipes) == 1 else modality
