"""Fates of cells as positions within a circle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._tables import check_fates
from muport.data import check_cells
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import parse_palette, stored_colors
from muport.pl.drawing._panels import Positions, draw_panels, split_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data

__all__ = ["circular_projection"]

_FEWEST_FATES = 3  # two fates are the ends of a line
_NAME_RADIUS = 1.08  # of the names, where the circle has a radius of 1


def circular_projection(
    fates: pd.DataFrame,
    data: Data,
    color: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    palette: Any = None,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the fate probabilities of the cells within a circle, on which the fates are.

    A cell is at the mean position of the fates, weighted by its probabilities: at a fate if it is certain, and in the
    middle if all fates are equally probable. Fates that the same cells can reach are neighbors on the circle.

    Parameters
    ----------
    fates
        Cells by terminal states, three or more, from ``model.get_fates``. Cells that reach none of them are left out.
    data
        The cells, which are matched by name.
    color
        Column or gene that colors the cells, or a list of these, as in :func:`muport.pl.embedding`; by default the
        fate of highest probability.
    ax
        Axes to draw on; new ones by default.
    palette
        Colors of the categories of `color`, as in :func:`muport.pl.embedding`; without `color`, those of the fates.
        By default the fates have the colors in ``uns["<column>_colors"]`` of the categories with their names.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.
    kwargs
        Other options of :func:`muport.pl.embedding`: `layer`, `modality`, `cmap`, `vmin`, `vmax`, `sort_order`, `size`,
        `legend_loc`, `title` and `ncols`.

    Returns
    -------
    The axes, or a list of them if `color` is a list.

    Raises
    ------
    KeyError
        If a key does not exist.
    TypeError
        If `fates` is not a DataFrame, or `data` no AnnData or MuData.
    ValueError
        If there are fewer than three fates, `fates` do not hold probabilities, a cell of `fates` is not in `data` or
        repeats, or no cell reaches a fate.

    References
    ----------
    Velten et al. (2017), Human haematopoietic stem cell lineage commitment is a continuous process, Nature Cell
    Biology 19, 271. CellRank has the same plot.

    Examples
    --------
    >>> import muport, numpy as np, pandas as pd
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> p = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], adata.n_obs)
    >>> fates = pd.DataFrame(p, index=adata.obs_names, columns=["B", "T", "NK"])
    >>> muport.pl.circular_projection(fates, adata, "cell_type").get_title()
    'cell_type'
    """
    output = Output(show, save, return_fig)
    probability = _check_fates(fates, data)
    vertices = _place_fates(probability.to_numpy())
    positions = Positions(probability.to_numpy() @ vertices, probability.index)
    names = [str(name) for name in probability.columns]
    fate_palette = stored_colors(data, names) if palette is None or color is not None else palette
    fate_colors = default_palette(len(names)) if fate_palette is None else parse_palette(fate_palette, names, "fates")
    no_color = None
    if color is None:
        no_color = [fate_colors[i] for i in probability.to_numpy().argmax(axis=1)]
    style = split_options({**kwargs, "palette": palette if color is not None else None}, no_color=no_color)

    def draw_circle(axes: Axes) -> None:
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color="0.7", lw=0.8, zorder=0)
        for name, (x, y), shade in zip(names, vertices, fate_colors, strict=True):
            axes.scatter(x, y, color=[shade], s=40, edgecolor="0.1", linewidths=0.6, zorder=4)
            alignment = ("right", "center", "left")[int(np.sign(np.round(x, 1))) + 1]
            vertical = ("top", "center", "bottom")[int(np.sign(np.round(y, 1))) + 1]
            axes.text(_NAME_RADIUS * x, _NAME_RADIUS * y, name, ha=alignment, va=vertical, fontsize="small")
        axes.set(xlim=(-1.6, 1.6), ylim=(-1.25, 1.25), aspect="equal")  # names fit beside the circle
        axes.set_axis_off()

    return draw_panels(data, positions, color, ax, output, style, draw_circle)


def _check_fates(fates: Any, data: Data) -> pd.DataFrame:
    """Return the probabilities of the cells that reach a fate; their rows sum to 1."""
    if not isinstance(fates, pd.DataFrame):
        raise TypeError(f"fates is {type(fates).__name__}: pass the DataFrame of get_fates, cells by terminal states.")
    check_cells(data)
    if fates.shape[1] < _FEWEST_FATES:
        raise ValueError(
            f"fates has {fates.shape[1]} columns, and a circle needs {_FEWEST_FATES} or more: color an embedding by "
            "the probability of a fate."
        )
    absent = fates.index.difference(data.obs_names)
    if len(absent):
        raise ValueError(f"fates: {len(absent)} cells are not in data, for example {absent[0]!r}: pass their data.")
    if not fates.index.is_unique:
        repeated = fates.index[fates.index.duplicated()][0]
        raise ValueError(f"fates has several rows for cell {repeated!r}: keep one.")
    table = check_fates(fates, fates.index)
    reached = table.loc[table.sum(axis=1) > 0]
    if reached.empty:
        raise ValueError("fates: no cell reaches a fate, nothing can be drawn.")
    return reached.div(reached.sum(axis=1), axis=0)


def _place_fates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a position (k, 2) on the unit circle for each fate; fates that cells share are next to each other."""
    shared = p.T @ p
    order = [0]
    while len(order) < len(shared):
        left = [i for i in range(len(shared)) if i not in order]
        order.append(max(left, key=lambda i: shared[order[-1], i]))
    angle = np.empty(len(shared))
    angle[order] = np.pi / 2 - 2 * np.pi * np.arange(len(shared)) / len(shared)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
