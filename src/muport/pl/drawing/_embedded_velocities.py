"""Velocities in an embedding, projected from the representation where they are not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.pl.drawing._values import as_numbers, get_coordinates, get_matrix

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data

__all__ = ["get_velocities"]

_KEYS = ("velot_velocity", "velot_velocity_pca")  # of velocities in the representation


def get_velocities(
    data: Data, basis: str, velocity_key: str | None, use_rep: str, modality: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coordinates (n, 2) and velocities (n, 2) of the cells in the embedding where both are finite.

    - `velocity_key`: Key of velocities in the embedding or in `use_rep`; None: the first default key that exists.
    """
    xy, cells = get_coordinates(data, basis, modality)
    prefix, colon, name = basis.rpartition(":")
    short = name.removeprefix("X_")
    defaults = [f"{prefix}{colon}{key}" for key in (f"velot_velocity_{short}", f"velocity_{short}", *_KEYS)]
    keys = defaults if velocity_key is None else [f"{prefix}{colon}{velocity_key.removeprefix(prefix + colon)}"]
    key, v, velocity_cells = _first_that_exists(data, keys, modality)
    if not velocity_cells.equals(cells):
        raise ValueError(f"velocity_key={key!r} is of other cells than basis={basis!r}.")
    embedding, _ = get_matrix(data, basis, modality)
    in_embedding = key not in defaults[2:] or _is_same(basis, use_rep)
    if not (in_embedding and v.ndim == 2 and v.shape[1] == embedding.shape[1]):
        v = _project(data, key, v, embedding, f"{prefix}{colon}{use_rep.removeprefix(prefix + colon)}", modality)
    v = as_numbers(v[:, :2], f"velocity_key={key!r}")
    finite = np.isfinite(xy).all(axis=1) & np.isfinite(v).all(axis=1)
    if not finite.any():
        raise ValueError(f"velocity_key={key!r}: no cell has a finite velocity and position, nothing can be drawn.")
    return xy[finite], v[finite]


def _first_that_exists(data: Data, keys: list[str], modality: str | None) -> tuple[str, NDArray[Any], pd.Index]:
    message = ""
    for key in keys:
        try:
            return key, *get_matrix(data, key, modality, "velocity_key")
        except KeyError as error:
            message = str(error.args[0])
    raise KeyError(
        f"{message.replace(repr(keys[-1]), repr(keys[0]), 1)} Write velocities with "
        "adata.obsm['velot_velocity'] = model.get_velocity(), or with muport.velocity.velocity(adata)."
    )


def _is_same(basis: str, use_rep: str) -> bool:
    return basis.rpartition(":")[2].removeprefix("X_") == use_rep.rpartition(":")[2].removeprefix("X_")


def _project(
    data: Data,
    key: str,
    v: NDArray[np.float64],
    embedding: NDArray[np.float64],
    use_rep: str,
    modality: str | None,
) -> NDArray[np.float64]:
    """Return the velocities (n, d) of the representation in the embedding; NaN for cells that are not finite."""
    from muport.velocity.dynamics._embedding_projection import project_velocity

    x, _ = get_matrix(data, use_rep, modality, "use_rep")
    if v.ndim != 2 or v.shape[1] != x.shape[1]:
        raise ValueError(
            f"velocity_key={key!r} has shape {v.shape}, which fits neither the embedding {embedding.shape} nor "
            f"use_rep={use_rep!r} {x.shape}: pass the representation of the model as use_rep."
        )
    finite = np.isfinite(v).all(axis=1) & np.isfinite(x).all(axis=1) & np.isfinite(embedding).all(axis=1)
    projected = np.full(embedding.shape, np.nan)
    if finite.any():
        projected[finite] = project_velocity(x[finite], v[finite], embedding[finite], n_neighbors=30)
    return projected
