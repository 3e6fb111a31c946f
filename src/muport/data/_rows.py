"""The data as the methods see it: plain arrays, one row per measurement of a cell in a modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._constants import SINGLE_BATCH
from muport.data._columns import Column, joined_column
from muport.data._matrix import fill, ready, width
from muport.data._setup import Location, Setup, locate, modalities_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rows:
    """One row per (cell, modality) measurement, modality after modality, in the order of each modality.

    Attributes
    ----------
    x
        (n_rows, d) float32, C-contiguous: coordinates in the working space. Not to be written to: where the object
        holds just this, it is a view of it.
    cell
        (n_rows,) int64: position of the row's cell in `obs_names`.
    modality
        (n_rows,) int64 codes into `modalities`.
    modalities
        Names of the participating modalities.
    batch
        (n_rows,) int64 codes into `batches`.
    batches
        Names of the batches present, sorted.
    group
        (n_rows,) int64 codes into `groups`. A group is a batch, or, where several modalities take part, a batch of one
        modality: RNA and ATAC of one batch are different measurements.
    groups
        Names of the groups: the batch, or ``"modality:batch"``.
    label
        (n_cells,) int64 codes into `labels`, -1 for a cell without a label.
    labels
        Names of the labels present, sorted, without the unlabelled category.
    obs_names
        Names of the cells, in the order of the object.
    own
        Modality -> its own representation (n_rows of it, d_m) float32, in the order of its rows; None if not given.
    """

    x: NDArray[np.float32]
    cell: NDArray[np.int64]
    modality: NDArray[np.int64]
    modalities: tuple[str, ...]
    batch: NDArray[np.int64]
    batches: tuple[str, ...]
    group: NDArray[np.int64]
    groups: tuple[str, ...]
    label: NDArray[np.int64]
    labels: tuple[str, ...]
    obs_names: pd.Index
    own: dict[str, NDArray[np.float32] | None]

    @property
    def n_cells(self) -> int:
        """Number of cells: rows of ``obs``."""
        return len(self.obs_names)

    @property
    def n_paired(self) -> int:
        """Number of cells measured in more than one modality."""
        return int((np.bincount(self.cell, minlength=self.n_cells) > 1).sum())

    def to_cells(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Average the rows of each cell.

        Parameters
        ----------
        values
            (n_rows, k) values, one row per measurement.

        Returns
        -------
        (n_cells, k) float32, in the order of `obs_names`.
        """
        if np.array_equal(self.cell, np.arange(self.n_cells)):
            return values.astype(np.float32, copy=False)
        out = np.zeros((self.n_cells, values.shape[1]), dtype=np.float32)
        # a cell has at most one row in a modality, so this adds without collisions
        for code in range(len(self.modalities)):
            chosen = self.modality == code
            out[self.cell[chosen]] += values[chosen]
        count = np.bincount(self.cell, minlength=self.n_cells)
        out[count > 1] /= count[count > 1, None].astype(np.float32)
        return out

    def summary(self) -> str:
        """Describe the data in one line."""
        count = np.bincount(self.modality, minlength=len(self.modalities))
        parts = ", ".join(f"{name} {n}" for name, n in zip(self.modalities, count, strict=True))
        text = f"{self.n_cells} cells ({parts}"
        text += f"; {self.n_paired} in more than one)" if len(self.modalities) > 1 else ")"
        return f"{text}, {len(self.batches)} batches, {int((self.label >= 0).sum())} cells in {len(self.labels)} labels"


def read_rows(
    data: mudata.MuData | anndata.AnnData,
    setup: Setup,
    *,
    modalities: Sequence[str] | None = None,
    require_labels: bool = True,
    require_batch: bool = True,
) -> Rows:
    """Check the data against `setup` and return them as arrays; `data` and its views are left as they are.

    Peak memory above the input is the float32 copy that is returned, plus one block of rows.

    Parameters
    ----------
    data
        MuData, AnnData, or a view of either. Backed and on-disk representations are read block by block.
    setup
        What the user asked for.
    modalities
        Modalities of a fitted model, when `data` are new cells: then one of them is enough.
    require_labels
        If False, a missing label column means that no cell is labelled.
    require_batch
        If False, a missing batch column means that all cells are one batch.

    Returns
    -------
    The rows. One batch, a batch of one cell, an empty modality, a constant representation and cells without any label
    all pass: the methods define what they mean.

    Raises
    ------
    KeyError
        If a modality, ``obsm`` key or column is missing; lists those that exist.
    ValueError
        If cells repeat, take part nowhere, have no batch, or if a representation is not finite or not of one width.
    TypeError
        If `data` is neither MuData nor AnnData, or a representation is not numeric.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.zeros((3, 1)), obsm={"X_pca": np.eye(3)})
    >>> adata.obs["batch"] = ["a", "b", "b"]
    >>> read_rows(adata, Setup("X_pca")).batches
    ('a', 'b')
    """
    mods = modalities_of(data, setup, modalities)
    where = locate(mods, setup, modalities)
    obs_names = _check_names(data, mods)
    cells = {m: _positions(obs_names, mods[m].obs_names, m) for m in where.space}
    _check_cells(obs_names, cells, setup)
    batch, label = _annotations(data, setup, mods, require_labels, require_batch)
    x = _stack(mods, where)
    sizes = [len(c) for c in cells.values()]
    cell = np.concatenate(list(cells.values()))
    modality = np.repeat(np.arange(len(sizes)), sizes)
    row_batch = batch.codes[cell]
    several = len(modalities if modalities is not None else sizes) > 1
    group, groups = _groups(modality, tuple(where.space), row_batch, batch.names, several)
    return Rows(
        x=x,
        cell=cell,
        modality=modality,
        modalities=tuple(where.space),
        batch=row_batch,
        batches=batch.names,
        group=group,
        groups=groups,
        label=label.codes,
        labels=label.names,
        obs_names=obs_names,
        own=_own(mods, where, x, sizes),
    )


def _check_names(data: mudata.MuData | anndata.AnnData, mods: Mapping[str, anndata.AnnData]) -> pd.Index:
    if data.n_obs == 0:
        raise ValueError("data has no cells.")
    for name, part in {"data": data, **mods}.items():
        if not part.obs_names.is_unique:
            repeated = part.obs_names[part.obs_names.duplicated()].unique()
            raise ValueError(
                f"obs_names of {name!r} repeat {len(repeated)} names, for example {list(repeated[:3])}: call "
                "obs_names_make_unique() on each modality, then mdata.update()."
            )
    return data.obs_names


def _positions(obs_names: pd.Index, names: pd.Index, modality: str) -> NDArray[np.int64]:
    if names is obs_names:
        return np.arange(len(names), dtype=np.int64)
    position: NDArray[np.int64] = obs_names.get_indexer(names).astype(np.int64)
    if (position < 0).any():
        lost = names[position < 0]
        raise ValueError(
            f"modality {modality!r} has {len(lost)} cells that mdata.obs lacks, for example {list(lost[:3])}: call "
            "mdata.update()."
        )
    return position


def _check_cells(obs_names: pd.Index, cells: Mapping[str, NDArray[np.int64]], setup: Setup) -> None:
    count = np.bincount(np.concatenate(list(cells.values())), minlength=len(obs_names))
    if (count == 0).any():
        lost = obs_names[count == 0]
        raise ValueError(
            f"{len(lost)} cells are in none of the participating modalities {list(cells)}, for example {list(lost[:3])}"
            ": add their modality to use_rep and shared_rep, or subset the data to the participating cells."
        )
    if setup.paired is False and (count > 1).any():
        shared = obs_names[count > 1]
        raise ValueError(
            f"paired=False, but {len(shared)} names are in more than one modality, for example {list(shared[:3])}: "
            "make them distinct (for example with a prefix per modality), or pass paired=None if they are one cell."
        )
    if setup.paired is True and (count < len(cells)).any():
        single = obs_names[count < len(cells)]
        raise ValueError(
            f"paired=True, but {len(single)} cells are not in every one of {list(cells)}, for example "
            f"{list(single[:3])}: pass paired=None for partly paired cells."
        )


def _annotations(
    data: mudata.MuData | anndata.AnnData,
    setup: Setup,
    mods: Mapping[str, anndata.AnnData],
    require_labels: bool,
    require_batch: bool,
) -> tuple[Column, Column]:
    batch = read_column(data, setup.batch_key, mods, require_batch)
    if batch is None:
        batch = Column(np.zeros(data.n_obs, dtype=np.int64), (SINGLE_BATCH,))
    if missing := int((batch.codes < 0).sum()):
        first = data.obs_names[int(np.flatnonzero(batch.codes < 0)[0])]
        raise ValueError(
            f"batch_key={setup.batch_key!r}: {missing} cells have no batch (NaN), for example {first!r}: give them "
            "one, or leave them out."
        )
    label = read_column(data, setup.labels_key, mods, require_labels)
    if label is None:
        label = Column(np.full(data.n_obs, -1, dtype=np.int64), ())
    return batch, label.without(setup.unlabeled_category)


def read_column(
    data: mudata.MuData | anndata.AnnData, key: str | None, mods: Mapping[str, anndata.AnnData], required: bool
) -> Column | None:
    """Gather a column, or return None where none is asked for, or it is absent and not required."""
    if key is None:
        return None
    try:
        return joined_column(data, key, mods)
    except KeyError:
        if required:
            raise
        return None


def _stack(mods: Mapping[str, anndata.AnnData], where: Location) -> NDArray[np.float32]:
    parts = {m: (mods[m].obsm[key], f"obsm[{key!r}] of {m!r}") for m, key in where.space.items()}
    widths = {m: width(values, name) for m, (values, name) in parts.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"shared_rep: {where.space} differ in width, {widths}: they must be coordinates in one space.")
    n_rows = sum(mods[m].n_obs for m in parts)
    if len(parts) == 1 and (view := ready(next(iter(parts.values()))[0])) is not None:
        return view
    x = np.empty((n_rows, next(iter(widths.values()))), dtype=np.float32)
    start = 0
    for m, (values, name) in parts.items():
        stop = start + mods[m].n_obs
        fill(x[start:stop], values, name, mods[m].obs_names)
        start = stop
    return x


def _own(
    mods: Mapping[str, anndata.AnnData], where: Location, x: NDArray[np.float32], sizes: Sequence[int]
) -> dict[str, NDArray[np.float32] | None]:
    own: dict[str, NDArray[np.float32] | None] = {}
    for m, stop, size in zip(where.space, np.cumsum(sizes), sizes, strict=True):
        key = where.own.get(m)
        if key is None:
            own[m] = None
        elif key == where.space[m]:
            own[m] = x[stop - size : stop]
        else:
            values, name = mods[m].obsm[key], f"obsm[{key!r}] of {m!r}"
            out = np.empty((size, width(values, name)), dtype=np.float32)
            fill(out, values, name, mods[m].obs_names)
            own[m] = out
    return own


def _groups(
    modality: NDArray[np.int64],
    modalities: tuple[str, ...],
    batch: NDArray[np.int64],
    batches: tuple[str, ...],
    several: bool,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if not several:
        return batch, batches
    pair = modality * len(batches) + batch
    used, group = np.unique(pair, return_inverse=True)
    names = tuple(f"{modalities[p // len(batches)]}:{batches[p % len(batches)]}" for p in used)
    return group.astype(np.int64), names
