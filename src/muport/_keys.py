"""Keys that all modules share: those of the scvi-tools registry, and the names under which results are stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Sequence


class _RegistryKeys(NamedTuple):
    """Registry keys of the shared data layer; ``batch`` and ``labels`` are those of scvi-tools."""

    BATCH_KEY: str = "batch"
    LABELS_KEY: str = "labels"
    SAMPLE_KEY: str = "sample"
    SPATIAL_KEY: str = "spatial"
    TIME_KEY: str = "time"
    WEIGHT_KEY: str = "weight"
    REP_PREFIX: str = "rep_"


class _ResultKeys(NamedTuple):
    """Names under which :meth:`Integration.write`, the command line and the examples store results."""

    LATENT: str = "X_muport"
    PREDICTION: str = "prediction"
    CONFIDENCE: str = "prediction_confidence"


REGISTRY_KEYS = _RegistryKeys()
RESULT_KEYS = _ResultKeys()

#: Name of the single modality of an AnnData.
SINGLE_MODALITY = "adata"
#: Modality name of a representation of all cells: ``mdata.obsm[key]``, or the modalities side by side.
JOINT_MODALITY = "joint"
#: Name of the single batch if no batch key is given.
SINGLE_BATCH = "all"
#: Label of a cell of unknown type.
UNLABELED_CATEGORY = "unknown"
#: Environment variable with the path of the folder of measured data sets.
DATA_VARIABLE = "MUPORT_DATA"
#: Environment variable with the address of a folder from which measured data sets are downloaded.
URL_VARIABLE = "MUPORT_DATA_URL"
#: Environment variable with the folder of the downloads; by default the cache folder of the user.
CACHE_VARIABLE = "MUPORT_CACHE"


def quote_name(modality: str) -> str:
    """Write the name of a modality without ``% . : +``, which have a meaning in registry keys and names of groups."""
    return re.sub(r"[%.:+]", lambda match: f"%{ord(match[0]):02X}", modality)


def unquote_name(text: str) -> str:
    """Return the name of the modality that :func:`quote_name` wrote."""
    return unquote(text)


def join_levels(levels: Sequence[str]) -> str:
    """Name a combination of levels of several batch variables: ``"donor1|v2"``.

    Examples
    --------
    >>> join_levels(["donor1", "v2"])
    'donor1|v2'
    """
    return "|".join(re.sub(r"[%|]", lambda match: f"%{ord(match[0]):02X}", level) for level in levels)


def split_levels(combination: str) -> tuple[str, ...]:
    """Return the levels of a combination that :func:`join_levels` named."""
    return tuple(re.sub("%(25|7C)", lambda match: chr(int(match[1], 16)), level) for level in combination.split("|"))


__all__ = [
    "CACHE_VARIABLE",
    "DATA_VARIABLE",
    "JOINT_MODALITY",
    "REGISTRY_KEYS",
    "RESULT_KEYS",
    "SINGLE_BATCH",
    "SINGLE_MODALITY",
    "UNLABELED_CATEGORY",
    "URL_VARIABLE",
    "join_levels",
    "quote_name",
    "split_levels",
    "unquote_name",
]
