"""What is known about the cells: batch, label, sample, place, time and weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import SINGLE_BATCH
from muport.data.reading._columns import Column, joined_column
from muport.data.reading._numbers import joined_numbers

if TYPE_CHECKING:
    from collections.abc import Collection

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data.registration._setup import Setup


@dataclass(frozen=True)
class Annotations:
    """Columns over all cells; None where the set-up names none, or it is absent and not needed."""

    batch: Column
    label: Column
    sample: Column | None
    spatial: Column | None
    time: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None


def read_annotations(
    data: mudata.MuData | anndata.AnnData, setup: Setup, optional: Collection[str] = ()
) -> Annotations:
    """Gather the columns of the set-up.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    setup
        What the user asked for.
    optional
        Arguments whose column may be absent from `data`: ``"labels_key"`` and so on.

    Raises
    ------
    KeyError
        If a column that is needed is missing; lists those that exist.
    TypeError, ValueError
        If a cell misses its batch, sample, place, time or weight, or a number is none.
    """
    batch = read_column(data, setup, "batch_key", optional)
    label = read_column(data, setup, "labels_key", optional, whole=False)
    return Annotations(
        batch=batch if batch is not None else Column(np.zeros(data.n_obs, dtype=np.int64), (SINGLE_BATCH,)),
        label=label.without(setup.unlabeled_category)
        if label is not None
        else Column(np.full(data.n_obs, -1, dtype=np.int64), ()),
        sample=read_column(data, setup, "sample_key", optional),
        spatial=read_column(data, setup, "spatial_key", optional),
        time=read_numbers(data, setup, "time_key", optional),
        weight=read_numbers(data, setup, "weight_key", optional),
    )


def read_column(
    data: mudata.MuData | anndata.AnnData,
    setup: Setup,
    argument: str,
    optional: Collection[str] = (),
    *,
    whole: bool = True,
) -> Column | None:
    """Gather the column that `argument` names, or return None where it names none, or it is optional and absent.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    setup
        What the user asked for.
    argument
        The argument of `setup` that names the column.
    optional
        Arguments whose column may be absent.
    whole
        Whether every cell must have a value.

    Raises
    ------
    KeyError
        If the column is missing and not optional.
    ValueError
        If a cell has no value and `whole` is True, or two modalities disagree.
    """
    key: str | None = getattr(setup, argument)
    if key is None:
        return None
    try:
        column = joined_column(data, key)
    except KeyError:
        if argument in optional:
            return None
        raise
    missing = np.flatnonzero(column.codes < 0)
    if whole and len(missing):
        what = argument.removesuffix("_key")
        raise ValueError(
            f"{argument}={key!r}: {len(missing)} cells have no {what} (NaN), for example "
            f"{data.obs_names[int(missing[0])]!r}: give them one, or leave them out."
        )
    return column


def read_numbers(
    data: mudata.MuData | anndata.AnnData, setup: Setup, argument: str, optional: Collection[str] = ()
) -> NDArray[np.float64] | None:
    """Gather the numbers that `argument` names; as :func:`read_column`. Weights are not negative.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    setup
        What the user asked for.
    argument
        ``"time_key"`` or ``"weight_key"``.
    optional
        Arguments whose column may be absent.

    Raises
    ------
    KeyError
        If the column is missing and not optional.
    TypeError, ValueError
        As :func:`joined_numbers`; and if every weight is zero.
    """
    key: str | None = getattr(setup, argument)
    if key is None:
        return None
    try:
        numbers = joined_numbers(data, key, argument, negative=argument != "weight_key")
    except KeyError:
        if argument in optional:
            return None
        raise
    if argument == "weight_key" and not numbers.any():
        raise ValueError(f"weight_key={key!r}: all weights are zero: give at least one cell a weight.")
    return numbers
