"""The format version of what muport writes: model files, results on disk and dicts in ``uns``."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["SCHEMA_VERSION", "check_schema_version"]

#: 1: version 0.1.0, which wrote the number into model files alone. Names of classes and fields of its models are
#: translated by `_former_names`; its models have no checksum of their data.
SCHEMA_VERSION = 2


def check_schema_version(found: Any, what: str) -> None:
    """Raise a ValueError unless this version of muport reads what was written with the schema version `found`.

    - `what`: How the message calls the file or the key.
    """
    value = np.asarray(found)
    if value.ndim or value.dtype.kind not in "iu" or value < 1:
        raise ValueError(f"{what} has schema_version={found!r}, expected 1..{SCHEMA_VERSION}: it is damaged.")
    if value > SCHEMA_VERSION:
        raise ValueError(
            f"{what} has schema_version={int(value)}, newer than {SCHEMA_VERSION}: it was saved by a newer muport: "
            "update muport."
        )
