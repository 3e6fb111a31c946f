"""What a modality measures: RNA, chromatin or protein."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muport.pp._genomic_intervals import named_like_peaks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    import mudata

KINDS = ("rna", "atac", "protein")
_NAMES = {
    "rna": ("rna", "gex", "gene_expression", "expression", "transcriptome"),
    "atac": ("atac", "peaks", "chromatin", "accessibility", "dna_accessibility"),
    "protein": ("protein", "proteins", "prot", "adt", "antibody", "antibody_capture"),
}
_FEATURE_TYPES = {"gene expression": "rna", "peaks": "atac", "antibody capture": "protein"}


def kinds_of(
    data: mudata.MuData, rna: str, modalities: Mapping[str, str] | None
) -> tuple[dict[str, str], frozenset[str]]:
    """Kind of every modality that is known, and the names of those that the user named.

    Parameters
    ----------
    data
        Modalities.
    rna
        Name of the modality that is RNA, used without `modalities`.
    modalities
        Modality -> ``"rna"``, ``"atac"`` or ``"protein"``. None: told by ``var["feature_types"]``, by the modality's
        name, or, for peaks, by the names of the features.

    Raises
    ------
    KeyError
        If a modality is not there.
    TypeError
        If `modalities` is no mapping.
    ValueError
        If a kind is none of the three.
    """
    if modalities is not None:
        return _named(data, modalities), frozenset(modalities)
    if rna not in data.mod:
        raise KeyError(f"modality={rna!r} is not in the data, which has {list(data.mod)}.")
    kinds = {name: kind_of(name, part) for name, part in data.mod.items() if name != rna}
    # a second modality of RNA, such as unspliced counts, is not the one that was meant
    return {rna: "rna", **{name: kind for name, kind in kinds.items() if kind in KINDS[1:]}}, frozenset()


def _named(data: mudata.MuData, modalities: Mapping[str, str]) -> dict[str, str]:
    if not hasattr(modalities, "items"):
        raise TypeError(f"modalities={modalities!r} must be a dict, for example {{'rna': 'rna', 'atac': 'atac'}}.")
    for name, kind in modalities.items():
        if name not in data.mod:
            raise KeyError(f"modalities names {name!r}, which is not in the data: they have {list(data.mod)}.")
        if kind not in KINDS:
            raise ValueError(f"modalities[{name!r}]={kind!r} must be one of {list(KINDS)}.")
    return dict(modalities)


def kind_of(name: str, part: anndata.AnnData) -> str | None:
    """Kind of a modality by its features' types, its name, or its features' names; None if nothing tells."""
    if "feature_types" in part.var:
        types = part.var["feature_types"].astype(str).str.lower().unique()
        if len(types) == 1 and types[0] in _FEATURE_TYPES:
            return _FEATURE_TYPES[types[0]]
    plain = name.lower().replace(" ", "_").replace("-", "_")
    found = next((kind for kind, names in _NAMES.items() if plain in names), None)
    return found or ("atac" if named_like_peaks(list(part.var_names[:200])) else None)
