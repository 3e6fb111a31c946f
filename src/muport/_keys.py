"""Keys shared by the whole package: what is registered, and under which names results are stored."""

from __future__ import annotations

from typing import NamedTuple


class _RegistryKeys(NamedTuple):
    """Registry keys of the hall; ``batch`` and ``labels`` are scvi-tools' own words."""

    BATCH_KEY: str = "batch"
    LABELS_KEY: str = "labels"
    SAMPLE_KEY: str = "sample"
    SPATIAL_KEY: str = "spatial"
    TIME_KEY: str = "time"
    WEIGHT_KEY: str = "weight"
    REP_PREFIX: str = "rep_"


class _ResultKeys(NamedTuple):
    """Names under which examples, the demo and the benchmarks keep results."""

    LATENT: str = "X_integration"
    PREDICTION: str = "prediction"
    CONFIDENCE: str = "prediction_confidence"


REGISTRY_KEYS = _RegistryKeys()
RESULT_KEYS = _ResultKeys()

#: Name of the only modality of a plain AnnData.
SINGLE_MODALITY = "adata"
#: Name that a space of all cells, ``mdata.obsm[key]`` or modalities side by side, has in place of a modality's.
JOINT_MODALITY = "joint"
#: Name of the only batch where no batch key is given.
SINGLE_BATCH = "all"
#: Label of a cell whose type is not known.
UNLABELED_CATEGORY = "unknown"
#: Environment variable naming the folder of the real data sets.
DATA_VARIABLE = "MUPORT_DATA"

__all__ = [
    "DATA_VARIABLE",
    "JOINT_MODALITY",
    "REGISTRY_KEYS",
    "RESULT_KEYS",
    "SINGLE_BATCH",
    "SINGLE_MODALITY",
    "UNLABELED_CATEGORY",
]
