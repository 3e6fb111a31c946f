"""Confusion matrix of predicted and true labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import UNLABELED_CATEGORY
from muport.metrics import confusion_counts
from muport.pl.drawing._axes import get_axes
from muport.pl.drawing._finished_figure import Output

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MAX_COLUMNS_WITH_TEXT = 16  # numbers in narrower columns are not readable


def confusion(
    truth: Any,
    prediction: Any,
    ax: Axes | None = None,
    *,
    unlabeled_category: str = UNLABELED_CATEGORY,
    title: str = "",
    cmap: Any = "cividis",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw which labels were predicted for the cells of each true type.

    Each row is a true type, with its number of cells; the fractions of a row sum to 1.

    Parameters
    ----------
    truth
        (n,) true labels; cells whose true label is missing or `unlabeled_category` are left out.
    prediction
        (n,) predicted labels; two Series are matched by cell name.
    ax
        Axes to draw on; new ones by default.
    unlabeled_category
        Value that means "not known"; the last column, if a cell was rejected.
    title
        Title of the plot.
    cmap
        Colormap of the fractions.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the lengths differ or no cell has a true label.
    KeyError
        If both are Series and a cell of `truth` has no prediction.

    Examples
    --------
    >>> confusion(["B", "B", "T"], ["B", "T", "T"]).get_ylabel()
    'true type'
    """
    output = Output(show, save, return_fig)
    counts = confusion_counts(truth, prediction, unlabeled_category)
    if counts.empty:
        raise ValueError(f"truth: no cell has a label other than {unlabeled_category!r}, nothing can be drawn.")
    total = counts.sum(axis=1)
    fractions = counts.div(total, axis=0).to_numpy()
    axes = get_axes(ax, 3.0 + 0.5 * fractions.shape[1], 1.8 + 0.4 * fractions.shape[0])
    image = axes.imshow(fractions, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="share of the true type", shrink=0.7)
    rotation: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, counts.columns)) > 4 else {}
    )
    axes.set_xticks(range(fractions.shape[1]), counts.columns, **rotation)
    axes.set_yticks(range(fractions.shape[0]), [f"{name} (n={n})" for name, n in total.items()])
    axes.set(title=title, xlabel="predicted type", ylabel="true type")
    if fractions.shape[1] <= _MAX_COLUMNS_WITH_TEXT:
        _write_fractions(axes, fractions)
    return output.finish(axes)


def _write_fractions(ax: Axes, fractions: NDArray[np.float64]) -> None:
    for (row, col), value in np.ndenumerate(fractions):
        if value >= 0.005:
            # the color map is light from about 0.6 on
            ax.text(col, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize="x-small",
                    color="black" if value > 0.6 else "white")  # fmt: skip
