"""Names of dots and of groups of cells, placed so that they do not cover each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from numpy.typing import NDArray

__all__ = ["separate_names", "write_names_beside"]

_GAP = 5.0  # points between a dot's center and its name
_MIN_DOT = 4.5  # points: half the side of the square around a dot that names should leave free
#: Directions from a dot to its name, the preferred ones first.
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_DISTANCES = (1.0, 2.5, 4.0)  # in gaps
_SHIFTS = (0.0, 0.6, -0.6, 1.2, -1.2, 1.8, -1.8)  # of a name of a group up and down, in heights of a line


def write_names_beside(ax: Axes, xy: NDArray[np.float64], names: Sequence[str]) -> None:
    """Write the name of each dot (n, 2) at the free place that is nearest to it; limits must be final.

    Where no place is free, that with the smallest overlap is taken.
    """
    figure = ax.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    gap = _GAP * figure.dpi / 72
    dot = _MIN_DOT * figure.dpi / 72
    texts = [
        ax.annotate(name, point, (0, 0), textcoords="offset pixels", fontsize="x-small", annotation_clip=True)
        for name, point in zip(names, xy, strict=True)
    ]
    centers = ax.transData.transform(xy)
    taken = [np.array([*(center - dot), *(center + dot)]) for center in centers]
    inside = np.array([*ax.bbox.min, *ax.bbox.max])
    for text, center in zip(texts, centers, strict=True):
        box = text.get_window_extent()
        size = np.array([box.width, box.height])
        places = [_place(center, size, gap * far, side) for far in _DISTANCES for side in _DIRECTIONS]
        outside = [size.prod() - _overlap(place, inside[None]) for place in places]
        costs = [_overlap(place, np.array(taken)) + out for place, out in zip(places, outside, strict=True)]
        chosen = places[int(np.argmin(np.round(costs, 3)))]
        text.xyann = tuple(chosen[:2] - center)
        taken.append(chosen)


def separate_names(ax: Axes, texts: Sequence[Annotation]) -> None:
    """Move names of groups, written at their centers, up or down to where they cover no other name.

    Where no such place is near, that with the smallest overlap is taken.
    """
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    boxes = np.array([text.get_window_extent().extents for text in texts]).reshape(-1, 4)
    for i, text in enumerate(texts):
        height = boxes[i, 3] - boxes[i, 1]
        places = [boxes[i] + np.array([0, shift, 0, shift]) * height for shift in _SHIFTS]
        costs = [_overlap(place, np.delete(boxes, i, axis=0)) for place in places]
        best = int(np.argmin(np.round(costs, 3)))
        text.xyann = (0, _SHIFTS[best] * height)
        boxes[i] = places[best]


def _place(
    center: NDArray[np.float64], size: NDArray[np.float64], gap: float, side: tuple[int, int]
) -> NDArray[np.float64]:
    """The box (left, bottom, right, top) of a text of this size, on one side of a dot."""
    corner = center + gap * np.array(side) + size * (np.array(side) - 1) / 2
    return np.concatenate([corner, corner + size])


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The area that a box (4,) shares with others (k, 4), added up."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.maximum(sides, 0).prod(axis=1).sum())
