"""Pictures of a velocity field: streams, arrows, confidence, and the course of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.neighbors import knn
from muport.pl._axes import new_axes
from muport.pl._embedding import embedding
from muport.pl._lookup import coordinates

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    import mudata
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["confidence", "training_curves", "velocity_quiver", "velocity_stream"]

_NEAR = 50  # cells whose velocities a point of the grid averages
_MARGIN = 0.05  # of the picture's width beyond the cells
_SPARSE = 0.1  # of the median weight of the grid's points: fewer cells are none


def velocity_stream(
    data: anndata.AnnData | mudata.MuData,
    basis: str = "X_umap",
    velocity_key: str | None = None,
    color: str | None = None,
    ax: Axes | None = None,
    *,
    density: float = 1.0,
    n_grid: int = 50,
    **kwargs: Any,
) -> Axes:
    """Draw the lines along which cells flow.

    Velocities are averaged on a grid, over the cells around each point; where there are none, no line is drawn.

    Parameters
    ----------
    data
        Cells with a picture and velocities in it.
    basis
        Key of ``data.obsm`` with the picture; ``"rna:X_umap"`` is that of a modality.
    velocity_key
        Key of ``obsm`` with the velocities in the picture; ``"velot_velocity_umap"`` or ``"velocity_umap"`` by default,
        for ``"X_umap"``.
    color
        Column of the cells' colours, as in :func:`muport.pl.embedding`.
    ax
        Axes to draw on; new ones by default.
    density
        How close the lines are.
    n_grid
        Points of the grid along each side.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If the velocities have not two columns.
    """
    xy, v = _arrows(data, basis, velocity_key)
    axes = embedding(data, basis, color, ax, **kwargs)
    x, y, flow = _grid(xy, v, n_grid)
    length = np.hypot(flow[0], flow[1])
    width = 0.4 + 1.4 * length / max(float(np.nanmax(length)), np.finfo(float).tiny)
    axes.streamplot(
        x, y, flow[0], flow[1], density=density, color="0.15", linewidth=np.nan_to_num(width), arrowsize=0.8, zorder=3
    )
    return axes


def velocity_quiver(
    data: anndata.AnnData | mudata.MuData,
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
    """Draw the velocities of some cells as arrows.

    Parameters
    ----------
    data, basis, velocity_key, color, ax, kwargs
        As for :func:`velocity_stream`.
    n_arrows
        Cells that get an arrow.
    length
        Mean length of an arrow, as a share of the picture's width.
    random_state
        Seed of the choice of cells.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError, ValueError
        As :func:`velocity_stream`.
    """
    xy, v = _arrows(data, basis, velocity_key)
    axes = embedding(data, basis, color, ax, **kwargs)
    chosen = np.random.default_rng(random_state).permutation(len(xy))[:n_arrows]
    speed = float(np.hypot(*v.T).mean())
    unit = length * float(np.ptp(xy[:, 0])) / speed if speed > 0 else 1.0
    axes.quiver(
        *xy[chosen].T,
        *(unit * v[chosen]).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        color="0.15",
        zorder=3,
    )
    return axes


def confidence(
    data: anndata.AnnData | mudata.MuData,
    basis: str = "X_umap",
    key: str = "velot_confidence",
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw how sure the velocity of each cell is.

    Parameters
    ----------
    data
        Cells.
    basis
        Key of ``data.obsm`` with the picture.
    key
        Column with the confidence.
    ax
        Axes to draw on; new ones by default.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is not there.
    """
    return embedding(data, basis, key, ax, **{"title": "confidence", **kwargs})


def training_curves(history: Mapping[str, Any], ax: Axes | None = None, *, smooth: int = 10) -> Axes:
    """Draw the losses of a training over its steps.

    Parameters
    ----------
    history
        Name -> values: ``model.history_``, or ``adata.uns["velot_smoothing"]["history"]``.
    ax
        Axes to draw on; new ones by default.
    smooth
        Steps of a running mean.

    Returns
    -------
    The axes; a loss that is 0 throughout is left out.

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
    axes = ax if ax is not None else new_axes(5, 4)
    for name, values in curves.items():
        window = max(1, min(smooth, len(values)))
        mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        axes.plot(np.arange(window - 1, len(values)), mean, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log" if all((v > 0).all() for v in curves.values()) else "linear")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _arrows(
    data: anndata.AnnData | mudata.MuData, basis: str, velocity_key: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xy, cells = coordinates(data, basis)
    prefix, colon, name = basis.rpartition(":")
    held = getattr(data, "mod", {}).get(prefix, data) if colon else data
    short = name.removeprefix("X_")
    known = [f"velot_velocity_{short}", f"velocity_{short}"]
    key = velocity_key if velocity_key is not None else next((k for k in known if k in held.obsm), known[0])
    try:
        v, of = coordinates(data, f"{prefix}{colon}{key.removeprefix(prefix + colon)}")
    except KeyError:
        raise KeyError(
            f"velocity_key={key!r} is not in obsm, which has {sorted(held.obsm.keys())}: "
            "muport.velocity.project_to_embedding writes it."
        ) from None
    if not of.equals(cells):
        raise ValueError(f"velocity_key={key!r} is of other cells than basis={basis!r}.")
    return xy, v


def _grid(
    xy: NDArray[np.float64], v: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(n,) and (n,) lines of the grid, and (2, n, n) mean velocity at its points, NaN where there are no cells."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    pad = _MARGIN * (high - low)
    x, y = (np.linspace(a, b, n) for a, b in zip(low - pad, high + pad, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    width = float(np.mean((high - low) / n))
    found = knn(xy, min(_NEAR, len(xy)), query=points)
    weight = np.exp(-0.5 * np.square(found.distances / max(width, np.finfo(np.float32).tiny)))
    total = weight.sum(axis=1)
    mean = (weight[:, :, None] * v[found.indices]).sum(axis=1) / np.maximum(total, 1e-12)[:, None]
    filled = total > 0.05
    mean[total < (_SPARSE * np.median(total[filled]) if filled.any() else 0)] = np.nan
    return x, y, mean.T.reshape(2, n, n)
