"""Integration of batches and of unpaired modalities by optimal transport onto shared centres."""

from muport.integration._model import Integration

__all__ = ["Integration"]
