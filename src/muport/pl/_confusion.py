"""The picture of a confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._keys import UNLABELED_CATEGORY
from muport.metrics import confusion_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MOST_WITH_TEXT = 16  # columns in which the shares are still readable


def confusion(
    truth: Any,
    prediction: Any,
    ax: Axes | None = None,
    *,
    unlabeled_category: str = UNLABELED_CATEGORY,
    title: str = "",
) -> Axes:
    """Draw which labels the cells of each true type got.

    Each row is a true type, with its number of cells, and its shares sum to 1.

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
        Title of the picture.

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
    counts = confusion_counts(truth, prediction, unlabeled_category)
    if counts.empty:
        raise ValueError(f"truth: no cell has a label other than {unlabeled_category!r}, nothing can be drawn.")
    total = counts.sum(axis=1)
    share = counts.div(total, axis=0).to_numpy()
    axes = ax if ax is not None else _new_axes(share.shape)
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="share of the true type", shrink=0.7)
    turn: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, counts.columns)) > 4 else {}
    )
    axes.set_xticks(range(share.shape[1]), counts.columns, **turn)
    axes.set_yticks(range(share.shape[0]), [f"{name} (n={n})" for name, n in total.items()])
    axes.set(title=title, xlabel="predicted type", ylabel="true type")
    if share.shape[1] <= _MOST_WITH_TEXT:
        _write_shares(axes, share)
    return axes


def _new_axes(shape: tuple[int, int]) -> Axes:
    from matplotlib import pyplot as plt

    size = 3.0 + 0.5 * shape[1], 1.8 + 0.4 * shape[0]
    return plt.subplots(figsize=size, layout="constrained")[1]


def _write_shares(ax: Axes, share: NDArray[np.float64]) -> None:
    for (row, col), value in np.ndenumerate(share):
        if value >= 0.005:
            # light ground from about .6 of the colour map on
            ax.text(col, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize="x-small",
                    color="black" if value > 0.6 else "white")  # fmt: skip
