"""Colors of categories that readers with any color vision can distinguish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MISSING", "CategoryColors", "color_categories", "palette"]

#: The seven hues of Okabe and Ito (2008), Color Universal Design, without black, which is for text. Each further color
#: is the one farthest in CIELAB from all colors before it, in normal, protanopic and deuteranopic vision.
_BASE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0000FF", "#221199", "#443300",
    "#AADD88", "#7766FF", "#550055", "#663344", "#CC3344", "#6699FF", "#1155BB", "#CCDD66", "#884477", "#AADDFF",
)  # fmt: skip
#: Color of cells without a value.
MISSING = "#D9D9D9"

Color = tuple[float, float, float]


def palette(n: int) -> list[Color]:
    """Return n colors: distinct up to 20, then darker shades of these, then the same again."""
    bright = [to_rgb(name) for name in _BASE]
    colors = [*bright, *((0.45 * red, 0.45 * green, 0.45 * blue) for red, green, blue in bright)]
    return [colors[i % len(colors)] for i in range(n)]


@dataclass(frozen=True)
class CategoryColors:
    """Colors of n categorical values.

    - `colors`: (n, 3) color of each value; gray where it is missing.
    - `missing`: (n,) whether a value is missing.
    - `legend`: Name and color of each category, and of ``"no value"`` if a value is missing.
    """

    colors: NDArray[np.float64]
    missing: NDArray[np.bool_]
    legend: list[tuple[str, Any]]


def color_categories(values: Any) -> CategoryColors:
    """Color values by their categories; unused categories get no color."""
    coded = pd.Categorical(values).remove_unused_categories()
    shades = np.array([*palette(len(coded.categories)), to_rgb(MISSING)])
    missing = coded.codes < 0
    legend: list[tuple[str, Any]] = list(zip(map(str, coded.categories), shades[:-1], strict=True))
    if missing.any():
        legend.append(("no value", MISSING))
    return CategoryColors(shades[coded.codes], missing, legend)
