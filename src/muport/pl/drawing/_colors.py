"""Colors of categories that readers with any color vision can distinguish."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["MISSING", "CategoryColors", "Color", "color_categories", "palette"]

#: The seven hues of Okabe and Ito (2008), Color Universal Design, without black, which is for text. Each further color
#: is the one farthest in CIELAB from all colors before it, in normal, protanopic and deuteranopic vision.
_BASE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0000FF", "#221199", "#443300",
    "#AADD88", "#7766FF", "#550055", "#663344", "#CC3344", "#6699FF", "#1155BB", "#CCDD66", "#884477", "#AADDFF",
)  # fmt: skip
#: Color of cells without a value.
MISSING = "#D9D9D9"
_LEVELS = (0.0, 0.13, 0.27, 0.4, 0.53, 0.67, 0.8, 0.93)  # of red, green and blue of the colors after the base
_LIGHTNESS = (20, 88)  # CIELAB L of these colors: not black, and visible on white

Color = tuple[float, float, float]


def palette(n: int) -> list[Color]:
    """Return n colors: those of color vision deficiency up to 20, then each farthest in CIELAB from those before it."""
    bright = [to_rgb(name) for name in _BASE]
    return [*bright, *_further_colors(n - len(bright))][:n]


@lru_cache(maxsize=8)
def _further_colors(n: int) -> list[Color]:
    """Return n colors that follow the base; from the end of the grid on, the same again."""
    if n <= 0:
        return []
    grid = np.array(list(product(_LEVELS, repeat=3)))
    lab = _to_lab(grid)
    visible = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1])
    grid, lab = grid[visible], lab[visible]
    known = _to_lab(np.array([to_rgb(name) for name in (*_BASE, MISSING, "white", "black")]))
    distance = np.linalg.norm(lab[:, None] - known[None], axis=2).min(axis=1)
    colors: list[Color] = []
    for _ in range(min(n, len(grid))):
        best = int(distance.argmax())
        colors.append((float(grid[best, 0]), float(grid[best, 1]), float(grid[best, 2])))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return [colors[i % len(colors)] for i in range(n)]


def _to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB (n, 3) of sRGB colors (n, 3) in 0..1, under illuminant D65 (IEC 61966-2-1)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab: NDArray[np.float64] = np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )
    return lab


@dataclass(frozen=True)
class CategoryColors:
    """Colors of n categorical values.

    - `colors`: (n, 3) color of each value; gray where it is missing.
    - `missing`: (n,) whether a value is missing.
    - `legend`: Name and color of each category that a value has, and of ``"no value"`` if a value is missing.
    """

    colors: NDArray[np.float64]
    missing: NDArray[np.bool_]
    legend: list[tuple[str, Any]]


def color_categories(values: Any, shades: Sequence[Any] | None = None) -> CategoryColors:
    """Color values by their categories; `shades` has a color for each category, used or not.

    Without `shades`, colors are those of the categories that a value has.
    """
    coded = pd.Categorical(values)
    if shades is None:
        coded = coded.remove_unused_categories()
        shades = palette(len(coded.categories))
    rgb = np.array([*(to_rgb(shade) for shade in shades), to_rgb(MISSING)])
    missing = coded.codes < 0
    used = np.unique(coded.codes[~missing])
    legend: list[tuple[str, Any]] = [(str(coded.categories[code]), rgb[code]) for code in used]
    if missing.any():
        legend.append(("no value", MISSING))
    return CategoryColors(rgb[coded.codes], missing, legend)
