"""scvi-tools fields for cells that are not in every modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import CategoricalObsField, MuDataWrapper, NumericalObsField, ObsmField

from muport._keys import REGISTRY_KEYS, SINGLE_BATCH, quote_name, unquote_name
from muport.data.reading._annotations import COLUMN_RULES
from muport.data.reading._columns import Column, joined_column
from muport.data.reading._crossed_columns import cross_columns
from muport.data.reading._numbers import joined_numbers
from muport.data.registration._setup import Setup, find_space_keys, select_modalities, sort_modalities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

_OWN_PREFIX = "own_"  # of the key of a representation beside the working space
_ALWAYS_REGISTERED = (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)


class RepresentationField(ObsmField):  # type: ignore[misc]
    """A representation. A DataFrame with its columns in another order is the same representation.

    Parameters
    ----------
    registry_key
        Key of the field in the registry.
    attr_key
        ``obsm`` key of the representation.

    Raises
    ------
    ValueError
        On transfer, if the new data have another number of columns.
    """

    def _setup_column_names(self, adata: mudata.MuData | anndata.AnnData) -> Any:
        # scvi-tools logs a line for each array without names of its columns
        names = getattr(self.get_field_data(adata), "columns", None)
        return np.arange(self.get_field_data(adata).shape[1]) if names is None else list(names)

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: mudata.MuData | anndata.AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the names of the columns of the model, by which those of new data are aligned when they are read."""
        self.validate_field(adata_target)
        names, width = state_registry[self.COLUMN_NAMES_KEY], self.get_field_data(adata_target).shape[1]
        if width != len(names):
            raise ValueError(f"obsm[{self.attr_key!r}] has {width} coordinates, but the model has {len(names)}.")
        return {self.COLUMN_NAMES_KEY: names}


def _leave_unchanged(field: Any, mdata: mudata.MuData) -> None:
    """Do nothing before a field is registered; scvi-tools has a lambda for this, which cannot be pickled."""


MuDataRepresentationField = MuDataWrapper(RepresentationField, preregister_fn=_leave_unchanged)
# the class is found by its module when a model is pickled
MuDataRepresentationField.__module__ = __name__


class JoinedObs(CategoricalObsField):  # type: ignore[misc]
    """One categorical column over all cells, gathered by name. Its codes are written; the user's columns are unchanged.

    Parameters
    ----------
    registry_key
        Key of the field in the registry; the codes are ``obs["_scvi_<registry_key>"]``.
    attr_key
        Name of the column, with or without a modality prefix. None: all cells are one category.

    Raises
    ------
    ValueError
        On transfer, if the new data have a category that the source lacks and ``extend_categories`` is not set.
    """

    def register_field(self, adata: mudata.MuData | anndata.AnnData) -> dict[str, Any]:
        """Write the codes; return the categories."""
        column = self._column(adata, required=True)
        return self._write(adata, column, self._categories(column.names))

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: mudata.MuData | anndata.AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Write the codes of new data by the categories of the old."""
        known = tuple(str(c) for c in state_registry[self.CATEGORICAL_MAPPING_KEY])
        column = self._column(adata_target, required=self._required).with_names_of(known)
        unseen = tuple(name for name in column.names if name not in known)
        if unseen and not extend_categories:
            raise ValueError(
                f"column {self._original_attr_key!r} holds {list(unseen)}, which the model was not set up with "
                f"({list(known)}): use map_query for new batches."
            )
        return self._write(adata_target, column, known + unseen)

    _required = True

    def _column(self, data: mudata.MuData | anndata.AnnData, required: bool) -> Column:
        if self.is_default:
            return self._absent(data.n_obs)
        try:
            return joined_column(data, self._original_attr_key)
        except KeyError:
            if required:
                raise
            return self._absent(data.n_obs)

    def _absent(self, n_cells: int) -> Column:
        return Column(np.zeros(n_cells, dtype=np.int64), (SINGLE_BATCH,))

    def _categories(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return names

    def _codes(self, column: Column, categories: tuple[str, ...]) -> NDArray[np.int64]:
        position = {name: i for i, name in enumerate(categories)}
        lookup = np.array([position[name] for name in column.names] + [self._missing_code(position)], dtype=np.int64)
        return lookup[column.codes]

    def _missing_code(self, position: dict[str, int]) -> int:
        return -1

    def _write(
        self, data: mudata.MuData | anndata.AnnData, column: Column, categories: tuple[str, ...]
    ) -> dict[str, Any]:
        data.obs[self.attr_key] = self._codes(column, categories)
        return {
            self.CATEGORICAL_MAPPING_KEY: np.array(categories, dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }


class CrossedObs(JoinedObs):
    """Several categorical columns as one: a category is a combination of their categories.

    Parameters
    ----------
    registry_key
        Key of the field in the registry; the codes are ``obs["_scvi_<registry_key>"]``.
    keys
        Names of the columns.
    """

    def __init__(self, registry_key: str, keys: Sequence[str]) -> None:
        super().__init__(registry_key, " and ".join(keys))
        self._keys = tuple(keys)

    def _column(self, data: mudata.MuData | anndata.AnnData, required: bool) -> Column:
        return cross_columns([joined_column(data, key) for key in self._keys])


class JoinedLabels(JoinedObs):
    """One column of labels over all cells, gathered by name; its last category is that of the cells without a label.

    Parameters
    ----------
    registry_key
        Key of the field in the registry.
    attr_key
        Name of the column; None, or on transfer absent: no cell is labeled.
    unlabeled_category
        Category of the cells without a label, and of those whose value is missing.
    """

    _required = False

    def __init__(self, registry_key: str, attr_key: str | None, unlabeled_category: str) -> None:
        super().__init__(registry_key, attr_key)
        self._unlabeled_category = unlabeled_category

    def _column(self, data: mudata.MuData | anndata.AnnData, required: bool) -> Column:
        return super()._column(data, required).without(self._unlabeled_category)

    def _absent(self, n_cells: int) -> Column:
        return Column(np.full(n_cells, -1, dtype=np.int64), ())

    def _categories(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return (*names, self._unlabeled_category)

    def _missing_code(self, position: dict[str, int]) -> int:
        return position[self._unlabeled_category]

    def _write(
        self, data: mudata.MuData | anndata.AnnData, column: Column, categories: tuple[str, ...]
    ) -> dict[str, Any]:
        return {**super()._write(data, column, categories), "unlabeled_category": self._unlabeled_category}


class JoinedNumbers(NumericalObsField):  # type: ignore[misc]
    """One column of finite numbers over all cells, gathered by name; the user's columns are unchanged.

    Parameters
    ----------
    registry_key
        Key of the field in the registry; the numbers are ``obs["_scvi_<registry_key>"]``, float64.
    attr_key
        Name of the column, with or without a modality prefix.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__(registry_key, f"_scvi_{registry_key}")
        self._original_attr_key = attr_key

    def register_field(self, adata: mudata.MuData | anndata.AnnData) -> dict[str, Any]:
        """Write the numbers; return the name of the column."""
        adata.obs[self.attr_key] = joined_numbers(adata, self._original_attr_key, f"{self.registry_key}_key")
        return {JoinedObs.ORIGINAL_ATTR_KEY: self._original_attr_key}

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: mudata.MuData | anndata.AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Write the numbers of new data."""
        return self.register_field(adata_target)


def modalities_of(registry: Mapping[str, Any]) -> tuple[str, ...]:
    """List the modalities of a registry, in the order in which the model reads them."""
    prefix = REGISTRY_KEYS.REP_PREFIX
    keys = [key.removeprefix(prefix) for key in registry["field_registries"] if key.startswith(prefix)]
    return tuple(unquote_name(key) for key in keys)


def columns_of(registry: Mapping[str, Any]) -> dict[tuple[str, str], list[Any]]:
    """Return the columns of the representations: (modality, ``obsm`` key) -> names, in the order of the modalities.

    The names of the columns of an array are their positions.
    """
    columns = {}
    for name, field in registry["field_registries"].items():
        for prefix in (REGISTRY_KEYS.REP_PREFIX, _OWN_PREFIX):
            if name.startswith(prefix):
                item = unquote_name(name.removeprefix(prefix)), field["data_registry"]["attr_key"]
                columns[item] = list(field["state_registry"][RepresentationField.COLUMN_NAMES_KEY])
    return columns


def fields_of(data: mudata.MuData | anndata.AnnData, setup: Setup, order: Sequence[str] = ()) -> list[Any]:
    """List the fields of an object: representations by modality, then the columns that the set-up names.

    - `order`: Modalities in the order of a model that was set up with the same cells.
    """
    mods = sort_modalities(select_modalities(data, setup), order)
    space_keys = find_space_keys(mods, setup)
    in_modalities = mods[next(iter(space_keys.space))] is not data
    # scvi-tools accepts no dot in a key
    keys = {f"{REGISTRY_KEYS.REP_PREFIX}{quote_name(m)}": (m, key) for m, key in space_keys.space.items()}
    keys |= {
        f"{_OWN_PREFIX}{quote_name(m)}": (m, key) for m, key in space_keys.own.items() if key != space_keys.space[m]
    }
    # scvi-tools need not correct the format of the user's arrays: read_rows converts every format
    reps = [
        MuDataRepresentationField(name, key, mod_key=m, mod_required=True, correct_data_format=False)
        if in_modalities
        else RepresentationField(name, key, correct_data_format=False)
        for name, (m, key) in keys.items()
    ]
    columns = [
        (JoinedNumbers if rule.numeric else JoinedObs)(name, key)
        for name, rule in COLUMN_RULES.items()
        if (key := getattr(setup, rule.argument)) is not None and name not in _ALWAYS_REGISTERED
    ]
    key, name = setup.batch_key, REGISTRY_KEYS.BATCH_KEY
    batch = JoinedObs(name, key) if key is None or isinstance(key, str) else CrossedObs(name, key)
    return [
        *reps,
        batch,
        JoinedLabels(REGISTRY_KEYS.LABELS_KEY, setup.labels_key, setup.unlabeled_category),
        *columns,
    ]
