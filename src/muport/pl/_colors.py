"""Colours that readers with any colour vision can tell apart."""

from __future__ import annotations

from matplotlib.colors import to_rgb

#: The seven hues of Okabe and Ito (2008), Color Universal Design (black is left for text); then, one after the other,
#: the colour farthest in CIELAB from all before it, in normal, protanopic and deuteranopic vision alike.
_BASE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0000FF", "#221199", "#443300",
    "#AADD88", "#7766FF", "#550055", "#663344", "#CC3344", "#6699FF", "#1155BB", "#CCDD66", "#884477", "#AADDFF",
)  # fmt: skip
#: Cells without a value.
MISSING = "#D9D9D9"

Color = tuple[float, float, float]


def palette(n: int) -> list[Color]:
    """Return n colours: distinct up to 20, then their darker shades, then the same again."""
    full = [to_rgb(name) for name in _BASE]
    both = [*full, *((0.45 * red, 0.45 * green, 0.45 * blue) for red, green, blue in full)]
    return [both[i % len(both)] for i in range(n)]
