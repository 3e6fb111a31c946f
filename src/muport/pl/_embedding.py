"""Scatter plots of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._panels import CellStyle, draw_panels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata
    import mudata
    from matplotlib.axes import Axes

__all__ = ["embedding"]


def embedding(
    data: anndata.AnnData | mudata.MuData,
    basis: str = "X_umap",
    color: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    modality: str | None = None,
    palette: Any = None,
    cmap: Any = "viridis",
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    sort_order: bool = True,
    size: float | None = None,
    legend_loc: str | None = "right margin",
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw cells in two dimensions, colored by annotations and genes, with the arguments of scanpy.

    Parameters
    ----------
    data
        The cells.
    basis
        Key of ``data.obsm``, with or without ``X_``; ``"rna:X_umap"`` is that of a modality. The first two columns are
        drawn.
    color
        Column of ``data.obs`` or name of a gene, or a list of these, with one panel each. ``"rna:cell_type"`` and
        ``"rna:CD3E"`` are those of a modality. A column without prefix that only modalities have is gathered from
        them; a gene is found in the modality that has it. Cells are matched by name, and gray where there is no value.
        Numbers are drawn on a color scale, everything else (booleans too) as categories.
    ax
        Axes to draw on, for one color; new ones by default.
    layer
        Layer with the values of the genes; ``X`` by default.
    modality
        Modality in which columns, genes and the basis are looked up, if several have them.
    palette
        Colors of the categories: a list, a dict from category to color, or the name of a colormap. By default the
        colors in ``uns["<color>_colors"]``, which scanpy also uses. As in scanpy, new colors of a categorical column
        are written there, but not into a view.
    cmap
        Colormap of numbers.
    vmin, vmax
        Limits of the color scale: numbers, or percentiles such as ``"p99"``.
    sort_order
        Whether cells of larger numbers are drawn above the others; otherwise the order is random.
    size
        Area of a dot in square points; by default it decreases with the number of cells.
    legend_loc
        ``"right margin"``, ``"on data"`` (names of the categories at their cells), a location of matplotlib such as
        ``"upper right"``, or None: no legend and no color bar.
    title
        Title, or one for each panel; `color` by default.
    ncols
        Number of panels in a row.
    show
        Whether to show the figure.
    save
        File to save the figure to, such as ``"figure.pdf"``.
    return_fig
        Whether to return the figure instead of the axes.

    Returns
    -------
    The axes; a list of them for a list of two or more colors; or the figure. Categories are drawn in a random order
    with a fixed seed, so that none hides another.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If the basis has fewer than two columns, two modalities disagree, or an option has no meaning.
    TypeError
        If a color is not a name.
    FileNotFoundError
        If the folder of `save` does not exist.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> muport.pl.embedding(adata, "umap", "cell_type").get_title()
    'cell_type'
    >>> [ax.get_title() for ax in muport.pl.embedding(adata, "umap", ["cell_type", "LYZ"], vmax="p99")]
    ['cell_type', 'LYZ']
    """
    style = CellStyle(
        layer=layer, modality=modality, palette=palette, cmap=cmap, vmin=vmin, vmax=vmax, sort_order=sort_order,
        size=size, legend_loc=legend_loc, title=title, ncols=ncols,
    )  # fmt: skip
    return draw_panels(data, basis, color, ax, Output(show, save, return_fig), style)
