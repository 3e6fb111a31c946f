"""The space in which the transport works: fitted for the modalities of one data set, and the cells embedded in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import quote_name, unquote_name
from muport.integration.gromov._gromov_space import GromovSpace, fit_gromov_space, map_to_hub, summarize_alignment
from muport.integration.spaces._joint_space import JointSpace, embed_cells, fit_joint_space, split_modalities
from muport.integration.spaces._shared_space import SharedSpace, embed_modality, fit_shared_space

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from muport.data import Rows

type Space = JointSpace | SharedSpace | GromovSpace

__all__ = [
    "EmbeddedRows",
    "IntegratedRows",
    "Space",
    "alignment_metrics",
    "embed_rows",
    "find_fitted_group",
    "fit_space",
    "make_network_views",
    "separate_paired_cells",
    "split_modality_set",
]

_MIN_PAIRS = 30  # cells that two modalities must have in common for a joint space
_AND = "+"  # between the modalities of a set: "rna+atac"
_OF = ":"  # between a modality, or a set of modalities, and a batch: "rna+atac:batch1"


@dataclass(frozen=True, eq=False)
class EmbeddedRows:
    """Rows in the space of the transport.

    - `rows`: The rows. In a joint space, one for each cell; its ``modality`` is then the set of modalities the cell is
      in.
    - `modality_weights`: (n_cells, M) weights of the modalities in a joint space, rows of sum 1; None in other spaces.
    """

    rows: Rows
    modality_weights: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class IntegratedRows:
    """Rows of data before and after the integration.

    - `rows`: One row for each measurement.
    - `embedded`: The rows in the space of the transport.
    - `y`: (n_embedded, d) integrated coordinates.
    """

    rows: Rows
    embedded: EmbeddedRows
    y: NDArray[np.float32]

    @property
    def cells(self) -> NDArray[np.float32]:
        """(n_cells, d) integrated cells."""
        cells: NDArray[np.float32] = self.embedded.rows.to_cells(self.y)
        return cells


def fit_space(
    rows: Rows,
    *,
    seed: int,
    device: str,
    denoise_shared: bool = True,
    unproved: Collection[tuple[str, str]] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Space | None:
    """Fit the space in which the modalities are compared.

    If each two modalities are linked by pairs of modalities that have 30 cells or more in common, it is a joint space
    fitted on those cells. If not, it is the shared representation, denoised and completed by the own representation of
    each modality. Without a shared representation, the modalities are aligned by their geometry alone
    (Gromov-Wasserstein).

    - `denoise_shared`: Whether a shared representation is denoised by own representations.
    - `unproved`: Modalities whose common names are not known to be pairs; they do not link the two.

    Returns the space; None if the rows stay in the coordinates that they have.
    """
    if len(rows.modalities) < 2:
        return None
    shared = rows.x.shape[1] > 0
    if _have_own_space(rows) and _are_linked(rows, unproved):
        progress("joint space")
        shared_rep = _split_by_modality(rows, rows.x) if shared else None
        own, cell = _own_representations(rows)
        # by name, so that the space does not depend on the order in which the modalities are listed
        own = {name: own[name] for name in sorted(own)}
        return fit_joint_space(own, cell, _batch_of_cell(rows), shared=shared_rep, random_state=seed)
    if shared:
        if not (denoise_shared and _have_own_space(rows)):
            return None
        return fit_shared_space(_own_representations(rows)[0], _split_by_modality(rows, rows.x), seed)
    own = {name: values for name, values in rows.own.items() if values is not None}
    if empty := [name for name, values in own.items() if len(values) == 0]:
        raise ValueError(f"modality {empty[0]!r} has no cells: leave it out of use_rep.")
    return fit_gromov_space(own, random_state=seed, device=device, progress=progress)


def embed_rows(rows: Rows, space: Space | None) -> EmbeddedRows:
    """Embed rows in the space, each cell by itself.

    - `rows`: Fitted or new rows, of any of the modalities.
    - `space`: The space that :func:`fit_space` returned.
    """
    if space is None:
        return EmbeddedRows(rows)
    if isinstance(space, SharedSpace):
        return EmbeddedRows(replace(rows, x=_embed_in_shared_space(rows, space)))
    if isinstance(space, GromovSpace):
        own = {name: values for name, values in _own_representations(rows)[0].items() if len(values)}
        x = np.concatenate([map_to_hub(space, name, values) for name, values in own.items()])
        return EmbeddedRows(replace(rows, x=x))
    shared = _split_by_modality(rows, rows.x) if rows.x.shape[1] > 0 else None
    embedding = embed_cells(space, *_own_representations(rows), rows.n_cells, shared=shared)
    return EmbeddedRows(_merge_rows_by_cell(rows, embedding.z), embedding.weights)


def alignment_metrics(space: Space | None) -> dict[str, float]:
    """Return how far to trust the alignment of modalities without shared features; nothing for other spaces."""
    return summarize_alignment(space) if isinstance(space, GromovSpace) else {}


def separate_paired_cells(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Take the rows of labeled cells that are in several modalities, each row as a separate cell.

    The confidence of labels that are predicted for cells in one modality is calibrated on these rows.

    Returns the rows, and the cell of each among those of the input.
    """
    in_several = np.bincount(rows.cell, minlength=rows.n_cells) > 1
    taken = np.flatnonzero((in_several & (rows.label >= 0))[rows.cell])
    own = {}
    for code, name in enumerate(rows.modalities):
        values, rows_of_modality = rows.own.get(name), np.flatnonzero(rows.modality == code)
        own[name] = None if values is None else values[np.isin(rows_of_modality, taken)]
    cell = rows.cell[taken]
    separate = replace(
        rows,
        x=rows.x[taken],
        cell=np.arange(len(taken)),
        modality=rows.modality[taken],
        batch=rows.batch[taken],
        group=rows.group[taken],
        label=rows.label[cell],
        obs_names=rows.obs_names[cell],
        own=own,
        covariates=None if rows.covariates is None else rows.covariates[cell],
    )
    return separate, cell


def make_network_views(
    y: NDArray[np.float32], embedded: EmbeddedRows, space: Space | None, by_modality: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the coordinates for the two views of the VAE: the integrated cells for both, or a modality for each.

    - `y`: (n_rows, d) integrated rows.
    - `by_modality`: Whether each view is a modality.
    """
    cells = embedded.rows.to_cells(y)
    if not by_modality:
        return cells, None
    parts = list(split_modalities(space, cells).values()) if isinstance(space, JointSpace) else []
    if len(parts) != 2:
        raise ValueError("vae_kwargs['views']='modalities' needs two modalities with cells in both: use 'embedding'.")
    return parts[0], parts[1]


def split_modality_set(name: str) -> frozenset[str]:
    """Split the name of a set of modalities, such as ``"rna+atac"``, into their names."""
    return frozenset(map(unquote_name, name.split(_AND)))


def find_fitted_group(name: str, groups: tuple[str, ...]) -> str | None:
    """Find the fitted group whose map is applied to cells of the group `name`, in a joint space.

    It is the group itself, or the same batch with more modalities: a cell that lacks a modality is embedded where it
    would be with it, so it needs no map of its own. None if there is no such group.
    """
    if name in groups:
        return name
    modalities, _, batch = name.partition(_OF)
    for group in groups:
        group_modalities, separator, group_batch = group.partition(_OF)
        if separator and group_batch == batch and split_modality_set(modalities) < split_modality_set(group_modalities):
            return group
    return None


def _embed_in_shared_space(rows: Rows, space: SharedSpace) -> NDArray[np.float32]:
    own = _own_representations(rows)[0]
    x = np.zeros((len(rows.x), rows.x.shape[1] + space.n_canonical), np.float32)
    x[:, : rows.x.shape[1]] = rows.x
    for code, name in enumerate(rows.modalities):
        rows_of_modality = rows.modality == code
        if rows_of_modality.any() and name in space.regressions:
            if name not in own:
                raise KeyError(
                    f"the cells lack the own representation of modality {name!r} (use_rep), by which the model "
                    "denoises the shared space: compute it, or keep the counts from which it is projected."
                )
            x[rows_of_modality] = embed_modality(space, name, own[name], rows.x[rows_of_modality])
    return x


def _have_own_space(rows: Rows) -> bool:
    """Whether every modality has a representation of its own, which is not the shared one."""
    return all(
        own is not None and (rows.x.shape[1] == 0 or not np.shares_memory(own, rows.x)) for own in rows.own.values()
    )


def _are_linked(rows: Rows, unproved: Collection[tuple[str, str]]) -> bool:
    """Whether chains of modalities that have enough cells in common lead from each modality to each other one."""
    present = _find_present(rows).astype(np.int64)
    linked = (present.T @ present) >= _MIN_PAIRS
    for a, b in unproved:
        i, j = rows.modalities.index(a), rows.modalities.index(b)
        linked[i, j] = linked[j, i] = False
    reached = np.arange(len(linked)) == 0
    for _ in range(len(linked)):
        reached |= linked[reached].any(axis=0)
    return bool(reached.all())


def _find_present(rows: Rows) -> NDArray[np.bool_]:
    """Find out in which modalities each cell is: (n_cells, M)."""
    present = np.zeros((rows.n_cells, len(rows.modalities)), bool)
    present[rows.cell, rows.modality] = True
    return present


def _own_representations(rows: Rows) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]:
    """Return the own representation of each modality, and the cells of its rows."""
    own = {name: values for name, values in rows.own.items() if values is not None}
    cell = _split_by_modality(rows, rows.cell)
    return own, {name: cell[name] for name in own}


def _split_by_modality[T: np.generic](rows: Rows, values: NDArray[T]) -> dict[str, NDArray[T]]:
    return {name: values[rows.modality == code] for code, name in enumerate(rows.modalities)}


def _batch_of_cell(rows: Rows) -> NDArray[np.int64]:
    batch = np.zeros(rows.n_cells, np.int64)
    batch[rows.cell] = rows.batch
    return batch


def _merge_rows_by_cell(rows: Rows, z: NDArray[np.float32]) -> Rows:
    """Merge the rows of each cell into one, whose modality is the set of the cell's modalities."""
    batch = _batch_of_cell(rows)
    sets, code_of_cell = np.unique(_find_present(rows), axis=0, return_inverse=True)
    names = tuple(
        _AND.join(quote_name(m) for m, in_modality in zip(rows.modalities, row, strict=True) if in_modality)
        for row in sets
    )
    pairs, group = np.unique(code_of_cell * len(rows.batches) + batch, return_inverse=True)
    n = len(rows.batches)
    return replace(
        rows,
        x=z,
        cell=np.arange(rows.n_cells),
        modality=code_of_cell.astype(np.int64),
        modalities=names,
        batch=batch,
        group=group.astype(np.int64),
        groups=tuple(f"{names[p // n]}{_OF}{rows.batches[p % n]}" for p in pairs),
        own={name: _take_own(rows, name, code_of_cell == code) for code, name in enumerate(names)},
    )


def _take_own(rows: Rows, modality: str, taken: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Return the own representation of cells (n_cells,) in the order of the cells; None for a set of modalities."""
    name = unquote_name(modality)
    values = None if _AND in modality else rows.own.get(name)
    if values is None:
        return None
    cell = rows.cell[rows.modality == rows.modalities.index(name)]
    row_of_cell = np.full(rows.n_cells, -1)
    row_of_cell[cell] = np.arange(len(cell))
    own: NDArray[np.float32] = values[row_of_cell[taken]]
    return own
