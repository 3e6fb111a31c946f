"""The hall of the models: MuData and AnnData read as plain arrays, registered, saved and loaded.

Names are loaded when they are first used: reading a file row by row needs neither scvi-tools nor its memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport.data._base import MuDataModel
    from muport.data._columns import Column, joined_column
    from muport.data._fields import JoinedLabels, JoinedNumbers, JoinedObs
    from muport.data._manager import UnionDataset, UnionManager, register
    from muport.data._numbers import joined_numbers
    from muport.data._rows import Rows, read_rows
    from muport.data._setup import Setup, is_joint
    from muport.data._state import pack, unpack

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
    "_base": ("MuDataModel",),
    "_columns": ("Column", "joined_column"),
    "_fields": ("JoinedLabels", "JoinedNumbers", "JoinedObs"),
    "_layers": ("layer_of",),
    "_manager": ("UnionDataset", "UnionManager", "register"),
    "_numbers": ("joined_numbers",),
    "_rows": ("Rows", "read_rows"),
    "_setup": ("Setup", "is_joint"),
    "_state": ("pack", "unpack"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"muport.data.{module}"), name)
    raise AttributeError(f"module 'muport.data' has no attribute {name!r}")
