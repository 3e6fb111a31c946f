"""Cells before and after an integration, with the metrics of what was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muport.pl.drawing._axes import widen_by_legends
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._panels import CellStyle, draw_panels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from muport.pl.drawing._values import Data

__all__ = ["before_and_after"]

_METRICS = ("move", "neighbors_kept", "batch_variance_left")


def before_and_after(
    data: Data,
    before: str,
    after: str,
    color: str | Sequence[str],
    metrics: Mapping[str, float] | None = None,
    *,
    size: float | None = None,
    palette: Any = None,
    legend_loc: str | None = "right margin",
    title: str = "",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> list[Axes] | Any:
    """Draw cells before and after an integration side by side, with one row for each color.

    Parameters
    ----------
    data
        The cells.
    before, after
        Keys of ``data.obsm`` with embeddings of the representations before and after, as in
        :func:`muport.pl.embedding`.
    color
        Column of ``data.obs`` or gene, or a list of these, such as the batch and the cell type.
    metrics
        ``model.metrics_``: how far cells moved (as a fraction of their root mean square distance from the mean), which
        fraction of their nearest neighbors is kept within batches, and the batch effect that is left (0 to 1) are
        written above the figure.
    size, palette, legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`; the legend is beside the cells after the integration.
    title
        Title of the figure.

    Returns
    -------
    The axes, before and after for each color.

    Raises
    ------
    KeyError
        If a key does not exist, or `metrics` lacks one of the three.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> metrics = {"move": 0.31, "neighbors_kept": 0.92, "batch_variance_left": 0.01}
    >>> figure = muport.pl.before_and_after(adata, "pca", "umap", "cell_type", metrics, return_fig=True)
    >>> figure.get_suptitle()
    'cells moved by 0.31 · 92% of neighbors kept · variance due to batches: 1%'
    """
    output = Output(show, save, return_fig)
    colors = [color] if isinstance(color, str) else list(color)
    styles = [
        CellStyle(size=size, palette=palette, legend_loc=loc, title=name)
        for loc, name in ((None, "before integration"), (legend_loc, "after integration"))
    ]
    text = "\n".join(filter(None, [title, _describe(metrics)]))
    if not colors:
        raise ValueError("color=[] names nothing: pass a column of obs or a gene.")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(
        len(colors), 2, figsize=(7.6, 3.6 * len(colors) + 0.3), layout="constrained", squeeze=False
    )
    try:
        for row, name in zip(grid, colors, strict=True):
            for ax, basis, style in zip(row, (before, after), styles, strict=True):
                draw_panels(data, basis, name, ax, Output(), style)
                if name != colors[0]:
                    ax.set_title("")
            if legend := row[1].get_legend():
                legend.set_title(name, prop={"weight": "bold", "size": "small"})
    except Exception:
        plt.close(figure)
        raise
    if text:
        figure.suptitle(text, fontsize="medium")
    widen_by_legends(figure, grid.tolist())
    return output.finish(list(grid.flat))


def _describe(metrics: Mapping[str, float] | None) -> str:
    if metrics is None:
        return ""
    absent = [name for name in _METRICS if name not in metrics]
    if absent:
        raise KeyError(f"metrics has no {absent[0]!r}; it has {sorted(metrics)}: pass model.metrics_ after train.")
    move, kept, left = (metrics[name] for name in _METRICS)
    return f"cells moved by {move:.2f} · {kept:.0%} of neighbors kept · variance due to batches: {left:.0%}"
