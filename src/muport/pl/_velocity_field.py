"""Velocity fields: streamlines, arrows, confidence, and the losses of their training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.neighbors import knn
from muport.pl._axes import get_axes, hide_frame
from muport.pl._embedding import embedding
from muport.pl._obs_and_obsm import get_coordinates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl._obs_and_obsm import Data

__all__ = ["confidence", "training_curves", "velocity_quiver", "velocity_stream"]

_N_NEIGHBORS = 50  # cells whose velocities are averaged at a point of the grid
_MARGIN = 0.05  # of the grid beyond the cells, as a fraction of their range
_MIN_WEIGHT = 0.1  # of the cells at a point, as a fraction of the median over points: no velocity below it
_MIN_COUNTED_WEIGHT = 0.05  # of a point that counts for this median


def velocity_stream(
    data: Data,
    basis: str = "X_umap",
    velocity_key: str | None = None,
    color: str | None = None,
    ax: Axes | None = None,
    *,
    density: float = 1.0,
    n_grid: int = 50,
    **kwargs: Any,
) -> Axes:
    """Draw the velocities as streamlines.

    Velocities are averaged over the cells near each point of a grid; no line is drawn where there are no cells. Cells
    whose position or velocity is not finite are left out.

    Parameters
    ----------
    data
        Cells with an embedding and velocities in it.
    basis
        Key of ``data.obsm`` with the embedding; ``"rna:X_umap"`` is that of a modality.
    velocity_key
        Key of ``obsm`` with the velocities in the embedding; for ``"X_umap"`` it is ``"velot_velocity_umap"`` or
        ``"velocity_umap"`` by default.
    color
        Column that colors the cells, as in :func:`muport.pl.embedding`.
    ax
        Axes to draw on; new ones by default.
    density
        Density of the lines, as in :meth:`matplotlib.axes.Axes.streamplot`.
    n_grid
        Number of grid points along each axis.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes, with the streamlines above the cells.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If the velocities have fewer than two columns, or none is finite.
    """
    xy, v = _get_velocities(data, basis, velocity_key)
    axes = embedding(data, basis, color, ax, **kwargs)
    x, y, flow = _average_on_grid(xy, v, n_grid)
    length = np.hypot(flow[0], flow[1])
    width = 0.4 + 1.4 * length / max(float(np.nanmax(length)), np.finfo(float).tiny)
    axes.streamplot(
        x, y, flow[0], flow[1], density=density, color="0.15", linewidth=np.nan_to_num(width), arrowsize=0.8, zorder=3
    )
    return axes


def velocity_quiver(
    data: Data,
    basis: str = "X_umap",
    velocity_key: str | None = None,
    color: str | None = None,
    ax: Axes | None = None,
    *,
    n_arrows: int = 500,
    length: float = 0.05,
    random_state: int = 0,
    **kwargs: Any,
) -> Axes:
    """Draw the velocities of some cells as arrows. Cells whose position or velocity is not finite have none.

    Parameters
    ----------
    data, basis, velocity_key, color, ax, kwargs
        As for :func:`velocity_stream`.
    n_arrows, random_state
        Number of cells with an arrow, and the seed of their choice.
    length
        Mean length of an arrow, as a fraction of the width of the embedding.

    Returns
    -------
    The axes, with the arrows above the cells.

    Raises
    ------
    KeyError, ValueError
        As :func:`velocity_stream`.
    """
    xy, v = _get_velocities(data, basis, velocity_key)
    axes = embedding(data, basis, color, ax, **kwargs)
    sample = np.random.default_rng(random_state).permutation(len(xy))[:n_arrows]
    speed = float(np.hypot(*v.T).mean())
    scale = length * float(np.ptp(xy[:, 0])) / speed if speed > 0 else 1.0
    axes.quiver(
        *xy[sample].T,
        *(scale * v[sample]).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        color="0.15",
        zorder=3,
    )
    return axes


def confidence(
    data: Data, basis: str = "X_umap", key: str = "velot_confidence", ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw the confidence of the velocity of each cell.

    Parameters
    ----------
    data, basis, ax, kwargs
        As for :func:`velocity_stream`.
    key
        Column with the confidence.

    Returns
    -------
    The axes, with the cells colored by their confidence.

    Raises
    ------
    KeyError
        If a key does not exist.
    """
    return embedding(data, basis, key, ax, **{"title": "confidence", **kwargs})


def training_curves(history: Mapping[str, Any], ax: Axes | None = None, *, smooth: int = 10) -> Axes:
    """Draw the losses over the steps of a training.

    Parameters
    ----------
    history
        Name -> values: ``model.history_``, or ``adata.uns["velot_smoothing"]["history"]``.
    ax
        Axes to draw on; new ones by default.
    smooth
        Number of steps of a running mean.

    Returns
    -------
    The axes; a loss that is 0 in every step is left out.

    Raises
    ------
    ValueError
        If there is no loss to draw.

    Examples
    --------
    >>> import muport
    >>> muport.pl.training_curves({"loss": [3.0, 2.0, 1.0]}, smooth=1).get_xlabel()
    'step'
    """
    curves = {name: np.asarray(values, dtype=float).ravel() for name, values in history.items()}
    curves = {name: values for name, values in curves.items() if values.any()}
    if not curves:
        raise ValueError(f"history={list(history)} holds no loss: pass model.history_ of a trained model.")
    axes = get_axes(ax, 5, 4)
    for name, values in curves.items():
        window = max(1, min(smooth, len(values)))
        mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        axes.plot(np.arange(window - 1, len(values)), mean, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if all((v > 0).all() for v in curves.values()) else "linear")
    axes.legend(frameon=False, fontsize="small")
    hide_frame(axes)
    return axes


def _get_velocities(
    data: Data, basis: str, velocity_key: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (n, 2) and velocities (n, 2) of the cells where both are finite."""
    xy, cells = get_coordinates(data, basis)
    prefix, colon, name = basis.rpartition(":")
    part = getattr(data, "mod", {}).get(prefix, data) if colon else data
    short = name.removeprefix("X_")
    defaults = [f"velot_velocity_{short}", f"velocity_{short}"]
    key = velocity_key if velocity_key is not None else next((k for k in defaults if k in part.obsm), defaults[0])
    try:
        v, velocity_cells = get_coordinates(data, f"{prefix}{colon}{key.removeprefix(prefix + colon)}")
    except KeyError:
        raise KeyError(
            f"velocity_key={key!r} is not in obsm, which has {sorted(part.obsm.keys())}: "
            "muport.velocity.project_to_embedding writes it."
        ) from None
    if not velocity_cells.equals(cells):
        raise ValueError(f"velocity_key={key!r} is of other cells than basis={basis!r}.")
    finite = np.isfinite(xy).all(axis=1) & np.isfinite(v).all(axis=1)
    if not finite.any():
        raise ValueError(f"velocity_key={key!r}: no cell has a finite velocity and position, nothing can be drawn.")
    return xy[finite], v[finite]


def _average_on_grid(
    xy: NDArray[np.float64], v: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """X (n,) and y (n,) of the grid, and mean velocity (2, n, n) at its points, NaN where there are no cells."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = _MARGIN * (high - low)
    x, y = (np.linspace(a, b, n) for a, b in zip(low - margin, high + margin, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    width = float(np.mean((high - low) / n))
    neighbors = knn(xy, min(_N_NEIGHBORS, len(xy)), query=points)
    weight = np.exp(-0.5 * np.square(neighbors.distances / max(width, np.finfo(np.float32).tiny)))
    total = weight.sum(axis=1)
    mean = (weight[:, :, None] * v[neighbors.indices]).sum(axis=1) / np.maximum(total, 1e-12)[:, None]
    counted = total > _MIN_COUNTED_WEIGHT
    mean[total < (_MIN_WEIGHT * np.median(total[counted]) if counted.any() else 0)] = np.nan
    return x, y, mean.T.reshape(2, n, n)
