"""Integration of batches and of unpaired modalities by optimal transport onto shared centres.

The model is loaded when it is first used: the centroid path, and the workers of a cluster, need neither scvi-tools nor
its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport.integration._model import Integration

__all__ = ["Integration"]


def __getattr__(name: str) -> Any:
    if name != "Integration":
        raise AttributeError(f"module 'muport.integration' has no attribute {name!r}")
    from muport.integration._model import Integration

    return Integration
