"""Confidence of transferred labels: its distribution, and the cells it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_integers, check_numbers
from muport._keys import RESULT_KEYS, UNLABELED_CATEGORY
from muport.metrics._label_transfer_scores import matched_labels
from muport.pl.drawing._axes import add_legend, check_legend_loc, hide_frame
from muport.pl.drawing._colors import MISSING
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._panels import draw_panels, split_options
from muport.pl.drawing._values import get_coordinates, get_values

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data

__all__ = ["prediction_confidence"]


def prediction_confidence(
    data: Data,
    basis: str = "X_umap",
    key: str = RESULT_KEYS.CONFIDENCE,
    *,
    prediction: str = RESULT_KEYS.PREDICTION,
    truth: str | None = None,
    threshold: float | None = None,
    n_bins: int = 40,
    legend_loc: str | None = "best",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> list[Axes] | Any:
    """Draw the confidence of transferred labels as a histogram and on the embedding.

    Parameters
    ----------
    data
        Cells with predictions, as :meth:`muport.Integration.write` stores them.
    basis
        Key of ``data.obsm`` with the embedding, as in :func:`muport.pl.embedding`.
    key
        Column with the confidence, in 0..1. Cells without one are gray, and not in the histogram.
    prediction
        Column with the predicted labels, compared with `truth`.
    truth
        Column with true labels, where they are known: the histogram is split into right and wrong predictions.
    threshold
        Confidence below which a prediction is rejected: a line, with the fraction of the cells below it.
    n_bins
        Number of bars.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`; the legend is that of the histogram.
    kwargs
        Other options of :func:`muport.pl.embedding`, such as `cmap`, `size` and `title`.

    Returns
    -------
    The axes of the histogram and of the embedding.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If the column is not in 0..1, or no cell has a confidence.

    Examples
    --------
    >>> import muport, numpy as np
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> adata.obs["prediction_confidence"] = np.linspace(0, 1, adata.n_obs)
    >>> histogram, cells = muport.pl.prediction_confidence(adata, threshold=0.5)
    >>> histogram.texts[0].get_text()
    ' 50% below 0.5 '
    """
    output, style = Output(show, save, return_fig), split_options(kwargs, title="confidence", vmin=0, vmax=1)
    check_integers(n_bins=n_bins)
    check_legend_loc(legend_loc)
    if threshold is not None:
        check_numbers(0, 1, threshold=threshold)
    cells = get_coordinates(data, basis, style.modality)[1]
    column = get_values(data, key, cells, modality=style.modality, argument="key")
    if not column.is_numeric:
        raise ValueError(f"key={key!r} must be numbers in 0..1, not {column.values.dtype}.")
    values = column.values.to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(values)
    if not known.any() or values[known].min() < 0 or values[known].max() > 1:
        raise ValueError(f"key={key!r} must be a column with confidences in 0..1: model.write() stores one.")
    right = None if truth is None else _compare(data, prediction, truth, cells, style.modality)
    from matplotlib import pyplot as plt

    _, (left, panel) = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    _draw_histogram(left, values[known], None if right is None else right[known], threshold, n_bins)
    if right is not None:
        present = np.unique(right[known])
        add_legend(left, [(_KINDS[code], _kind_colors()[code]) for code in present], legend_loc)
    draw_panels(data, basis, key, panel, Output(), style)
    return output.finish([left, panel])


_KINDS = ("right", "wrong", "true type unknown")


def _kind_colors() -> list[Any]:
    blue, orange = default_palette(2)
    return [blue, orange, MISSING]


def _compare(data: Data, prediction: str, truth: str, cells: pd.Index, modality: str | None) -> NDArray[np.int64]:
    """Kind (n,) of each cell: 0 right, 1 wrong, 2 without a true label."""
    predicted = get_values(data, prediction, cells, modality=modality, argument="prediction").values
    true = get_values(data, truth, cells, modality=modality, argument="truth").values
    names = matched_labels(true, predicted, UNLABELED_CATEGORY)
    return np.where(true.isna().to_numpy(), 2, np.where(names[0] == names[1], 0, 1))


def _draw_histogram(
    ax: Axes, values: NDArray[np.float64], kind: NDArray[np.int64] | None, threshold: float | None, n_bins: int
) -> None:
    groups = [values] if kind is None else [values[kind == code] for code in range(len(_KINDS))]
    ax.hist(groups, bins=np.linspace(0, 1, n_bins + 1).tolist(), stacked=True, color=_kind_colors()[: len(groups)])
    ax.set(xlabel="confidence", ylabel="cells", xlim=(0, 1), title=f"{len(values):,} cells")
    hide_frame(ax)
    if threshold is not None:
        ax.axvline(threshold, color="0.2", lw=1, ls="--")
        text = f" {np.mean(values < threshold):.0%} below {threshold:g} "
        side = "left" if threshold < 0.6 else "right"
        ax.text(threshold, 0.97, text, transform=ax.get_xaxis_transform(), ha=side, va="top", fontsize="small")
