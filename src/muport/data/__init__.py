"""The hall of the models: MuData and AnnData read as plain arrays, registered, saved and loaded.

Names are loaded when they are first used: reading a file row by row needs neither scvi-tools nor its memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport.data._base_model import MuDataModel
    from muport.data._serialization import pack, unpack
    from muport.data.reading._columns import Column, joined_column
    from muport.data.reading._numbers import joined_numbers
    from muport.data.reading._rows import Rows, read_rows
    from muport.data.registration._fields import JoinedLabels, JoinedNumbers, JoinedObs
    from muport.data.registration._manager import UnionDataset, UnionManager, register
    from muport.data.registration._setup import Setup, is_joint

__all__ = [
    "Column",
    "JoinedLabels",
    "JoinedNumbers",
    "JoinedObs",
    "MuDataModel",
    "Rows",
    "Setup",
    "UnionDataset",
    "UnionManager",
    "is_joint",
    "joined_column",
    "joined_numbers",
    "layer_of",
    "pack",
    "read_rows",
    "register",
    "unpack",
]

_NAMES: dict[str, tuple[str, ...]] = {
    "_base_model": ("MuDataModel",),
    "reading._columns": ("Column", "joined_column"),
    "registration._fields": ("JoinedLabels", "JoinedNumbers", "JoinedObs"),
    "reading._layers": ("layer_of",),
    "registration._manager": ("UnionDataset", "UnionManager", "register"),
    "reading._numbers": ("joined_numbers",),
    "reading._rows": ("Rows", "read_rows"),
    "registration._setup": ("Setup", "is_joint"),
    "_serialization": ("pack", "unpack"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"muport.data.{module}"), name)
    raise AttributeError(f"module 'muport.data' has no attribute {name!r}")
