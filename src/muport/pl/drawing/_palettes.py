"""Colors of the categories of a column: from ``palette``, from ``uns``, or new, and written to ``uns`` as in scanpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, is_color_like, to_hex

from muport.pl.drawing._colors import MISSING
from muport.pl.drawing._colors import palette as default_palette

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from muport.pl.drawing._values import Column, Data

__all__ = ["check_cmap", "choose_shades", "parse_palette", "stored_colors"]


def check_cmap(cmap: Any) -> None:
    """Raise a ValueError if a name is not that of a colormap."""
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap={cmap!r} is not a colormap of matplotlib: use one such as 'viridis'.")


def choose_shades(column: Column, palette: Any | None) -> list[Any]:
    """Return a color for each category of a column, used or not.

    These are the colors of `palette` if it is given, else those of ``uns["<key>_colors"]`` where it has enough, else
    new ones. As in scanpy, new ones and those of `palette` are written to ``uns``; only for a categorical column,
    whose order of categories is stored with it, and not in a view, which would become a copy.
    """
    coded = pd.Categorical(column.values)
    categories, unused = list(coded.categories), set(coded.categories) - set(coded.unique())
    key, owner = f"{column.key}_colors", column.owner
    if palette is not None:
        shades = parse_palette(palette, categories, column.key, unused)
    else:
        stored = _read_colors(owner, key) if owner is not None else None
        if stored is not None and len(stored) >= len(categories):
            return stored[: len(categories)]
        shades = default_palette(len(categories))
    if owner is not None and not owner.is_view and isinstance(owner.obs[column.key].dtype, pd.CategoricalDtype):
        owner.uns[key] = [to_hex(shade) for shade in shades]
    return shades


def parse_palette(
    palette: Any, categories: Sequence[Any], name: str, unused: Collection[Any] = frozenset()
) -> list[Any]:
    """Return the color of each category. ValueError names the palette, the category and what to pass.

    - `unused`: Categories that no value has; a dict need not have their colors.
    """
    n = len(categories)
    if isinstance(palette, str) and palette in colormaps:
        colormap = colormaps[palette]
        if isinstance(colormap, ListedColormap) and n <= colormap.N <= 60:
            return [colormap(i) for i in range(n)]
        return [colormap(x) for x in np.linspace(0, 1, max(n, 1))[:n]]
    if isinstance(palette, Mapping):
        absent = [category for category in categories if category not in palette and str(category) not in palette]
        if needed := [category for category in absent if category not in unused]:
            raise ValueError(f"palette has no color for {needed[0]!r} of color={name!r}: add it.")
        shades = [palette.get(category, palette.get(str(category), MISSING)) for category in categories]
    elif isinstance(palette, str) or not np.iterable(palette):
        raise ValueError(
            f"palette={palette!r} must be a list of colors, a dict from category to color, or the name of a "
            "colormap of matplotlib, such as 'tab20'."
        )
    else:
        # a cycler of matplotlib gives dicts
        shades = [shade["color"] if isinstance(shade, Mapping) else shade for shade in palette]
    if len(shades) < n:
        without = f", {len(unused)} of which have no values: remove_unused_categories() drops them" if unused else ""
        raise ValueError(
            f"palette has {len(shades)} colors for the {n} categories of color={name!r}: pass {n} or more{without}."
        )
    _check_colors(shades, "palette", "pass names or hexadecimal codes of colors")
    return shades[:n]


def stored_colors(data: Data | None, names: Sequence[Any], column: str | None = None) -> dict[str, Any] | None:
    """Return the colors in ``uns`` of the categories that have these names; None if no column has all of them.

    - `column`: The column that is read first.
    """
    wanted = {str(name) for name in names}
    for owner in () if data is None else (data, *getattr(data, "mod", {}).values()):
        keys = [key.removesuffix("_colors") for key in owner.uns if str(key).endswith("_colors")]
        for key in sorted(keys, key=lambda key: key != column):
            if key in owner.obs and isinstance(owner.obs[key].dtype, pd.CategoricalDtype):
                categories = [str(category) for category in owner.obs[key].cat.categories]
                colors = dict(zip(categories, _read_colors(owner, f"{key}_colors") or [], strict=False))
                if wanted <= colors.keys():
                    return {name: colors[name] for name in wanted}
    return None


def _read_colors(owner: Any, key: str) -> list[Any] | None:
    if key not in owner.uns:
        return None
    stored = list(owner.uns[key])
    _check_colors(stored, f"uns[{key!r}]", "correct it, delete it, or pass palette")
    return stored


def _check_colors(shades: Sequence[Any], what: str, fix: str) -> None:
    bad = [shade for shade in shades if not is_color_like(shade)]
    if bad:
        raise ValueError(f"{what}: {bad[0]!r} is not a color of matplotlib: {fix}.")
