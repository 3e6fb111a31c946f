"""Pictures of mixture components and of the features behind an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.pl._axes import explain, new_axes
from muport.pl._colors import MISSING, palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


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
    title: str = "",
    legend: bool = True,
) -> Axes:
    """Draw Gaussian components as ellipses over the cells, in two axes of the learnt subspace.

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
        (M,) masses: lines of heavy components are thicker, those of mass 0 are left out.
    color
        (M,) category of each component, such as its patient's condition; all black by default.
    labels
        (n,) category of each cell, such as its type; all grey by default. Cells and components of one name share a
        colour.
    dims
        The two axes.
    n_std
        Size of an ellipse in standard deviations; two hold .86 of a component's cells.
    title
        Title of the picture.
    legend
        Whether to explain the colours, beside the axes.

    Returns
    -------
    The axes, of equal scale.

    Raises
    ------
    ValueError
        If shapes do not fit, or there are fewer than two axes.

    Examples
    --------
    >>> len(components([[0.0, 1.0]], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 4.0]]]).patches)
    1
    """
    centers, shapes = _picked(np.asarray(means, np.float64), np.asarray(covariances, np.float64), dims)
    mass = np.ones(len(centers)) if weights is None else np.asarray(weights, dtype=np.float64)
    if mass.shape != (len(centers),):
        raise ValueError(f"weights has shape {mass.shape} for {len(centers)} components.")
    names, kinds, sorts = _categories(color, labels, len(centers), None if x is None else len(np.asarray(x)))
    axes = ax if ax is not None else new_axes(5, 4)
    shades = np.array(palette(len(names))).reshape(-1, 3)
    if x is not None:
        _draw_cells(axes, np.asarray(x, dtype=np.float64), sorts, shades, dims)
    edges = ["black" if kind < 0 else shades[kind] for kind in kinds]
    _draw_ellipses(axes, centers, shapes, mass, edges, n_std)
    axes.autoscale_view()
    axes.set(title=title, xlabel=f"axis {dims[0] + 1}", ylabel=f"axis {dims[1] + 1}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    if legend and names:
        explain(axes, [*zip(names, shades, strict=True)])
    return axes


def feature_ranking(
    table: pd.DataFrame, item: str | None = None, ax: Axes | None = None, *, n: int = 15, title: str | None = None
) -> Axes:
    """Draw the features of the highest rank of one axis or component, a bar each.

    Parameters
    ----------
    table
        Columns ``item``, ``feature`` and ``score``, the best first, as a model's feature ranking gives them.
    item
        Axis or component; the first of the table by default.
    ax
        Axes to draw on; new ones by default.
    n
        Most features.
    title
        Title; the item by default.

    Returns
    -------
    The axes; the highest rank is on top, scores below 0 are of another colour.

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
    missing = [name for name in ("item", "feature", "score") if name not in table.columns]
    if missing:
        raise KeyError(f"table has no column {missing[0]!r}; it has {list(table.columns)}.")
    if table.empty or n < 1:
        raise ValueError(f"table has {len(table)} rows and n={n}: nothing can be drawn.")
    kinds = table["item"].astype(str)
    wanted = kinds.iloc[0] if item is None else str(item)
    if wanted not in set(kinds):
        raise KeyError(f"item={wanted!r} is not in the table; there are {sorted(set(kinds))}.")
    rows = table[(kinds == wanted).to_numpy()].head(n)
    axes = ax if ax is not None else new_axes(4, 1 + 0.22 * len(rows))
    up, down = palette(2)
    score = rows["score"].to_numpy(dtype=float)
    axes.barh(range(len(rows)), score, color=[up if value >= 0 else down for value in score], height=0.7)
    axes.set_yticks(range(len(rows)), rows["feature"].astype(str), fontsize="small")
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", lw=0.8)
    axes.set(title=wanted if title is None else title, xlabel="score")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _picked(
    means: NDArray[np.float64], covariances: NDArray[np.float64], dims: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(M, 2) and (M, 2, 2) of the two axes."""
    if means.ndim != 2 or covariances.shape not in {means.shape, (*means.shape, means.shape[1])}:
        raise ValueError(f"means {means.shape} and covariances {covariances.shape} must be (M, r) and (M, r, r).")
    if means.shape[1] < 2 or not all(0 <= j < means.shape[1] for j in dims) or len(set(dims)) < 2:
        raise ValueError(f"dims={dims}: two different ones of the {means.shape[1]} axes are needed.")
    full = covariances if covariances.ndim == 3 else covariances[..., None] * np.eye(means.shape[1])
    pick = list(dims)
    return means[:, pick], full[:, pick][:, :, pick]


def _categories(
    color: Any | None, labels: Any | None, n_components: int, n_cells: int | None
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Names, and the code of each component and cell (-1: none), one coding for both."""
    parts = []
    for value, n, word, what in (
        (color, n_components, "color", "components"),
        (labels, n_cells or 0, "labels", "cells"),
    ):
        column = pd.Series([None] * n, dtype=object) if value is None else pd.Series(np.asarray(value), dtype=object)
        if len(column) != n:
            raise ValueError(f"{word} has {len(column)} entries for {n} {what}.")
        parts.append(column.map(str, na_action="ignore"))
    coded = pd.Categorical(pd.concat(parts))
    codes = np.asarray(coded.codes, dtype=np.int64)
    return [str(name) for name in coded.categories], codes[:n_components], codes[n_components:]


def _draw_cells(
    ax: Axes, x: NDArray[np.float64], kinds: NDArray[np.int64], shades: NDArray[np.float64], dims: tuple[int, int]
) -> None:
    if x.ndim != 2 or x.shape[1] <= max(dims):
        raise ValueError(f"x has shape {x.shape}: dims={dims} needs at least {max(dims) + 1} columns.")
    from matplotlib.colors import to_rgb

    order = np.random.default_rng(0).permutation(len(x))
    grey = np.tile(to_rgb(MISSING), (len(x), 1))
    colors = np.where((kinds >= 0)[:, None], shades[kinds] if len(shades) else grey, grey)
    dot = float(np.clip(8_000 / max(len(x), 1), 1, 20))
    a, b = x[order, dims[0]], x[order, dims[1]]
    ax.scatter(a, b, color=colors[order], s=dot, linewidths=0, rasterized=True, zorder=1)


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
