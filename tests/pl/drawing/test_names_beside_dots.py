"""Names beside dots cover neither each other nor the dots, and stay near their own."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt

from muport.pl.drawing._names_beside_dots import separate_names, write_names_beside


def boxes(ax: plt.Axes) -> np.ndarray:
    return np.array([text.get_window_extent().extents for text in ax.texts])


def test_names_of_near_dots_cover_neither_each_other_nor_dots():
    ax = plt.subplots(figsize=(4, 4))[1]
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.uniform(0, 10, size=(8, 2)), [[5, 5], [5.1, 5.1], [5.2, 4.9]]])
    ax.scatter(*xy.T)
    names = [f"P{i}" for i in range(len(xy))]
    write_names_beside(ax, xy, names)
    assert [text.get_text() for text in ax.texts] == names
    found, dots = boxes(ax), ax.transData.transform(xy)
    for i, box in enumerate(found):
        shared = np.minimum(box[2:], found[:, 2:]) - np.maximum(box[:2], found[:, :2])
        assert not (shared > 1).all(axis=1)[np.arange(len(found)) != i].any()
        assert not ((dots > box[:2]) & (dots < box[2:])).all(axis=1).any()
        assert (np.maximum(box[:2] - dots[i], dots[i] - box[2:]).max()) < 30
    assert (found[:, 2] <= ax.bbox.x1 + 1).all()
    assert (found[:, 0] >= ax.bbox.x0 - 1).all()


def test_a_dot_alone_has_its_name_above_and_to_the_right():
    ax = plt.subplots(figsize=(3, 3))[1]
    ax.scatter([0, 1], [0, 1])
    write_names_beside(ax, np.array([[0.0, 0.0], [1.0, 1.0]]), ["A", "a long name"])
    low = ax.transData.transform([0, 0])
    assert (boxes(ax)[0, :2] > low).all()
    assert boxes(ax)[1, 2] <= ax.bbox.x1 + 1  # that of the upper dot would leave the axes to the right


def test_names_of_near_groups_are_moved_apart_and_others_stay():
    ax = plt.subplots(figsize=(4, 4))[1]
    centers = [(0.5, 0.5), (0.52, 0.51), (0.2, 0.2)]
    texts = [
        ax.annotate(name, center, (0, 0), textcoords="offset pixels", ha="center", va="center")
        for name, center in zip(["progenitors", "GMP", "far"], centers, strict=True)
    ]
    before = boxes(ax)[2]
    separate_names(ax, texts)
    found = boxes(ax)
    shared = np.minimum(found[0, 2:], found[1, 2:]) - np.maximum(found[0, :2], found[1, :2])
    assert not (shared > 1).all()
    assert np.abs(found[0] - found[1])[1] < 40
    assert np.allclose(found[2], before)
