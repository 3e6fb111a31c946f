"""Peaks and proteins beside RNA: what is computed for them, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.pp._counts import counts_of, logger
from muport.pp._gene_activity import add_modality, gene_activity
from muport.pp._iterative_lsi import iterative_lsi
from muport.pp._modality_types import kinds_of
from muport.pp._pseudotime import unchanged_globals
from muport.pp._shared_representation import find_activity, matched, share

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import mudata

#: Dimensions and genes of the shared space: the defaults of ``shared_representation``.
_SHARED = (30, 2000)
_KEYS = {"atac": "X_lsi", "protein": "X_pca"}


@dataclass
class Prepared:
    """What is to be written: (modality, attribute, key) -> value; a new modality; and what was done, in words."""

    values: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    activity: anndata.AnnData | None = None
    told: dict[str, str] = field(default_factory=dict)

    def write(self, data: mudata.MuData) -> None:
        """Put everything into `data`."""
        for (name, attribute, key), value in self.values.items():
            getattr(data.mod[name], attribute)[key] = value
        if self.activity is not None:
            add_modality(data, "gene_activity", self.activity)
        lines = [f"{name}: {what}" for name, what in self.told.items()]
        data.uns["prepare"] = "\n".join(lines)
        for line in lines:
            logger.info("prepare: %s", line)

    def take(self, name: str, work: anndata.AnnData) -> None:
        """Keep everything that `work` holds beside ``X`` and the names."""
        for attribute in ("obsm", "varm", "uns", "var", "layers"):
            held = getattr(work, attribute)
            self.values |= {(name, attribute, key): held[key] for key in held if key is not None}


def prepare_others(
    data: mudata.MuData,
    rna: str,
    modalities: Mapping[str, str] | None,
    annotation: str | Path | pd.DataFrame | None,
    n_comps: int,
    random_state: int,
) -> tuple[str, Prepared]:
    """Compute the representations of all modalities but RNA; and the name of that. See :func:`prepare`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a modality that the user named cannot be prepared, or not exactly one is RNA.
    """
    kinds, named = kinds_of(data, rna, modalities)
    chosen = [name for name, kind in kinds.items() if kind == "rna"]
    if len(chosen) != 1:
        raise ValueError(f"modalities={dict(kinds)}: exactly one must be 'rna'; {len(chosen)} are.")
    found = Prepared(told={chosen[0]: "RNA: log values in X, counts in layers['counts'], X_pca, neighbors"})
    for name, kind in kinds.items():
        if kind != "rna":
            _represent(data.mod[name], name, kind, name in named, n_comps, random_state, found)
    peaks = [name for name, kind in kinds.items() if kind == "atac"]
    if annotation is not None and len(peaks) != 1:
        raise ValueError(f"an annotation needs one modality of peaks; the data have {peaks}: name it in modalities.")
    for name in peaks:
        _shared_space(data, chosen[0], name, annotation, random_state, found)
    for name in data.mod:
        found.told.setdefault(name, "left as it is: not recognised; name it in modalities")
    return chosen[0], found


def _represent(
    part: anndata.AnnData, name: str, kind: str, named: bool, n_comps: int, random_state: int, found: Prepared
) -> None:
    key = _KEYS[kind]
    if key in part.obsm and not named:
        found.told[name] = f"{kind}: left as it is: it has {key}"
        return
    layer = "counts" if "counts" in part.layers else None
    try:
        counts = counts_of(part, layer)
        make = _peaks if kind == "atac" else _proteins
        work = anndata.AnnData(counts, obs=pd.DataFrame(index=part.obs_names), var=pd.DataFrame(index=part.var_names))
        found.told[name] = make(work, n_comps, random_state)
    except ValueError as error:
        if named:
            raise ValueError(f"modality {name!r}: {error}") from error
        found.told[name] = f"{kind}: left as it is: {error}"
        return
    found.take(name, work)


def _peaks(work: anndata.AnnData, n_comps: int, random_state: int) -> str:
    iterative_lsi(work, random_state=random_state)
    return f"peaks: iterative LSI, {np.shape(work.obsm['X_lsi'])[1]} components above chance in X_lsi; X stays"


def _proteins(work: anndata.AnnData, n_comps: int, random_state: int) -> str:
    import scanpy as sc

    x: Any = work.X
    log = np.log1p(np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32))
    work.layers["clr"] = log - log.mean(axis=1, keepdims=True)
    k = min(n_comps, min(work.shape) - 1)
    with unchanged_globals():
        sc.pp.pca(work, k, layer="clr", random_state=random_state)
    work.obsm["X_pca"] = np.asarray(work.obsm["X_pca"], dtype=np.float32)
    return f"proteins: centred log-ratios in layers['clr'], {k} components in X_pca; X stays"


def _shared_space(
    data: mudata.MuData,
    rna: str,
    atac: str,
    annotation: str | Path | pd.DataFrame | None,
    random_state: int,
    found: Prepared,
) -> None:
    """Gene activity and the shared space; without an annotation only where the data have what is needed."""
    part = data.mod[atac]
    layer = "counts" if "counts" in part.layers else None
    if annotation is not None:
        found.activity = _activity(part, annotation, layer, found)
        activity = (found.activity.X, np.asarray(found.activity.var_names, dtype=str))
        matched(np.asarray(data.mod[rna].var_names, dtype=str), activity[1])
    try:
        if annotation is None:
            activity = find_activity(data, part, None)
        space = share(data.mod[rna], activity, "pca", *_SHARED, random_state)
    except (KeyError, ValueError) as error:
        if annotation is not None:
            raise
        found.told[atac] = f"{found.told[atac]}; no shared space: {error}"
        return
    found.values[rna, "obsm", "X_shared"], found.values[atac, "obsm", "X_shared"] = space.rna, space.atac
    found.values[rna, "uns", "X_shared_genes"] = space.genes.astype(object)
    found.told[atac] = f"{found.told[atac]}; with {rna} in X_shared: {space.told}"


def _activity(
    part: anndata.AnnData, annotation: str | Path | pd.DataFrame, layer: str | None, found: Prepared
) -> anndata.AnnData:
    activity = gene_activity(part, annotation, layer=layer)
    if not isinstance(activity, anndata.AnnData):
        raise TypeError("the gene activity of an AnnData is an AnnData.")
    activity.obs = pd.DataFrame(index=part.obs_names)
    found.told["gene_activity"] = f"activity of {activity.n_vars} genes near their peaks"
    return activity
