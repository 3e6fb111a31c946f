"""Preprocessing of peaks and proteins: results are collected first and written together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.data.reading._count_matrix import counts_layer, get_counts
from muport.pp._counts import logger
from muport.pp._gene_activity import add_modality, gene_activity, read_gene_links
from muport.pp._iterative_lsi import iterative_lsi
from muport.pp._modality_types import classify_modalities
from muport.pp._shared_representation import GeneActivity, compute_shared_space, match_genes, read_activity
from muport.pp.components._principal_components import principal_components

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


@dataclass(frozen=True)
class ModalityPlan:
    """What is prepared in a MuData.

    - `types`: Recognized modality -> ``"rna"``, ``"atac"`` or ``"protein"``.
    - `requested`: Modalities that must be prepared, so that a reason not to prepare them is an error.
    """

    types: dict[str, str]
    requested: frozenset[str]

    def names(self, assay: str) -> list[str]:
        """Return the modalities of a type."""
        return [name for name, known in self.types.items() if known == assay]

    @property
    def rna(self) -> str | None:
        """The RNA modality, if any."""
        return next(iter(self.names("rna")), None)

    def is_computed(self, data: mudata.MuData, name: str) -> bool:
        """Whether the representation of a modality other than RNA is computed."""
        key = _REPRESENTATIONS.get(self.types[name])
        return key is not None and (name in self.requested or key not in data.mod[name].obsm)


def plan_modalities(
    data: mudata.MuData,
    rna: str,
    modalities: Mapping[str, str] | None,
    annotation: str | Path | pd.DataFrame | None,
) -> ModalityPlan:
    """Return what is prepared; see :func:`prepare`. The counts of requested peaks and proteins are checked.

    Raises KeyError, TypeError or ValueError if a modality in `modalities` cannot be preprocessed, several modalities
    are RNA, or the annotation has no use.
    """
    plan = ModalityPlan(*classify_modalities(data, rna, modalities))
    n_rna = len(plan.names("rna"))
    if n_rna > 1:
        raise ValueError(f"modalities={dict(plan.types)}: at most one may be 'rna'; {n_rna} are.")
    if annotation is not None and (len(plan.names("atac")) != 1 or not n_rna):
        raise ValueError(
            f"an annotation needs RNA and one modality of peaks; the data have {plan.types}: name them in modalities."
        )
    for name in sorted(plan.requested - {plan.rna}):
        try:
            get_counts(data.mod[name], counts_layer(data.mod[name]))
        except ValueError as error:
            raise ValueError(f"modality {name!r}: {error}") from error
    return plan


def prepare_others(
    data: mudata.MuData,
    plan: ModalityPlan,
    annotation: str | Path | pd.DataFrame | None,
    n_comps: int,
    random_state: int,
    show: Callable[[str], None],
) -> PendingResults:
    """Return the results for all modalities other than RNA. See :func:`prepare`.

    - `show`: Shows the name of a step.
    """
    results = PendingResults()
    rna, peak_names = plan.rna, plan.names("atac") if plan.rna else []
    if rna is not None:
        results.descriptions[rna] = "RNA: log values in X, counts in layers['counts'], X_pca, neighbors"
    # an annotation that does not fit is refused before the peaks are reduced
    activity = None
    if annotation is not None:
        show(f"gene activity of {peak_names[0]}")
        activity = _compute_activity(data, str(rna), peak_names[0], annotation, results)
    for name, assay in plan.types.items():
        key = _REPRESENTATIONS.get(assay)
        if key is not None and not plan.is_computed(data, name):
            results.descriptions[name] = f"{assay}: left as it is: it has {key}"
        elif key is not None:
            show(f"{key} of {name}")
            try:
                _represent(data.mod[name], name, assay, n_comps, random_state, results)
            except ValueError as error:
                if name in plan.requested:
                    raise ValueError(f"modality {name!r}: {error}") from error
                results.descriptions[name] = f"{assay}: left as it is: {error}"
    for name in peak_names:
        show(f"shared space of {rna} and {name}")
        _add_shared_space(data, str(rna), name, activity, random_state, results)
    for name in data.mod:
        results.descriptions.setdefault(name, "left as it is: not recognized; name it in modalities")
    if activity is not None:
        results.descriptions["gene_activity"] = f"activity of {len(activity.genes)} genes near their peaks"
    return results


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
    x: Any = work.X
    log = np.log1p(np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32))
    work.layers["clr"] = log - log.mean(axis=1, keepdims=True)
    components = principal_components(work.layers["clr"], n_comps, random_state)
    work.obsm["X_pca"], work.varm["PCs"] = components.coordinates, components.loadings
    work.uns["pca"] = components.describe(layer="clr")
    k = int(components.loadings.shape[1])
    recipe = ProjectionRecipe(
        transform="clr",
        features=tuple(map(str, work.var_names)),
        used=np.arange(work.n_vars),
        scale=np.ones(work.n_vars),
        mean=np.asarray(work.layers["clr"], np.float64).mean(axis=0),
        loadings=components.loadings,
        offset=np.zeros(k),
    )
    store_recipe(work, "X_pca", recipe)
    return k


def _add_shared_space(
    data: mudata.MuData,
    rna: str,
    atac: str,
    activity: GeneActivity | None,
    random_state: int,
    results: PendingResults,
) -> None:
    """Add the shared space. If no activity is given and none is in the data, this is no error."""
    try:
        found = read_activity(data, data.mod[atac], None) if activity is None else activity
        space = compute_shared_space(data.mod[rna], found, "pca", _SHARED_COMPS, _SHARED_GENES, random_state)
    except (KeyError, ValueError) as error:
        if activity is not None:
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
    data: mudata.MuData, rna: str, name: str, annotation: str | Path | pd.DataFrame, results: PendingResults
) -> GeneActivity:
    """Compute the activity of genes near the peaks, and add it and the links to the results.

    Raises ValueError if these are not genes of the RNA.
    """
    peaks = data.mod[name]
    counts = get_counts(peaks, counts_layer(peaks), (1, 1))
    work = mudata.MuData({name: anndata.AnnData(counts, pd.DataFrame(index=peaks.obs_names), peaks.var)})
    gene_activity(work, annotation, modality=name)
    linked, activity = work.mod[name], work.mod["gene_activity"]
    results.activity = activity
    results.values[name, "varm", "gene_link"] = linked.varm["gene_link"]
    results.values[name, "uns", "gene_link_genes"] = linked.uns["gene_link_genes"]
    weights, genes = read_gene_links(linked, "gene_link")
    match_genes(np.asarray(data.mod[rna].var_names, dtype=str), genes)
    return GeneActivity(activity.X, genes, weights, np.asarray(peaks.var_names, dtype=str))
