"""Preprocessing of peaks and proteins: results are collected first and written together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._global_state import preserve_generators
from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.data.reading._count_matrix import counts_layer, get_counts
from muport.pp._counts import logger
from muport.pp._gene_activity import add_modality, gene_activity, read_gene_links
from muport.pp._iterative_lsi import iterative_lsi
from muport.pp._modality_types import classify_modalities
from muport.pp._shared_representation import GeneActivity, compute_shared_space, match_genes, read_activity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Dimensions and genes of the shared space: the defaults of ``shared_representation``.
_SHARED_COMPS, _SHARED_GENES = 30, 2000
#: Type of a modality -> key of its representation.
_REPRESENTATIONS = {"atac": "X_lsi", "protein": "X_pca"}
#: Name of the results of an AnnData.
ALONE = "data"


@dataclass
class PendingResults:
    """Results that are written into a MuData after everything was computed.

    - `values`: (modality, attribute, key) -> value, for example ("atac", "obsm", "X_lsi").
    - `activity`: The new modality of gene activity, if any.
    - `recipes`: (modality, key of ``obsm``) -> how new cells get the coordinates.
    - `descriptions`: Modality -> steps in words.
    """

    values: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    activity: anndata.AnnData | None = None
    recipes: dict[tuple[str, str], ProjectionRecipe] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)

    def write(self, data: anndata.AnnData | mudata.MuData) -> None:
        """Write all results into `data`."""
        parts = data.mod if isinstance(data, mudata.MuData) else {ALONE: data}
        for (name, attribute, key), value in self.values.items():
            getattr(parts[name], attribute)[key] = value
        for (name, key), recipe in self.recipes.items():
            store_recipe(parts[name], key, recipe)
        if self.activity is not None:
            add_modality(data, "gene_activity", self.activity)
        lines = [f"{name}: {text}" for name, text in self.descriptions.items()]
        if isinstance(data, mudata.MuData):
            data.uns["prepare"] = "\n".join(lines)
        for line in lines:
            logger.info("prepare: %s", line)

    def add(self, name: str, work: anndata.AnnData) -> None:
        """Add everything in `work` except ``X`` and names, as results of the modality `name`."""
        for attribute in ("obsm", "varm", "uns", "var", "layers"):
            mapping = getattr(work, attribute)
            self.values |= {(name, attribute, key): mapping[key] for key in mapping if key is not None}


def prepare_others(
    data: mudata.MuData,
    rna: str,
    modalities: Mapping[str, str] | None,
    annotation: str | Path | pd.DataFrame | None,
    n_comps: int,
    random_state: int,
    show: Callable[[str], None],
) -> tuple[str | None, PendingResults]:
    """Return the name of the RNA modality, if any, and the results for all other modalities. See :func:`prepare`.

    - `show`: Shows the name of a step.

    Raises KeyError, TypeError or ValueError if a modality in `modalities` cannot be preprocessed, or several modalities
    are RNA.
    """
    types, requested = classify_modalities(data, rna, modalities)
    rna_names, peak_names = ([name for name, assay in types.items() if assay == key] for key in ("rna", "atac"))
    if len(rna_names) > 1:
        raise ValueError(f"modalities={dict(types)}: at most one may be 'rna'; {len(rna_names)} are.")
    results = PendingResults()
    for name in rna_names:
        results.descriptions[name] = "RNA: log values in X, counts in layers['counts'], X_pca, neighbors"
    for name, assay in types.items():
        key = _REPRESENTATIONS.get(assay)
        if key in data.mod[name].obsm and name not in requested:
            results.descriptions[name] = f"{assay}: left as it is: it has {key}"
        elif key is not None:
            show(f"{key} of {name}")
            try:
                _represent(data.mod[name], name, assay, n_comps, random_state, results)
            except ValueError as error:
                if name in requested:
                    raise ValueError(f"modality {name!r}: {error}") from error
                results.descriptions[name] = f"{assay}: left as it is: {error}"
    if annotation is not None and (len(peak_names) != 1 or not rna_names):
        raise ValueError(
            f"an annotation needs RNA and one modality of peaks; the data have {dict(types)}: name them in modalities."
        )
    for name in peak_names if rna_names else ():
        show(f"shared space of {rna_names[0]} and {name}")
        _add_shared_space(data, rna_names[0], name, annotation, random_state, results)
    for name in data.mod:
        results.descriptions.setdefault(name, "left as it is: not recognized; name it in modalities")
    return (rna_names[0] if rna_names else None), results


def prepare_alone(
    adata: anndata.AnnData, assay: str, n_comps: int, random_state: int, show: Callable[[str], None]
) -> PendingResults:
    """Return the results for an AnnData of peaks or proteins. See :func:`prepare`."""
    results = PendingResults()
    show(f"{_REPRESENTATIONS[assay]} of the data")
    _represent(adata, ALONE, assay, n_comps, random_state, results)
    return results


def _represent(
    adata: anndata.AnnData, name: str, assay: str, n_comps: int, random_state: int, results: PendingResults
) -> None:
    """Compute the representation of peaks or proteins on a copy."""
    counts = get_counts(adata, counts_layer(adata))
    work = anndata.AnnData(counts, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
    if assay == "atac":
        iterative_lsi(work, random_state=random_state)
        text = f"peaks: iterative LSI, {np.shape(work.obsm['X_lsi'])[1]} components above chance in X_lsi; X stays"
    else:
        k = _reduce_proteins(work, n_comps, random_state)
        text = f"proteins: centered log-ratios in layers['clr'], {k} components in X_pca; X stays"
    results.descriptions[name] = text
    results.add(name, work)


def _reduce_proteins(work: anndata.AnnData, n_comps: int, random_state: int) -> int:
    """Add centered log-ratios and their principal components; return the number of components."""
    import scanpy as sc

    x: Any = work.X
    log = np.log1p(np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32))
    work.layers["clr"] = log - log.mean(axis=1, keepdims=True)
    k = min(n_comps, min(work.shape) - 1)
    with preserve_generators():
        sc.pp.pca(work, k, layer="clr", random_state=random_state)
    work.obsm["X_pca"] = np.asarray(work.obsm["X_pca"], dtype=np.float32)
    recipe = ProjectionRecipe(
        transform="clr",
        features=tuple(map(str, work.var_names)),
        used=np.arange(work.n_vars),
        scale=np.ones(work.n_vars),
        mean=np.asarray(work.layers["clr"], np.float64).mean(axis=0),
        loadings=np.asarray(work.varm["PCs"], np.float32),
        offset=np.zeros(k),
    )
    store_recipe(work, "X_pca", recipe)
    return k


def _add_shared_space(
    data: mudata.MuData,
    rna: str,
    atac: str,
    annotation: str | Path | pd.DataFrame | None,
    random_state: int,
    results: PendingResults,
) -> None:
    """Add the shared space and, with an annotation, gene activity. Without one, missing activity is not an error."""
    peaks = data.mod[atac]
    if annotation is not None:
        activity = _compute_activity(peaks, atac, annotation, results)
        match_genes(np.asarray(data.mod[rna].var_names, dtype=str), activity.genes)
    try:
        if annotation is None:
            activity = read_activity(data, peaks, None)
        space = compute_shared_space(data.mod[rna], activity, "pca", _SHARED_COMPS, _SHARED_GENES, random_state)
    except (KeyError, ValueError) as error:
        if annotation is not None:
            raise
        results.descriptions[atac] += f"; no shared space: {error}"
        return
    results.values[rna, "obsm", "X_shared"], results.values[atac, "obsm", "X_shared"] = space.rna, space.atac
    results.values[rna, "uns", "X_shared_genes"] = space.genes.astype(object)
    results.recipes[rna, "X_shared"] = space.rna_recipe
    if space.atac_recipe is not None:
        results.recipes[atac, "X_shared"] = space.atac_recipe
    results.descriptions[atac] += f"; with {rna} in X_shared: {space.description}"


def _compute_activity(
    peaks: anndata.AnnData, name: str, annotation: str | Path | pd.DataFrame, results: PendingResults
) -> GeneActivity:
    """Compute the activity of genes near their peaks, and add it and the links to the results."""
    counts = get_counts(peaks, counts_layer(peaks), (1, 1))
    work = mudata.MuData({name: anndata.AnnData(counts, pd.DataFrame(index=peaks.obs_names), peaks.var)})
    gene_activity(work, annotation, modality=name)
    linked, activity = work.mod[name], work.mod["gene_activity"]
    results.activity = activity
    results.values[name, "varm", "gene_link"] = linked.varm["gene_link"]
    results.values[name, "uns", "gene_link_genes"] = linked.uns["gene_link_genes"]
    results.descriptions["gene_activity"] = f"activity of {activity.n_vars} genes near their peaks"
    weights, genes = read_gene_links(linked, "gene_link")
    return GeneActivity(activity.X, genes, weights, np.asarray(peaks.var_names, dtype=str))
