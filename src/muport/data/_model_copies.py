"""Copies of a model by ``pickle`` and ``copy.deepcopy``, with its data."""

from __future__ import annotations

from copy import copy
from typing import Any
from uuid import uuid4

import anndata
import mudata

__all__ = ["keep_whole", "take_apart"]

_TABLES = ("obs", "var", "uns", "obsm", "varm", "obsp", "varp", "obsmap", "varmap")


class CopiedData:
    """Data of a model in a copy of it. A MuData can neither be pickled nor deep-copied, but its parts can."""

    def __init__(self, data: mudata.MuData | anndata.AnnData) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        if self.data.isbacked:
            raise TypeError(
                "the data of the model are backed by a file, which cannot be copied with it: read them into memory "
                "(backed=False), or save the model with model.save()."
            )
        if isinstance(self.data, anndata.AnnData):
            return CopiedData, (self.data,)
        whole = self.data.copy() if self.data.is_view else self.data
        tables = {name: getattr(whole, name) for name in _TABLES}
        tables = {name: dict(table) if name.endswith(("m", "p")) else table for name, table in tables.items()}
        return _join, (dict(whole.mod), {"axis": whole.axis, **tables})


def _join(modalities: dict[str, anndata.AnnData], tables: dict[str, Any]) -> CopiedData:
    return CopiedData(mudata.MuData(modalities, **tables))


def take_apart(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a model, in which its data can be copied."""
    taken = {**attributes, "_adata_manager": copy(attributes["_adata_manager"])}
    held = {name: CopiedData(taken[name]) for name in ("_adata", "_query") if taken.get(name) is not None}
    if taken["_adata_manager"] is not None and "_adata" in held:
        taken["_adata_manager"].adata = held["_adata"]
    return taken | held


def keep_whole(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a copied model, from those of :func:`take_apart`; the copy is another model."""
    whole: dict[str, Any] = {
        name: value.data if isinstance(value, CopiedData) else value for name, value in attributes.items()
    }
    if "_adata" in whole and whole["_adata_manager"] is not None:
        whole["_adata_manager"].adata = whole["_adata"]
    return {**whole, "id": str(uuid4())}
