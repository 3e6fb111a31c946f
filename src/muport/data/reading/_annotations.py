"""The columns of the cells that a set-up can name: batch, label, sample, region, time, weight and covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import REGISTRY_KEYS, SINGLE_BATCH
from muport.data.reading._columns import Column, joined_column
from muport.data.reading._crossed_columns import cross_columns
from muport.data.reading._numbers import joined_numbers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data.registration._setup import Setup


@dataclass(frozen=True)
class ColumnRule:
    """How one column of the set-up is read.

    - `argument`: Argument of the set-up that names the column.
    - `numeric`: Whether it holds numbers; otherwise categories.
    - `complete`: Whether every cell must have a value.
    - `weights`: Whether the numbers are weights: at least 0, and not all 0.
    """

    argument: str
    numeric: bool = False
    complete: bool = True
    weights: bool = False


#: Registry key -> rule, in the order in which columns are read and registered.
COLUMN_RULES = {
    REGISTRY_KEYS.BATCH_KEY: ColumnRule("batch_key"),
    REGISTRY_KEYS.LABELS_KEY: ColumnRule("labels_key", complete=False),
    REGISTRY_KEYS.SAMPLE_KEY: ColumnRule("sample_key"),
    REGISTRY_KEYS.SPATIAL_KEY: ColumnRule("spatial_key"),
    REGISTRY_KEYS.TIME_KEY: ColumnRule("time_key", numeric=True),
    REGISTRY_KEYS.WEIGHT_KEY: ColumnRule("weight_key", numeric=True, weights=True),
}


@dataclass(frozen=True)
class Annotations:
    """Columns over all cells; None where the set-up names none, or it is absent and not needed.

    Without a batch column all cells are one batch; without a label column no cell is labeled.
    """

    batch: Column
    label: Column
    sample: Column | None
    spatial: Column | None
    time: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    covariates: NDArray[np.float64] | None


def read_annotations(
    data: mudata.MuData | anndata.AnnData,
    setup: Setup,
    optional: Collection[str] = (),
    known: Mapping[str, Sequence[str]] | None = None,
) -> Annotations:
    """Read the columns that the set-up names.

    - `data`: Object whose ``obs_names`` are the cells.
    - `optional`: Arguments whose column may be absent from `data`: ``"labels_key"`` and so on.
    - `known`: Registry key -> names of the categories of a model, which those of `data` get.

    Raises KeyError if a column that is needed is missing; lists those that exist; TypeError or ValueError if a cell has
    no batch, sample, region, time, weight or covariate, two modalities disagree on a cell, or a number is not valid.
    """
    columns: dict[str, Any] = {}
    for name, rule in COLUMN_RULES.items():
        key: str | Sequence[str] | None = getattr(setup, rule.argument)
        try:
            if key is None or isinstance(key, str):
                columns[name] = None if key is None else _read(data, key, rule)
            else:
                columns[name] = cross_columns([_read(data, part, rule) for part in key])
        except KeyError:
            if rule.argument not in optional:
                raise
            columns[name] = None
    if labels := columns[REGISTRY_KEYS.LABELS_KEY]:
        columns[REGISTRY_KEYS.LABELS_KEY] = labels.without(setup.unlabeled_category)
    for name, names in (known or {}).items():
        if isinstance(columns.get(name), Column):
            columns[name] = columns[name].with_names_of(names)
    label: Column | None = columns.pop(REGISTRY_KEYS.LABELS_KEY)
    batch: Column | None = columns.pop(REGISTRY_KEYS.BATCH_KEY)
    return Annotations(
        batch=batch or Column(np.zeros(data.n_obs, dtype=np.int64), (SINGLE_BATCH,)),
        label=label or Column(np.full(data.n_obs, -1, dtype=np.int64), ()),
        covariates=_read_covariates(data, setup.continuous_covariate_keys),
        **columns,
    )


def _read_covariates(data: mudata.MuData | anndata.AnnData, keys: Sequence[str] | None) -> NDArray[np.float64] | None:
    if keys is None:
        return None
    return np.stack([joined_numbers(data, key, "continuous_covariate_keys") for key in keys], axis=1)


def _read(data: mudata.MuData | anndata.AnnData, key: str, rule: ColumnRule) -> Any:
    if rule.numeric:
        numbers = joined_numbers(data, key, rule.argument, negative=not rule.weights)
        if rule.weights and not numbers.any():
            raise ValueError(f"{rule.argument}={key!r}: all weights are zero: give at least one cell a weight.")
        return numbers
    column = joined_column(data, key, rule.argument)
    missing = np.flatnonzero(column.codes < 0)
    if rule.complete and len(missing):
        raise ValueError(
            f"{rule.argument}={key!r}: {len(missing)} cells have no {rule.argument.removesuffix('_key')} (NaN), for "
            f"example {data.obs_names[int(missing[0])]!r}: give them one, or leave them out."
        )
    return column
