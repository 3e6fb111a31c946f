"""The type of each modality: RNA, ATAC or protein."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muport.pp._genomic_intervals import looks_like_peaks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    import mudata

MODALITY_TYPES = ("rna", "atac", "protein")
_NAMES = {
    "rna": ("rna", "gex", "gene_expression", "expression", "transcriptome"),
    "atac": ("atac", "peaks", "chromatin", "accessibility", "dna_accessibility"),
    "protein": ("protein", "proteins", "prot", "adt", "antibody", "antibody_capture"),
}
_FEATURE_TYPES = {"gene expression": "rna", "peaks": "atac", "antibody capture": "protein"}


def classify_modalities(
    data: mudata.MuData, rna: str, modalities: Mapping[str, str] | None
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the type of each recognized modality, and the names of those that must be prepared.

    These are the modalities in `modalities`, or, without RNA, all that are recognized.

    - `rna`: Name of the RNA modality; not used if `modalities` is given.
    - `modalities`: Modality -> ``"rna"``, ``"atac"`` or ``"protein"``. None: types are read from
      ``var["feature_types"]``, from the name of the modality, or, for peaks, from the names of the features.

    Raises KeyError if a modality does not exist; TypeError if `modalities` is not a mapping; ValueError if a type is
    not one of the three.
    """
    if modalities is not None:
        return _check_modalities(data, modalities), frozenset(modalities)
    types = {name: modality_type(name, adata) for name, adata in data.mod.items() if name != rna}
    # a second RNA modality, such as unspliced counts, is not prepared
    others = {name: assay for name, assay in types.items() if assay in MODALITY_TYPES[1:]}
    if rna in data.mod:
        return {rna: "rna", **others}, frozenset()
    if rna != "rna" or "rna" in types.values() or not others:
        raise KeyError(f"modality={rna!r} is not in the data, which has {list(data.mod)}.")
    return others, frozenset(others)


def _check_modalities(data: mudata.MuData, modalities: Mapping[str, str]) -> dict[str, str]:
    if not hasattr(modalities, "items"):
        raise TypeError(f"modalities={modalities!r} must be a dict, for example {{'rna': 'rna', 'atac': 'atac'}}.")
    for name, assay in modalities.items():
        if name not in data.mod:
            raise KeyError(f"modalities names {name!r}, which is not in the data, which has {list(data.mod)}.")
        if assay not in MODALITY_TYPES:
            raise ValueError(f"modalities[{name!r}]={assay!r} must be one of {list(MODALITY_TYPES)}.")
    return dict(modalities)


def modality_type(name: str, adata: anndata.AnnData) -> str | None:
    """Return the type of a modality by its feature types, its name, or its feature names; None if unknown."""
    if "feature_types" in adata.var:
        types = adata.var["feature_types"].astype(str).str.lower().unique()
        if len(types) == 1 and types[0] in _FEATURE_TYPES:
            return _FEATURE_TYPES[types[0]]
    normalized = name.lower().replace(" ", "_").replace("-", "_")
    by_name = next((assay for assay, names in _NAMES.items() if normalized in names), None)
    return by_name or ("atac" if looks_like_peaks(list(adata.var_names[:200])) else None)


def assay_of_anndata(adata: anndata.AnnData, modality: str) -> str:
    """Return the type of an AnnData: `modality` if that is peaks or proteins, else by ``var["feature_types"]``."""
    if modality in MODALITY_TYPES[1:]:
        return modality
    # names alone do not decide: the default stays RNA
    return (modality_type("", adata) if "feature_types" in adata.var else None) or "rna"
