"""The hall of the models: MuData and AnnData read as plain arrays, registered, saved and loaded."""

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
    "pack",
    "read_rows",
    "register",
    "unpack",
]
