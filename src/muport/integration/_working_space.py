"""One space for the measurements of all modalities, in which the groups then meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.gromov._gromov_space import Bridge, cross, fit_bridge
from muport.integration.spaces._joint_space import JointSpace, embed, fit_joint, latent, split
from muport.integration.spaces._shared_space import SharedSpace, fit_shared, steadied

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.data import Rows

type Space = JointSpace | SharedSpace | Bridge

__all__ = [
    "Placed",
    "Space",
    "apart",
    "cells_of",
    "find_space",
    "known_group",
    "modalities_of_kind",
    "place",
    "views_of_network",
]

_FEWEST_PAIRS = 30  # cells that two modalities must share for the one to be learnt from the other
_AND = "+"  # between the modalities of a cell
_OF = ":"  # between a modality, or modalities, and a batch


@dataclass(frozen=True, eq=False)
class Placed:
    """Rows in one space, and how much each modality says of where.

    Attributes
    ----------
    rows
        The rows; in a joint space one for each cell, whose ``modality`` is the set of modalities the cell is in.
    weights
        (n_cells, M) weights of the modalities in a joint space, rows of sum 1; None elsewhere.
    """

    rows: Rows
    weights: NDArray[np.float32] | None = None


def find_space(
    rows: Rows, *, seed: int, device: str, steady: bool = True, progress: Callable[[str], None] = lambda _: None
) -> Space | None:
    """Learn the space that the modalities meet in: None where they share one and have no other.

    With 30 cells or more in two modalities, and so on until all hang together, it is learnt from those cells. Without,
    it is the shared representation, steadied by each modality's own, and where there is none, it is found by the
    modalities' geometry alone.

    Parameters
    ----------
    rows
        Rows of all modalities.
    seed
        Seed.
    device
        Torch device.
    steady
        Whether own representations take noise from a shared one.
    progress
        Called with the name of each stage.

    Raises
    ------
    ValueError
        If a modality has no cells, and shares no space with the others.
    """
    if len(rows.modalities) < 2:
        return None
    shared = rows.x.shape[1] > 0
    if _separate(rows) and _linked(rows):
        progress("joint space")
        return fit_joint(
            *_views(rows), _batch_of_cell(rows), shared=_cut(rows, rows.x) if shared else None, random_state=seed
        )
    if shared:
        return fit_shared(_views(rows)[0], _cut(rows, rows.x), seed) if steady and _separate(rows) else None
    own = {name: values for name, values in rows.own.items() if values is not None}
    if empty := [name for name, values in own.items() if len(values) == 0]:
        raise ValueError(f"modality {empty[0]!r} has no cells: leave it out of use_rep.")
    return fit_bridge(own, random_state=seed, device=device, progress=progress)


def place(rows: Rows, space: Space | None) -> Placed:
    """Bring rows, of any of the modalities, into the space; each goes there by itself.

    Parameters
    ----------
    rows
        Fitted or new rows.
    space
        What :func:`find_space` returned.
    """
    if space is None:
        return Placed(rows)
    if isinstance(space, SharedSpace):
        return Placed(replace(rows, x=_steadied(rows, space)))
    if isinstance(space, Bridge):
        own = {name: values for name, values in _views(rows)[0].items() if len(values)}
        return Placed(replace(rows, x=np.concatenate([cross(space, name, values) for name, values in own.items()])))
    shared = _cut(rows, rows.x) if rows.x.shape[1] > 0 else None
    found = embed(space, *_views(rows), rows.n_cells, shared=shared)
    return Placed(_by_cell(rows, found.z), found.weights)


def apart(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Rows of labelled cells in several modalities, each as a cell of its own, and the cells that they are of.

    With their labels they are what cells in one modality have to be judged by.
    """
    several = np.bincount(rows.cell, minlength=rows.n_cells) > 1
    chosen = np.flatnonzero((several & (rows.label >= 0))[rows.cell])
    own = {}
    for code, name in enumerate(rows.modalities):
        values, held = rows.own.get(name), np.flatnonzero(rows.modality == code)
        own[name] = None if values is None else values[np.isin(held, chosen)]
    cell = rows.cell[chosen]
    separate = replace(
        rows,
        x=rows.x[chosen],
        cell=np.arange(len(chosen)),
        modality=rows.modality[chosen],
        batch=rows.batch[chosen],
        group=rows.group[chosen],
        label=rows.label[cell],
        obs_names=rows.obs_names[cell],
        own=own,
    )
    return separate, cell


def cells_of(y: NDArray[np.float32], placed: Placed, space: Space | None) -> NDArray[np.float32]:
    """(n_cells, D) integrated cells from integrated rows; in a joint space each modality by its weight in the cell."""
    cells: NDArray[np.float32] = placed.rows.to_cells(y)
    if placed.weights is None or not isinstance(space, JointSpace):
        return cells
    return latent(space, cells, placed.weights)


def views_of_network(
    y: NDArray[np.float32], placed: Placed, space: Space | None, by_modality: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """What the two views of the network are made of: the integrated cells, or the corrected modalities.

    Raises
    ------
    ValueError
        If the modalities are wanted, but they are not two in a joint space.
    """
    if not by_modality:
        return cells_of(y, placed, space), None
    parts = list(split(space, placed.rows.to_cells(y)).values()) if isinstance(space, JointSpace) else []
    if len(parts) != 2:
        raise ValueError("vae_kwargs['views']='modalities' needs two modalities with cells in both: use 'embedding'.")
    return parts[0], parts[1]


def modalities_of_kind(kind: str) -> frozenset[str]:
    """Modalities that the cells of a kind, ``"rna+atac"``, are in."""
    return frozenset(kind.split(_AND))


def known_group(name: str, groups: tuple[str, ...]) -> str | None:
    """Return the fitted group whose map serves cells of a group: itself, or its batch with more modalities.

    In a joint space a cell that lacks a modality is put where it would be with it, so the map of its batch is its own.
    """
    if name in groups:
        return name
    kind, _, batch = name.partition(_OF)
    for other in groups:
        wider, found, same = other.partition(_OF)
        if found and same == batch and modalities_of_kind(kind) < modalities_of_kind(wider):
            return other
    return None


def _steadied(rows: Rows, space: SharedSpace) -> NDArray[np.float32]:
    own, x = _views(rows)[0], rows.x.copy()
    for code, name in enumerate(rows.modalities):
        mine = rows.modality == code
        if mine.any() and name in space.told:
            x[mine] = steadied(space, name, own[name], x[mine])
    return x


def _separate(rows: Rows) -> bool:
    """Whether every modality has a representation of its own beside the shared one."""
    return all(
        own is not None and (rows.x.shape[1] == 0 or not np.shares_memory(own, rows.x)) for own in rows.own.values()
    )


def _linked(rows: Rows) -> bool:
    """Whether cells in two modalities join them all."""
    present = _present(rows).astype(np.int64)
    linked = (present.T @ present) >= _FEWEST_PAIRS
    reached = np.arange(len(linked)) == 0
    for _ in range(len(linked)):
        reached |= linked[reached].any(axis=0)
    return bool(reached.all())


def _present(rows: Rows) -> NDArray[np.bool_]:
    """(n_cells, M) whether a cell is in a modality."""
    present = np.zeros((rows.n_cells, len(rows.modalities)), bool)
    present[rows.cell, rows.modality] = True
    return present


def _views(rows: Rows) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]:
    """Each modality's own representation, and the cells it is of."""
    own = {name: values for name, values in rows.own.items() if values is not None}
    cell = _cut(rows, rows.cell)
    return own, {name: cell[name] for name in own}


def _cut[T: np.generic](rows: Rows, values: NDArray[T]) -> dict[str, NDArray[T]]:
    return {name: values[rows.modality == code] for code, name in enumerate(rows.modalities)}


def _batch_of_cell(rows: Rows) -> NDArray[np.int64]:
    batch = np.zeros(rows.n_cells, np.int64)
    batch[rows.cell] = rows.batch
    return batch


def _by_cell(rows: Rows, z: NDArray[np.float32]) -> Rows:
    """One row for each cell, of the kind of its modalities."""
    batch = _batch_of_cell(rows)
    sets, kind = np.unique(_present(rows), axis=0, return_inverse=True)
    names = tuple(_AND.join(m for m, held in zip(rows.modalities, one, strict=True) if held) for one in sets)
    pairs, group = np.unique(kind * len(rows.batches) + batch, return_inverse=True)
    n = len(rows.batches)
    alone = {name: _of_cells(rows, name, kind == code) for code, name in enumerate(names)}
    return replace(
        rows,
        x=z,
        cell=np.arange(rows.n_cells),
        modality=kind.astype(np.int64),
        modalities=names,
        batch=batch,
        group=group.astype(np.int64),
        groups=tuple(f"{names[p // n]}{_OF}{rows.batches[p % n]}" for p in pairs),
        own=alone,
    )


def _of_cells(rows: Rows, kind: str, chosen: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Own representation of the cells that are in just one modality, in the order of the cells."""
    values = rows.own.get(kind)
    if values is None:
        return None
    cell = rows.cell[rows.modality == rows.modalities.index(kind)]
    row = np.full(rows.n_cells, -1)
    row[cell] = np.arange(len(cell))
    out: NDArray[np.float32] = values[row[chosen]]
    return out
