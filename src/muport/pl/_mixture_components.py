"""Mixture components as ellipses, and the features of an axis as bars."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_integers, check_numbers, check_positive
from muport._tables import rows_in_one_order
from muport.pl.drawing._axes import add_legend, check_legend_loc, draw_dots, get_axes, hide_frame, widen_by_legends
from muport.pl.drawing._colors import MISSING, color_categories
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import parse_palette
from muport.pl.drawing._values import as_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


_ROUNDING = 1e-4  # relative error of a covariance of float32


def components(
    x: ArrayLike | None,
    means: ArrayLike,
    covariances: ArrayLike,
    ax: Axes | None = None,
    *,
    weights: ArrayLike | None = None,
    color: Any | None = None,
    labels: Any | None = None,
    dims: tuple[int, int] = (0, 1),
    n_std: float = 2.0,
    outside: float = 0.04,
    palette: Any = None,
    title: str = "",
    legend_loc: str | None = "right margin",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw Gaussian components as ellipses over the cells, in two axes of the learned subspace.

    Parameters
    ----------
    x
        (n, r) cells, such as ``model.get_latent_representation()``; None: no cells.
    means
        (M, r) means in the same space.
    covariances
        (M, r, r) covariances, or (M, r) variances.
    ax
        Axes to draw on; new ones by default.
    weights
        (M,) masses: components of more mass have thicker lines, components of mass 0 are not drawn.
    color
        (M,) category of each component, such as its patient's condition; all black by default.
    labels
        (n,) category of each cell, such as its type; all gray by default. Cells and components of one name share a
        color.
    dims
        The two axes.
    n_std
        Size of an ellipse in standard deviations; an ellipse of two contains 86 % of the cells of a component.
    outside
        Fraction of the mass that may lie outside the limits, on each side of both axes, so that few distant cells and
        components do not crush all others; the number of components outside is written in a corner. 0: all is shown.
    palette
        Colors of the values of `color` and `labels`: a list, a dict from value to color, or the name of a colormap.
    title
        Title of the plot.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`; the legend is of `color` and `labels`.

    Returns
    -------
    The axes, with equal scales.

    Raises
    ------
    ValueError
        If shapes do not fit, `outside` is not in 0..0.5, there are fewer than two axes, or a mean or covariance is not
        finite. The rows of tables are matched by name.

    Examples
    --------
    >>> len(components([[0.0, 1.0]], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 4.0]]]).patches)
    1
    """
    output = Output(show, save, return_fig)
    check_legend_loc(legend_loc)
    x, labels = rows_in_one_order(x=x, labels=labels)
    check_numbers(0, 0.5, outside=outside)
    check_positive(n_std=n_std)
    means, weights, color = rows_in_one_order("component", means=means, weights=weights, color=color)
    centers, shapes = _select_axes(as_numbers(means, "means"), as_numbers(covariances, "covariances"), dims)
    m, cells = len(centers), None if x is None else as_numbers(x, "x")
    mass = np.ones(m) if weights is None else as_numbers(weights, "weights")
    if cells is not None and (cells.ndim != 2 or cells.shape[1] != np.shape(means)[1]):
        raise ValueError(f"x has shape {cells.shape}, means has {np.shape(means)}: both need the same axes.")
    if mass.shape != (m,):
        raise ValueError(f"weights has shape {mass.shape} for {m} components.")
    if not (np.isfinite(mass).all() and (mass >= 0).all()):
        raise ValueError("weights must be finite masses of at least 0.")
    if cells is not None and not np.isfinite(cells).all():
        bad = int(np.flatnonzero(~np.isfinite(cells).all(axis=1))[0])
        raise ValueError(f"x: cell {bad} has coordinates that are not finite: leave such cells out.")
    columns = [
        _as_text(color, m, "color", "components"),
        _as_text(labels, 0 if cells is None else len(cells), "labels", "cells"),
    ]
    values = pd.concat(columns)
    names = list(pd.Categorical(values).categories)
    categories = color_categories(values, None if palette is None else parse_palette(palette, names, "color, labels"))
    axes = get_axes(ax, 5, 4)
    if cells is not None:
        _draw_cells(axes, cells, categories.colors[m:], dims)
    edges = [
        "black" if missing else shade for missing, shade in zip(categories.missing, categories.colors, strict=True)
    ]
    _draw_ellipses(axes, centers, shapes, mass, edges[:m], n_std)
    _set_limits(axes, None if cells is None else cells[:, list(dims)], centers, shapes, mass, outside)
    axes.set(title=title, xlabel=f"axis {dims[0] + 1}", ylabel=f"axis {dims[1] + 1}")
    axes.set_aspect("equal", adjustable="box")
    hide_frame(axes)
    add_legend(axes, [(name, shade) for name, shade in categories.legend if shade is not MISSING], legend_loc)
    if ax is None:
        widen_by_legends(axes.figure, [[axes]])  # type: ignore[arg-type]
    return output.finish(axes)


def feature_ranking(
    table: pd.DataFrame,
    item: str | None = None,
    ax: Axes | None = None,
    *,
    n: int = 15,
    title: str | None = None,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw the highest ranked features of one axis or component as bars.

    Parameters
    ----------
    table
        Columns ``item``, ``feature`` and ``score``, the best first, as a model's feature ranking gives them.
    item
        Axis or component; the first of the table by default.
    ax
        Axes to draw on; new ones by default.
    n
        Maximum number of features.
    title
        Title; the item by default.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes; the highest rank is on top, scores below 0 have another color.

    Raises
    ------
    KeyError
        If a column is missing or the item is not in the table.
    ValueError
        If the table is empty or `n` is not positive.

    Examples
    --------
    >>> table = pd.DataFrame({"item": ["0", "0"], "feature": ["A", "B"], "score": [2.0, -1.0]})
    >>> [label.get_text() for label in feature_ranking(table).get_yticklabels()]
    ['A', 'B']
    """
    output = Output(show, save, return_fig)
    check_integers(n=n)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table is {type(table).__name__}: pass the DataFrame of rank_features.")
    missing = [column for column in ("item", "feature", "score") if column not in table.columns]
    if missing:
        raise KeyError(f"table has no column {missing[0]!r}; it has {list(table.columns)}.")
    if table.empty:
        raise ValueError("table has no rows: nothing can be drawn.")
    items = table["item"].astype(str)
    name = items.iloc[0] if item is None else str(item)
    if name not in set(items):
        raise KeyError(f"item={name!r} is not in the table; there are {sorted(set(items))}.")
    rows = table[(items == name).to_numpy()].head(n)
    score = as_numbers(rows["score"], "table['score']")
    if not np.isfinite(score).all():
        raise ValueError(f"table['score'] of item {name!r} is not finite for some features: leave them out.")
    axes = get_axes(ax, 4, 1 + 0.22 * len(rows))
    positive, negative = default_palette(2)
    axes.barh(range(len(rows)), score, color=[positive if value >= 0 else negative for value in score], height=0.7)
    axes.set_yticks(range(len(rows)), rows["feature"].astype(str), fontsize="small")
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", lw=0.8)
    axes.set(title=name if title is None else title, xlabel="score")
    axes.locator_params(axis="x", nbins=4)  # small scores have long numbers
    hide_frame(axes)
    return output.finish(axes)


def _select_axes(
    means: NDArray[np.float64], covariances: NDArray[np.float64], dims: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means (M, 2) and covariances (M, 2, 2) in two axes."""
    if means.ndim != 2 or covariances.shape not in {means.shape, (*means.shape, means.shape[1])}:
        raise ValueError(f"means {means.shape} and covariances {covariances.shape} must be (M, r) and (M, r, r).")
    known = range(means.shape[1])
    # a float or a truth value is equal to an axis
    if len(dims) != 2 or len(set(dims)) < 2 or not all(isinstance(j, Integral) and j in known for j in dims):
        raise ValueError(f"dims={dims!r}: two different ones of the {means.shape[1]} axes are needed.")
    full = covariances if covariances.ndim == 3 else covariances[..., None] * np.eye(means.shape[1])
    if not (np.isfinite(means).all() and np.isfinite(covariances).all()):
        bad = np.flatnonzero(~np.isfinite(np.c_[means, covariances.reshape(len(means), -1)]).all(axis=1))
        raise ValueError(f"means, covariances: component {bad[0]} is not finite: leave it out.")
    scale = np.abs(full).max(initial=0)
    if np.abs(full - full.transpose(0, 2, 1)).max(initial=0) > _ROUNDING * scale:
        raise ValueError("covariances are not symmetric.")
    if np.linalg.eigvalsh(full).min(initial=0) < -_ROUNDING * scale:
        raise ValueError("covariances have negative variances: they must be positive semidefinite.")
    columns = list(dims)
    return means[:, columns], full[:, columns][:, :, columns]


def _as_text(values: Any | None, n: int, argument: str, items: str) -> pd.Series:
    """Categories (n,) as text; missing where there are none. Components and cells of one name then share a color."""
    column = pd.Series([None] * n, dtype=object) if values is None else pd.Series(np.asarray(values), dtype=object)
    if len(column) != n:
        raise ValueError(f"{argument} has {len(column)} entries for {n} {items}.")
    return column.map(str, na_action="ignore")


def _draw_cells(ax: Axes, x: NDArray[np.float64], colors: NDArray[np.float64], dims: tuple[int, int]) -> None:
    order = np.random.default_rng(0).permutation(len(x))
    draw_dots(ax, x[order][:, list(dims)], colors[order])


def _set_limits(
    ax: Axes,
    cells: NDArray[np.float64] | None,
    centers: NDArray[np.float64],
    shapes: NDArray[np.float64],
    mass: NDArray[np.float64],
    outside: float,
) -> None:
    """Set limits that contain most of the mass, and write how many components are outside."""
    radius = np.sqrt(np.einsum("mii->mi", shapes))
    points, weight = np.concatenate([centers - radius, centers + radius]), np.tile(mass / max(mass.sum(), 1e-300), 2)
    low, high = (_weighted_quantile(points, weight, q) for q in (outside, 1 - outside))
    if cells is not None and len(cells):
        inner = np.nanquantile(cells, [outside / 2, 1 - outside / 2], axis=0)
        low, high = np.minimum(low, inner[0]), np.maximum(high, inner[1])
    # the components within are drawn whole, unless they have hardly any mass and may be of any size
    whole = ((centers >= low) & (centers <= high)).all(axis=1) & (mass > outside / 2 * mass.sum())
    if whole.any():
        low = np.minimum(low, (centers - 2 * radius)[whole].min(axis=0))
        high = np.maximum(high, (centers + 2 * radius)[whole].max(axis=0))
    # with equal scales, a side of less than half the other would be a narrow strip
    size, center = high - low, (high + low) / 2
    half = np.maximum(size, size.max() / 2) / 2
    low, high = center - half, center + half
    margin = 0.08 * np.maximum(high - low, 1e-9)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
    n = int(((centers < low - margin) | (centers > high + margin)).any(axis=1)[mass > 0].sum())
    if n:
        text = f"{n} component{'s' if n > 1 else ''} outside"
        ax.text(0.99, 0.99, text, transform=ax.transAxes, ha="right", va="top", fontsize="x-small")


def _weighted_quantile(points: NDArray[np.float64], weight: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """Quantile (2,) of each coordinate of points (k, 2), counted by weight."""
    order = np.argsort(points, axis=0)
    cumulative = np.cumsum(weight[order], axis=0)
    rows = np.minimum((cumulative < q * cumulative[-1]).sum(axis=0), len(points) - 1)
    quantile: NDArray[np.float64] = np.take_along_axis(points, order, axis=0)[rows, [0, 1]]
    return quantile


def _draw_ellipses(
    ax: Axes,
    centers: NDArray[np.float64],
    shapes: NDArray[np.float64],
    mass: NDArray[np.float64],
    edges: Sequence[Any],
    n_std: float,
) -> None:
    from matplotlib.patches import Ellipse

    values, vectors = np.linalg.eigh(shapes)
    axes = 2 * n_std * np.sqrt(np.maximum(values, 0))
    angle = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    width = 0.6 + 1.6 * np.sqrt(mass / max(float(mass.max(initial=0)), 1e-300))
    for i in np.flatnonzero(mass > 0).tolist():
        ax.add_patch(
            Ellipse(
                (centers[i, 0], centers[i, 1]), axes[i, 1], axes[i, 0], angle=float(angle[i]),
                fill=False, edgecolor=edges[i], lw=float(width[i]), zorder=2,
            )
        )  # fmt: skip
