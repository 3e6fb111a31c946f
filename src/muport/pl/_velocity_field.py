"""Velocity fields: streamlines, arrows, confidence, and the losses of their training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._arrays import canonical_order, normalize_rows
from muport._checks import check_integers, check_positive, check_seed
from muport.neighbors import knn
from muport.pl.drawing._axes import add_legend, check_legend_loc, get_axes, hide_frame
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._embedded_velocities import get_velocities
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._panels import draw_panels, split_options
from muport.pl.drawing._places_with_cells import PlacesWithCells
from muport.pl.drawing._values import get_coordinates, get_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data

__all__ = ["confidence", "training_curves", "velocity_quiver", "velocity_stream"]

_N_NEIGHBORS, _MAX_NEIGHBORS = 50, 200  # cells whose velocities are averaged at a point of the grid
_CELLS_PER_NEIGHBOR = 50  # one more of these for as many cells
_LONGEST_ARROW = 1.6  # in mean lengths: longer ones would cover others
_MARGIN = 0.02  # of the grid beyond the cells, as a fraction of their range
# least such distance, in spacings of the grid: lines need no gaps between the points of dense cells
_LINE_RADIUS, _ARROW_RADIUS = 1.0, 0.5
_MIN_LENGTH = 0.04  # of a streamline, as a fraction of the axes; matplotlib's 0.1 leaves narrow branches empty


def velocity_stream(
    data: Data,
    basis: str = "X_umap",
    velocity_key: str | None = None,
    color: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    use_rep: str = "X_pca",
    density: float = 2.0,
    n_grid: int = 60,
    line_color: Any = "0.15",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the velocities as streamlines.

    Velocities are averaged over the cells near each point of a grid. Lines are drawn only where the local density of
    cells is that of cells among their neighbors, so that they end with the cells. Cells whose position or velocity is
    not finite are left out.

    Parameters
    ----------
    data
        Cells with an embedding and velocities.
    basis
        Key of ``data.obsm`` with the embedding, as in :func:`muport.pl.embedding`.
    velocity_key
        Key of ``obsm`` with the velocities, in the embedding or in `use_rep`. By default the first of
        ``"velot_velocity_umap"``, ``"velocity_umap"``, ``"velot_velocity"`` and ``"velot_velocity_pca"`` that exists;
        for other embeddings, the first two end with the name of the embedding.
    color
        Column or gene that colors the cells, or a list of these, as in :func:`muport.pl.embedding`.
    ax
        Axes to draw on; new ones by default.
    use_rep
        Key of ``obsm`` with the representation in which the velocities were computed. Velocities in `use_rep` are
        projected into the embedding, as by :func:`muport.velocity.project_to_embedding`; nothing is written.
    density
        Density of the lines, as in :meth:`matplotlib.axes.Axes.streamplot`.
    n_grid
        Number of grid points along each axis.
    line_color
        Color of the lines.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.
    kwargs
        Other options of :func:`muport.pl.embedding`: `layer`, `modality`, `palette`, `cmap`, `vmin`, `vmax`,
        `sort_order`, `size`, `legend_loc`, `title` and `ncols`.

    Returns
    -------
    The axes, with lines above the cells, wider where velocities are larger.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If the velocities have neither the columns of the embedding nor those of `use_rep`, or none is finite.

    Examples
    --------
    >>> import muport, numpy as np
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> adata.obsm["velocity_umap"] = np.ones((adata.n_obs, 2))
    >>> muport.pl.velocity_stream(adata, "umap", color="cell_type").get_title()
    'cell_type'
    """
    check_positive(density=density)
    check_integers(2, n_grid=n_grid)
    output, style = Output(show, save, return_fig), split_options(kwargs)
    grid = _average_on_grid(*get_velocities(data, basis, velocity_key, use_rep, style.modality), n_grid, _LINE_RADIUS)
    length = np.hypot(*grid.flow)
    width = np.nan_to_num(0.5 + 0.8 * length / max(float(np.nanquantile(length, 0.98)), np.finfo(float).tiny))

    def draw_lines(axes: Axes) -> None:
        axes.streamplot(
            grid.x, grid.y, grid.flow[0], grid.flow[1], density=density, color=line_color,
            linewidth=np.minimum(width, 1.3), arrowsize=0.8, minlength=_MIN_LENGTH, zorder=3,
        )  # fmt: skip

    return draw_panels(data, basis, color, ax, output, style, draw_lines)


def velocity_quiver(
    data: Data,
    basis: str = "X_umap",
    velocity_key: str | None = None,
    color: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    use_rep: str = "X_pca",
    n_grid: int = 28,
    n_arrows: int | None = None,
    length: float = 0.03,
    random_state: int = 0,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the velocities as arrows, averaged on a grid.

    Parameters
    ----------
    data, basis, velocity_key, color, ax, use_rep, show, save, return_fig, kwargs
        As for :func:`velocity_stream`.
    n_grid
        Number of grid points along each axis. An arrow is the mean velocity of the cells near a point; there is none
        where there are no cells.
    n_arrows
        Number of cells with an arrow of their own velocity, instead of the grid.
    length
        Mean length of an arrow, as a fraction of the width of the embedding.
    random_state
        Seed of the choice of cells.

    Returns
    -------
    The axes, with the arrows above the cells. Cells whose position or velocity is not finite have none.

    Raises
    ------
    KeyError, ValueError
        As :func:`velocity_stream`.
    """
    check_integers(2, n_grid=n_grid)
    check_positive(length=length)
    output, style = Output(show, save, return_fig), split_options(kwargs)
    xy, v = get_velocities(data, basis, velocity_key, use_rep, style.modality)
    extent = float(np.ptp(xy[:, 0]))
    if n_arrows is None:
        xy, v = _average_on_grid(xy, v, n_grid, _ARROW_RADIUS).arrows()
    else:
        check_integers(n_arrows=n_arrows)
        check_seed(random_state)
        # the same cells whatever their order
        chosen = np.random.default_rng(random_state).permutation(len(xy))[:n_arrows]
        sample = canonical_order(np.hstack([xy, v]))[chosen]
        xy, v = xy[sample], v[sample]
    speed = float(np.hypot(*v.T).mean()) if len(v) else 0.0
    norm = np.hypot(*v.T)
    shorten = np.minimum(1, _LONGEST_ARROW * speed / np.maximum(norm, np.finfo(float).tiny)) if speed > 0 else norm
    arrows = (length * extent / speed if speed > 0 else 1.0) * shorten[:, None] * v

    def draw_arrows(axes: Axes) -> None:
        axes.quiver(
            *xy.T, *arrows.T, angles="xy", scale_units="xy", scale=1, width=0.003, headwidth=4, headlength=4.5,
            headaxislength=4, color="0.15", zorder=3,
        )  # fmt: skip

    return draw_panels(data, basis, color, ax, output, style, draw_arrows)


def confidence(
    data: Data,
    basis: str = "X_umap",
    key: str = "velot_confidence",
    ax: Axes | None = None,
    *,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the confidence of the velocity of each cell.

    Parameters
    ----------
    data, basis, ax, show, save, return_fig, kwargs
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
    ValueError
        If the column does not hold numbers.
    """
    style = split_options(kwargs, title="confidence", sort_order=False)
    cells = get_coordinates(data, basis, style.modality)[1]
    column = get_values(data, key, cells, modality=style.modality, argument="key")
    if not column.is_numeric:
        raise ValueError(f"key={key!r} must be numbers in 0..1, not {column.values.dtype}.")
    return draw_panels(data, basis, key, ax, Output(show, save, return_fig), style)


def training_curves(
    history: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    smooth: int = 10,
    title: str = "",
    legend_loc: str | None = "best",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw the losses over the steps of a training.

    Parameters
    ----------
    history
        Name -> values: ``model.history_``, or ``adata.uns["velot_smoothing"]["history"]``.
    ax
        Axes to draw on; new ones by default.
    smooth
        Number of steps of a running mean.
    title
        Title of the plot.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes; a loss that is 0 in every step, or equal to the total ``"loss"``, is left out.

    Raises
    ------
    TypeError
        If `history` is not a mapping.
    ValueError
        If there is no loss to draw.

    Examples
    --------
    >>> import muport
    >>> muport.pl.training_curves({"loss": [3.0, 2.0, 1.0]}, smooth=1).get_xlabel()
    'step'
    """
    check_integers(smooth=smooth)
    check_legend_loc(legend_loc)
    if not hasattr(history, "items"):
        raise TypeError(f"history is {type(history).__name__}: pass a dict of losses, such as model.history_.")
    output = Output(show, save, return_fig)
    curves = {name: np.asarray(values, dtype=float).ravel() for name, values in history.items()}
    total = curves.get("loss", np.zeros(0))
    curves = {
        name: values
        for name, values in curves.items()
        if values.any() and (name == "loss" or not np.array_equal(values, total))
    }
    if not curves:
        raise ValueError(f"history={list(history)} holds no loss: pass model.history_ of a trained model.")
    axes = get_axes(ax, 5, 4)
    for (name, values), shade in zip(curves.items(), default_palette(len(curves)), strict=True):
        window = max(1, min(smooth, len(values)))
        mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        axes.plot(np.arange(window - 1, len(values)), mean, label=name, color=shade)
    axes.set(
        title=title,
        xlabel="step",
        ylabel="loss",
        yscale="log" if all((v > 0).all() for v in curves.values()) else "linear",
    )
    add_legend(axes, [(str(line.get_label()), line.get_color()) for line in axes.lines], legend_loc)
    hide_frame(axes)
    return output.finish(axes)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Mean velocity `flow` (2, n, n) at the points of a grid `x` (n,) by `y` (n,); NaN where there are no cells."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flow: NDArray[np.float64]

    def arrows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (m, 2) and velocities (m, 2) of the points with cells."""
        points = np.stack(np.meshgrid(self.x, self.y), axis=-1).reshape(-1, 2)
        v = self.flow.reshape(2, -1).T
        covered = np.isfinite(v).all(axis=1)
        return points[covered], v[covered]


def _average_on_grid(xy: NDArray[np.float64], v: NDArray[np.float64], n: int, least_radius: float) -> _Grid:
    """Average velocities with Gaussian weights, as wide as the spacing of the grid or of the cells nearby."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = _MARGIN * (high - low)
    x, y = (np.linspace(a, b, n) for a, b in zip(low - margin, high + margin, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    tiny = float(np.finfo(np.float32).tiny)
    spacing = max(float(np.mean((high - low) / n)), tiny)
    places = PlacesWithCells.of(xy, least_radius * spacing)
    neighbors = knn(xy, min(max(_N_NEIGHBORS, len(xy) // _CELLS_PER_NEIGHBOR), _MAX_NEIGHBORS, len(xy)), query=points)
    nearest = neighbors.distances[:, [places.n_near - 1]]
    width = np.maximum(nearest, spacing)
    weight = normalize_rows(np.exp(-0.5 * np.square(neighbors.distances / width)))
    mean = np.einsum("nk,nkc->nc", weight, v[neighbors.indices])
    mean[nearest[:, 0] > places.limit] = np.nan
    return _Grid(x, y, mean.T.reshape(2, n, n))
