"""The cells as the algorithms read them: arrays with one row per measurement.

A row is the measurement of one cell in one modality; a row of ``obs`` is called a cell. There are n cells, and modality
m has n_m of them, with d_m coordinates in its own representation. The arrays have one of four layouts:

============  ============  ======================  ==========  =====================
layout        x             cell                    modalities  own
============  ============  ======================  ==========  =====================
one modality  (n, d)        each cell once          its name    x, (n, d_m) or None
shared space  (sum n_m, d)  modality by modality    all names   (n_m, d_m) or None
concatenated  (n, sum d_m)  0, 1, ..., n - 1        "joint"     x
separate      (sum n_m, 0)  modality by modality    all names   (n_m, d_m)
============  ============  ======================  ==========  =====================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import JOINT_MODALITY, quote_name
from muport.data.projection._new_cells import add_missing_coordinates
from muport.data.reading._annotations import read_annotations
from muport.data.reading._representation import Representation
from muport.data.registration._setup import Setup, SpaceKeys, find_space_keys, select_modalities, sort_modalities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    import pandas as pd
    from numpy.typing import NDArray

    Modalities = Mapping[str, anndata.AnnData | mudata.MuData]
    #: (modality, ``obsm`` key) -> names of the columns in a fitted model.
    FittedColumns = Mapping[tuple[str, str], Sequence[Any]]
    from muport.data.projection._new_cells import Recipes

    #: (modality, ``obsm`` key) -> what the object holds there.
    Held = Mapping[tuple[str, str], Representation]


#: How names that are equal by chance are made distinct: a row of ``mdata.obs`` is one cell.
RENAME = "for m, a in mdata.mod.items(): a.obs_names = m + ':' + a.obs_names; then mdata = MuData(mdata.mod)"


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows modality by modality, each in the order of its cells. Codes are int64 positions in a tuple of names.

    Attributes
    ----------
    x
        Per row (n_rows, d): float32, C-contiguous coordinates in the working space. Read-only, like `own`: they may
        share memory with ``obsm``.
    cell
        Per row (n_rows,): position of its cell in `obs_names`.
    modality, batch, group
        Per row (n_rows,): codes into `modalities`, `batches` and `groups`. A group is a batch or, if there are several
        modalities, a batch of one modality: RNA and ATAC of one batch are different measurements.
    own
        Modality -> float32 coordinates of its rows in its own representation; None if that is not given.
    columns
        Modality -> its columns of `x`, if the modalities are concatenated; empty if not.
    label, sample, spatial
        Per cell (n_cells,): codes into `labels` (-1 without a label), `samples`, and the spatial regions `spatials`.
        The last two are None if the set-up does not name them.
    time, weight
        Per cell (n_cells,): float64, finite; weights are at least 0, not all 0. None if the set-up does not name them.
    covariates
        Per cell (n_cells, J): float64, finite; None if the set-up does not name them.
    obs_names
        Names of the cells, in the order of the object.
    modalities, batches, groups, labels, samples, spatials
        Names that the codes stand for. Batches, labels, samples and regions are those present, sorted, without the
        unlabeled category. A group has the name of its batch, or ``"modality:batch"``.
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
    columns: dict[str, slice] = field(default_factory=dict)
    time: NDArray[np.float64] | None = None
    spatial: NDArray[np.int64] | None = None
    spatials: tuple[str, ...] = ()
    sample: NDArray[np.int64] | None = None
    samples: tuple[str, ...] = ()
    weight: NDArray[np.float64] | None = None
    covariates: NDArray[np.float64] | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells: rows of ``obs``."""
        return len(self.obs_names)

    @property
    def n_paired(self) -> int:
        """Number of cells with several rows; 0 if the modalities are concatenated."""
        return int((np.bincount(self.cell, minlength=self.n_cells) > 1).sum())

    def check_width(self, width: int) -> None:
        """Raise a ValueError if the number of coordinates differs from the model's."""
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
        (n_cells, k) float32, in the order of `obs_names`; may be `values` itself if each cell has one row.
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
    columns: FittedColumns | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
    recipes: Recipes | None = None,
    require_labels: bool = True,
    require_batch: bool = True,
    require_time: bool = True,
    require_sample: bool = True,
) -> Rows:
    """Check the data against `setup` and return them as arrays; `data` and its views are left as they are.

    Every representation is copied to float32 once, block by block, except for that of a single modality that is finite
    float32 already. Concatenation needs a second copy of one modality at a time.

    Parameters
    ----------
    data
        MuData, AnnData, or a view of either. Backed and on-disk representations are read block by block.
    setup
        What the user asked for.
    modalities
        Modalities of a fitted model, if `data` are new cells. One of them is then enough (all, if they are
        concatenated), and the columns of regions and weights may be missing, as may own representations beside a
        shared one.
    columns
        Of a fitted model, (modality, ``obsm`` key) -> names of the columns, in the order of its modalities: modalities
        are read in that order, and a DataFrame is aligned by the names. By default, all is read as it is.
    known
        Registry key -> names of the categories of a fitted model. A category of `data` that is among them, perhaps in
        another spelling (1.0 for 1), gets the name of the model.
    recipes
        Of a fitted model, how representations that new cells lack are projected from their counts.
    require_labels, require_batch, require_time, require_sample
        Whether a column that the set-up names must exist. Without it no cell is labeled, all cells are one batch, or
        there are no times or samples.

    Returns
    -------
    The rows. One batch, a batch of one cell, an empty modality, a constant representation and cells without any label
    are allowed: the algorithms define what they mean.

    Raises
    ------
    KeyError
        If a modality, ``obsm`` key or column is missing; lists those that exist.
    ValueError
        If cells repeat, take part nowhere, have no batch, sample, region, time or weight, or if a representation is not
        finite, not of one width, has other columns than the model, or holds values that float32 would lose.
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
    columns = columns or {}
    mods = sort_modalities(select_modalities(data, setup, modalities), [modality for modality, _ in columns])
    if recipes:
        mods = add_missing_coordinates(data, mods, recipes, setup.optional_keys)
    keys = find_space_keys(mods, setup, modalities)
    obs_names = _check_names(data, mods)
    cells = {m: _locate_cells(obs_names, mods[m].obs_names, m) for m in keys.space}
    _check_cells(obs_names, cells, setup, keys)
    required = {
        "labels_key": require_labels,
        "batch_key": require_batch,
        "time_key": require_time,
        "sample_key": require_sample,
        "spatial_key": modalities is None,
        "weight_key": modalities is None,
    }
    annotations = read_annotations(data, setup, [name for name, needed in required.items() if not needed], known)
    held = _find_representations(mods, keys, columns, new_cells=modalities is not None)
    working = _concatenate_modalities(held, keys, cells) if keys.concatenate else _stack_modalities(held, keys, cells)
    row_batch = annotations.batch.codes[working.cell]
    several = not keys.concatenate and len(modalities if modalities is not None else cells) > 1
    group, groups = _assign_groups(working.modality, working.modalities, row_batch, annotations.batch.names, several)
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
        columns=working.columns,
        time=annotations.time,
        spatial=annotations.spatial.codes if annotations.spatial else None,
        spatials=annotations.spatial.names if annotations.spatial else (),
        sample=annotations.sample.codes if annotations.sample else None,
        samples=annotations.sample.names if annotations.sample else (),
        weight=annotations.weight,
        covariates=annotations.covariates,
    )


@dataclass(frozen=True, eq=False)
class _WorkingSpace:
    """Coordinates in the working space, with the cell and the modality of each row, as in `Rows`."""

    x: NDArray[np.float32]
    cell: NDArray[np.int64]
    modality: NDArray[np.int64]
    modalities: tuple[str, ...]
    own: dict[str, NDArray[np.float32] | None]
    columns: dict[str, slice] = field(default_factory=dict)


def _find_representations(mods: Modalities, keys: SpaceKeys, columns: FittedColumns, new_cells: bool) -> Held:
    """Find the representations that are read, with the names of their columns in the model.

    Coordinates that modalities share have the same names: without a model, those of the first DataFrame.
    """
    space = {item: columns.get(item) for item in keys.space.items()}
    if len(space) > 1 and not (keys.separate or keys.concatenate):
        held = [mods[m].obsm[key] for m, key in space]
        tables = space.values() if columns else [getattr(values, "columns", None) for values in held]
        # the columns of an array are named by their positions
        named = [names for names in tables if names is not None and list(names) != list(range(len(names)))]
        space = dict.fromkeys(space, list(named[0])) if named else space
    names = {item: columns.get(item) for item in keys.own.items()} | space
    found = {
        (m, key): Representation(mods[m].obsm[key], f"obsm[{key!r}] of {m!r}", mods[m].obs_names, of_model, new_cells)
        for (m, key), of_model in names.items()
    }
    for representation in found.values():
        representation.check_rows()
    return found


def _stack_modalities(held: Held, keys: SpaceKeys, cells: Mapping[str, NDArray[np.int64]]) -> _WorkingSpace:
    """Stack the rows of the modalities, in their shared space if they have one."""
    ends = np.cumsum([0, *map(len, cells.values())])
    x = np.empty((ends[-1], 0), np.float32) if keys.separate else _read_shared_space(held, keys, ends)
    own: dict[str, NDArray[np.float32] | None] = dict.fromkeys(keys.space)
    for m, start, stop in zip(keys.space, ends[:-1], ends[1:], strict=True):
        if m in keys.own:
            is_shared = keys.own[m] == keys.space[m] and not keys.separate
            own[m] = x[start:stop] if is_shared else held[m, keys.own[m]].read()
    modality = np.repeat(np.arange(len(cells)), np.diff(ends))
    return _WorkingSpace(x, np.concatenate(list(cells.values())), modality, tuple(keys.space), own)


def _read_shared_space(held: Held, keys: SpaceKeys, ends: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read the shared coordinates (n_rows, d) of the modalities, whose rows end at `ends`."""
    widths = {m: held[m, key].width for m, key in keys.space.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"shared_rep: {keys.space} differ in width, {widths}: they must be coordinates in one space.")
    if len(keys.space) == 1:
        (item,) = keys.space.items()
        if (view := held[item].view()) is not None:
            return view
    x = np.empty((ends[-1], next(iter(widths.values()))), np.float32)
    for (m, key), start, stop in zip(keys.space.items(), ends[:-1], ends[1:], strict=True):
        held[m, key].read(x[start:stop])
    return x


def _concatenate_modalities(held: Held, keys: SpaceKeys, cells: Mapping[str, NDArray[np.int64]]) -> _WorkingSpace:
    """Concatenate the representations of each cell, which is in all modalities."""
    widths = [held[item].width for item in keys.space.items()]
    ends = np.cumsum([0, *widths])
    n_cells = len(next(iter(cells.values())))
    x = np.empty((n_cells, ends[-1]), dtype=np.float32)
    columns = {m: slice(start, stop) for m, start, stop in zip(keys.space, ends[:-1], ends[1:], strict=True)}
    for m, key in keys.space.items():
        x[cells[m], columns[m]] = held[m, key].read()
    code = np.zeros(n_cells, dtype=np.int64)
    return _WorkingSpace(x, np.arange(n_cells), code, (JOINT_MODALITY,), {JOINT_MODALITY: x}, columns)


def _check_names(data: mudata.MuData | anndata.AnnData, mods: Modalities) -> pd.Index:
    """Return the names of the cells; refuse names that repeat in the object or a modality."""
    if data.n_obs == 0:
        raise ValueError("data has no cells.")
    # pairs, because a modality may have the name "data"
    for name, part in [("data", data), *getattr(data, "mod", {}).items(), *mods.items()]:
        if not part.obs_names.is_unique:
            repeated = part.obs_names[part.obs_names.duplicated()].unique()
            raise ValueError(
                f"obs_names of {name!r} repeat {len(repeated)} names, for example {list(repeated[:3])}: call "
                "obs_names_make_unique() on each modality, then mdata.update()."
            )
    return data.obs_names


def _locate_cells(obs_names: pd.Index, names: pd.Index, modality: str) -> NDArray[np.int64]:
    """Find the position (n_m,) in `obs_names` of each cell of a modality."""
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
    """Check that every cell is in as many modalities as the set-up demands."""
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
            f"make them distinct with a prefix ({RENAME}), or pass paired=None if they are one cell."
        )


def _assign_groups(
    modality: NDArray[np.int64],
    modalities: tuple[str, ...],
    batch: NDArray[np.int64],
    batches: tuple[str, ...],
    several: bool,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the group (n_rows,) of each row, and the names of the groups."""
    if not several:
        return batch, batches
    pair = modality * len(batches) + batch
    used, group = np.unique(pair, return_inverse=True)
    names = tuple(f"{quote_name(modalities[p // len(batches)])}:{batches[p % len(batches)]}" for p in used)
    return group.astype(np.int64), names
