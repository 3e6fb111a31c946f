"""The data layer of the models: MuData and AnnData are read as arrays, registered, saved and loaded.

In the order of reading:

- ``reading``: the obs and obsm of an object as arrays, aligned by cell name
- ``projection``: the coordinates of new cells, computed from their counts
- ``registration``: the arguments of a set-up, and its registration with scvi-tools
- ``_data_argument``: the cells as ``adata=`` or ``mdata=``, in every function
- ``_base_model``: the base class of the three models
- ``_model_copies``: a model and its data pickled or deep-copied
- ``_hidden_methods``: methods of scvi-tools that the models do not have
- ``_model_summary``: the summary of a model that Python and notebooks print
- ``_serialization``: a fitted state as arrays and JSON, and back
- ``_state_checks``: a loaded state is what its annotations say
- ``_former_names``: names that saved classes had in earlier versions
- ``_model_files``: the files of a saved model
- ``_saved_data``: the cells that are saved with a model
- ``_result_writing``: results written to the user's object, all or none
- ``_cell_graph``: neighbor graphs as scanpy writes them, which muport may replace where it wrote them
- ``_durable_files``: files that are complete or absent, also after a crash, and that one process at a time writes
- ``out_of_core``: cells read in chunks from a file, and results written in chunks to a file

Names are imported when they are first used: reading a file by rows needs neither scvi-tools nor its memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport.data._base_model import MuDataModel
    from muport.data._cell_graph import compute_graph, describe_graph, is_own_graph
    from muport.data._data_argument import accept_data_names
    from muport.data._result_writing import check_names_free, check_writable, write_results
    from muport.data._serialization import pack, unpack
    from muport.data.reading._categories import category_name, match_names
    from muport.data.reading._columns import Column, holds_numbers, joined_column, ordered_names
    from muport.data.reading._numbers import joined_numbers
    from muport.data.reading._representation import Representation
    from muport.data.reading._rows import Rows, read_rows
    from muport.data.registration._fields import JoinedLabels, JoinedNumbers, JoinedObs
    from muport.data.registration._manager import UnionDataset, UnionManager, register
    from muport.data.registration._pairing import Pairing, check_pairings, compare_pairs, pairing_metrics
    from muport.data.registration._setup import (
        Setup,
        choose_batch_key,
        expand_use_rep,
        is_joint,
        select_modalities,
    )

__all__ = [
    "Column",
    "JoinedLabels",
    "JoinedNumbers",
    "JoinedObs",
    "MuDataModel",
    "Pairing",
    "Representation",
    "Rows",
    "Setup",
    "UnionDataset",
    "UnionManager",
    "accept_data_names",
    "category_name",
    "check_cells",
    "check_names_free",
    "check_pairings",
    "check_writable",
    "choose_batch_key",
    "compare_pairs",
    "compute_graph",
    "describe_graph",
    "expand_use_rep",
    "holds_numbers",
    "in_memory",
    "is_joint",
    "is_own_graph",
    "joined_column",
    "joined_numbers",
    "layer_of",
    "match_names",
    "ordered_names",
    "pack",
    "pairing_metrics",
    "read_rows",
    "register",
    "select_modalities",
    "unpack",
    "write_results",
]

_NAMES: dict[str, tuple[str, ...]] = {
    "_base_model": ("MuDataModel",),
    "reading._categories": ("category_name", "match_names"),
    "reading._columns": ("Column", "holds_numbers", "joined_column", "ordered_names"),
    "registration._fields": ("JoinedLabels", "JoinedNumbers", "JoinedObs"),
    "reading._layers": ("in_memory", "layer_of"),
    "registration._manager": ("UnionDataset", "UnionManager", "register"),
    "reading._numbers": ("joined_numbers",),
    "registration._pairing": ("Pairing", "check_pairings", "compare_pairs", "pairing_metrics"),
    "reading._representation": ("Representation",),
    "reading._rows": ("Rows", "read_rows"),
    "registration._setup": ("Setup", "choose_batch_key", "is_joint", "expand_use_rep", "select_modalities"),
    "_data_argument": ("accept_data_names", "check_cells"),
    "_cell_graph": ("compute_graph", "describe_graph", "is_own_graph"),
    "_result_writing": ("check_names_free", "check_writable", "write_results"),
    "_serialization": ("pack", "unpack"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"muport.data.{module}"), name)
    raise AttributeError(f"module 'muport.data' has no attribute {name!r}")
