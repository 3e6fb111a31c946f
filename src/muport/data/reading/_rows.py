"""The cells as the methods read them: arrays with one row per measurement of a cell in a modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import JOINT_MODALITY
from muport.data.reading._annotations import read_annotations
from muport.data.reading._representation import fill, ready, width
from muport.data.registration._setup import Setup, SpaceKeys, find_space_keys, select_modalities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    import pandas as pd
    from numpy.typing import NDArray

    Modalities = Mapping[str, anndata.AnnData | mudata.MuData]


@dataclass(frozen=True, eq=False)
class Rows:
    """One row per (cell, modality) measurement, modality after modality, in the order of each modality.

    Attributes
    ----------
    x
        (n_rows, d) float32, C-contiguous: coordinates in the working space. Not to be written to: where the object
        holds just this, it is a view of it. (n_rows, 0) where the modalities have no space in common.
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
    time
        (n_cells,) float64: time of each cell, finite; None if the set-up names no time.
    spatial
        (n_cells,) int64 codes into `spatials`; None if the set-up names no regions.
    spatials
        Names of the regions present, sorted.
    sample
        (n_cells,) int64 codes into `samples`; None if the set-up names no samples.
    samples
        Names of the samples present, sorted.
    weight
        (n_cells,) float64 of at least 0, some above; None if the set-up names no weights.
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
    time: NDArray[np.float64] | None = None
    spatial: NDArray[np.int64] | None = None
    spatials: tuple[str, ...] = ()
    sample: NDArray[np.int64] | None = None
    samples: tuple[str, ...] = ()
    weight: NDArray[np.float64] | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells: rows of ``obs``."""
        return len(self.obs_names)

    @property
    def n_paired(self) -> int:
        """Number of cells measured in more than one modality."""
        return int((np.bincount(self.cell, minlength=self.n_cells) > 1).sum())

    def check_width(self, width: int) -> None:
        """Refuse cells that have not as many coordinates as those a model was fitted to."""
        if self.x.shape[1] != width:
            raise ValueError(f"the cells have {self.x.shape[1]} coordinates, but the model has {width}.")

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
            rows = self.modality == code
            out[self.cell[rows]] += values[rows]
        count = np.bincount(self.cell, minlength=self.n_cells)
        out[count > 1] /= count[count > 1, None].astype(np.float32)
        return out

    def summary(self) -> str:
        """Describe the data in one line."""
        count = np.bincount(self.modality, minlength=len(self.modalities))
        parts = ", ".join(f"{name} {n}" for name, n in zip(self.modalities, count, strict=True))
        text = f"{self.n_cells} cells ({parts}"
        text += f"; {self.n_paired} in more than one)" if len(self.modalities) > 1 else ")"
        text += f", {len(self.batches)} batches, {int((self.label >= 0).sum())} cells in {len(self.labels)} labels"
        if self.sample is not None:
            text += f", {len(self.samples)} samples"
        return text if self.time is None else f"{text}, time {self.time.min():g} to {self.time.max():g}"


def read_rows(
    data: mudata.MuData | anndata.AnnData,
    setup: Setup,
    *,
    modalities: Sequence[str] | None = None,
    require_labels: bool = True,
    require_batch: bool = True,
    require_time: bool = True,
    require_sample: bool = True,
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
        Modalities of a fitted model, when `data` are new cells: then one of them is enough, and the columns of regions
        and weights may be missing.
    require_labels
        If False, a missing label column means that no cell is labelled.
    require_batch
        If False, a missing batch column means that all cells are one batch.
    require_time
        If False, a missing time column means no time.
    require_sample
        If False, a missing sample column means no samples.

    Returns
    -------
    The rows. One batch, a batch of one cell, an empty modality, a constant representation and cells without any label
    all pass: the methods define what they mean.

    Raises
    ------
    KeyError
        If a modality, ``obsm`` key or column is missing; lists those that exist.
    ValueError
        If cells repeat, take part nowhere, have no batch, sample, region, time or weight, or if a representation is not
        finite or not of one width.
    TypeError
        If `data` is neither MuData nor AnnData, or a representation, time or weight is not numeric.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.zeros((3, 1)), obsm={"X_pca": np.eye(3)})
    >>> adata.obs["batch"] = ["a", "b", "b"]
    >>> read_rows(adata, Setup("X_pca")).batches
    ('a', 'b')
    """
    mods = select_modalities(data, setup, modalities)
    keys = find_space_keys(mods, setup, modalities)
    obs_names = _check_names(data, mods)
    cells = {m: _positions(obs_names, mods[m].obs_names, m) for m in keys.space}
    _check_cells(obs_names, cells, setup, keys)
    required = {
        "labels_key": require_labels,
        "batch_key": require_batch,
        "time_key": require_time,
        "sample_key": require_sample,
        "spatial_key": modalities is None,
        "weight_key": modalities is None,
    }
    annotations = read_annotations(data, setup, [name for name, needed in required.items() if not needed])
    working = _concatenate_modalities(mods, keys, cells) if keys.concatenate else _stack_modalities(mods, keys, cells)
    row_batch = annotations.batch.codes[working.cell]
    several = not keys.concatenate and len(modalities if modalities is not None else cells) > 1
    group, groups = _groups(working.modality, working.modalities, row_batch, annotations.batch.names, several)
    return Rows(
        x=working.x,
        cell=working.cell,
        modality=working.modality,
        modalities=working.modalities,
        batch=row_batch,
        batches=annotations.batch.names,
        group=group,
        groups=groups,
        label=annotations.label.codes,
        labels=annotations.label.names,
        obs_names=obs_names,
        own=working.own,
        time=annotations.time,
        spatial=annotations.spatial.codes if annotations.spatial else None,
        spatials=annotations.spatial.names if annotations.spatial else (),
        sample=annotations.sample.codes if annotations.sample else None,
        samples=annotations.sample.names if annotations.sample else (),
        weight=annotations.weight,
    )


@dataclass(frozen=True, eq=False)
class _WorkingSpace:
    """Coordinates in the working space, with the cell and the modality of each row, as in `Rows`."""

    x: NDArray[np.float32]
    cell: NDArray[np.int64]
    modality: NDArray[np.int64]
    modalities: tuple[str, ...]
    own: dict[str, NDArray[np.float32] | None]


def _stack_modalities(mods: Modalities, keys: SpaceKeys, cells: Mapping[str, NDArray[np.int64]]) -> _WorkingSpace:
    sizes = [len(c) for c in cells.values()]
    x = np.empty((sum(sizes), 0), np.float32) if keys.separate else _stack(mods, keys)
    modality = np.repeat(np.arange(len(sizes)), sizes)
    return _WorkingSpace(
        x, np.concatenate(list(cells.values())), modality, tuple(keys.space), _own(mods, keys, x, sizes)
    )


def _concatenate_modalities(mods: Modalities, keys: SpaceKeys, cells: Mapping[str, NDArray[np.int64]]) -> _WorkingSpace:
    parts = {m: (mods[m].obsm[key], f"obsm[{key!r}] of {m!r}") for m, key in keys.space.items()}
    ends = np.cumsum([0, *(width(values, name) for values, name in parts.values())])
    n_cells = len(next(iter(cells.values())))
    x = np.empty((n_cells, ends[-1]), dtype=np.float32)
    for (m, (values, name)), start, stop in zip(parts.items(), ends[:-1], ends[1:], strict=True):
        own = np.empty((n_cells, stop - start), dtype=np.float32)
        fill(own, values, name, mods[m].obs_names)
        x[cells[m], start:stop] = own
    code = np.zeros(n_cells, dtype=np.int64)
    return _WorkingSpace(x, np.arange(n_cells), code, (JOINT_MODALITY,), {JOINT_MODALITY: x})


def _check_names(data: mudata.MuData | anndata.AnnData, mods: Modalities) -> pd.Index:
    if data.n_obs == 0:
        raise ValueError("data has no cells.")
    for name, part in {"data": data, **getattr(data, "mod", {}), **mods}.items():
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


def _check_cells(obs_names: pd.Index, cells: Mapping[str, NDArray[np.int64]], setup: Setup, keys: SpaceKeys) -> None:
    count = np.bincount(np.concatenate(list(cells.values())), minlength=len(obs_names))
    if (count == 0).any():
        lost = obs_names[count == 0]
        raise ValueError(
            f"{len(lost)} cells are in none of the participating modalities {list(cells)}, for example {list(lost[:3])}"
            ": add their modality to use_rep and shared_rep, or subset the data to the participating cells."
        )
    if keys.concatenate and (count < len(cells)).any():
        single = obs_names[count < len(cells)]
        raise ValueError(
            f"use_rep puts {list(cells)} side by side, but {len(single)} cells are not in every one of them, for "
            f"example {list(single[:3])}: subset the data to the cells in all, or name one modality or a joint space."
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


def _stack(mods: Modalities, keys: SpaceKeys) -> NDArray[np.float32]:
    parts = {m: (mods[m].obsm[key], f"obsm[{key!r}] of {m!r}") for m, key in keys.space.items()}
    widths = {m: width(values, name) for m, (values, name) in parts.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"shared_rep: {keys.space} differ in width, {widths}: they must be coordinates in one space.")
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
    mods: Modalities, keys: SpaceKeys, x: NDArray[np.float32], sizes: Sequence[int]
) -> dict[str, NDArray[np.float32] | None]:
    own: dict[str, NDArray[np.float32] | None] = {}
    for m, stop, size in zip(keys.space, np.cumsum(sizes), sizes, strict=True):
        key = keys.own.get(m)
        if key is None:
            own[m] = None
        elif key == keys.space[m] and not keys.separate:
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
