"""Which batch variables cannot be separated, and how much of each the others explain."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import connected_components

from muport._keys import split_levels
from muport.integration._batch_design import MODALITY, BatchDesign

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from muport.integration._batch_design import Strengths

__all__ = ["Confounding", "check_separable", "design_of_batches", "find_confounding"]

_NOTABLE = 0.1  # fraction of the variance of a variable that others explain, from which it is reported
_SHOWN = 4  # levels that a sentence lists


@dataclass(frozen=True, eq=False)
class Confounding:
    """How the batch variables depend on each other.

    - `explained`: Variable -> fraction (0..1) of the variance of its levels that the other variables explain.
    - `n_effects`: Number of differences between levels, over all variables.
    - `rank`: Number of them that the cells determine; the others cannot be separated.
    - `same`: Pairs of variables that divide the cells alike.
    - `sentences`: What cannot be separated, or only badly, in words.
    """

    explained: dict[str, float]
    n_effects: int
    rank: int
    same: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]


def find_confounding(names: Sequence[str], n_cells: Mapping[tuple[str, ...], float]) -> Confounding:
    """Compare the variables, by the numbers of cells of all combinations of their levels.

    Examples
    --------
    >>> n_cells = {("d1", "v2"): 90, ("d2", "v3"): 100, ("d1", "v3"): 10}
    >>> find_confounding(["donor", "platform"], n_cells).rank
    2
    >>> find_confounding(["donor", "platform"], {("d1", "v2"): 50, ("d2", "v3"): 50}).sentences[0]
    "'donor' and 'platform' divide the cells alike: their effects cannot be separated."
    """
    weight = np.array(list(n_cells.values()), float)
    levels = [sorted({row[v] for row in n_cells}) for v in range(len(names))]
    codes = np.array([[levels[v].index(level) for v, level in enumerate(row)] for row in n_cells])
    blocks = [_center(np.eye(len(levels[v]))[codes[:, v]], weight) for v in range(len(names))]
    explained = {
        name: _explain(blocks[v], [blocks[u] for u in range(len(names)) if u != v]) for v, name in enumerate(names)
    }
    pairs = list(combinations(range(len(names)), 2))
    same = tuple((names[a], names[b]) for a, b in pairs if _is_same(codes[:, a], codes[:, b]))
    pair_sentences = [_describe_pair(a, b, names, levels, codes) for a, b in pairs]
    sentences = [sentence for sentence in pair_sentences if sentence]
    n_effects = sum(len(level) - 1 for level in levels)
    rank = int(np.linalg.matrix_rank(np.concatenate(blocks, axis=1), tol=1e-8 * np.sqrt(weight.sum())))
    if rank < n_effects:
        sentences.append(
            f"{n_effects - rank} of {n_effects} differences between levels cannot be separated from the others."
        )
    sentences += [
        f"The other variables explain {share:.0%} of the variance of {name!r}: their effects are separated by the "
        "remaining cells."
        for name, share in explained.items()
        if _NOTABLE <= share < 1 - 1e-9
    ]
    return Confounding(explained, n_effects, rank, same, tuple(sentences))


def check_separable(design: BatchDesign) -> Confounding:
    """Find what cannot be separated; refuse different strengths of variables that divide the cells alike."""
    confounding = find_confounding(design.names, design.n_cells)
    fraction = dict(zip(design.names, design.fractions, strict=True))
    for a, b in confounding.same:
        if fraction[a] != fraction[b]:
            raise ValueError(
                f"strength: {a!r} and {b!r} divide the cells alike, so their effects cannot be separated: give both "
                f"the same strength, or leave one of them out of batch_key."
            )
    return confounding


def design_of_batches(batches: Sequence[str], n_cells: Sequence[float], strengths: Strengths) -> BatchDesign | None:
    """Build the design of batches that are combinations of levels, as one group each; None for one batch variable.

    - `batches`: Names of the batches.
    - `n_cells`: Number of cells of each.

    Raises ValueError as :func:`check_separable`.
    """
    names = [name for name in strengths.of_batches if name != MODALITY]
    if len(names) < 2:
        return None
    groups = {batch: {split_levels(batch): float(n)} for batch, n in zip(batches, n_cells, strict=True) if n > 0}
    design = BatchDesign.of(names, [strengths.fraction_of(name) for name in names], groups)
    check_separable(design)
    return design


def _center(columns: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean over cells, and multiply by the root of the numbers of cells."""
    centered: NDArray[np.float64] = (columns - weight @ columns / weight.sum()) * np.sqrt(weight)[:, None]
    return centered


def _explain(block: NDArray[np.float64], others: list[NDArray[np.float64]]) -> float:
    """Fraction of the sum of squares of a block that others explain; 0 for a variable with one level."""
    total = float(np.square(block).sum())
    if total <= 0 or not others:
        return 0.0
    columns = np.concatenate(others, axis=1)
    rest = block - columns @ np.linalg.lstsq(columns, block, rcond=1e-9)[0]
    return float(np.clip(1 - np.square(rest).sum() / total, 0, 1))


def _is_same(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    return bool(a.max() > 0 and len(np.unique(np.stack([a, b]), axis=1).T) == a.max() + 1 == b.max() + 1)


def _describe_pair(
    a: int, b: int, names: Sequence[str], levels: list[list[str]], codes: NDArray[np.int64]
) -> str | None:
    """Say what of two variables cannot be separated; None if all can be."""
    used = np.unique(codes[:, [a, b]], axis=0)
    n_a, n_b = len(levels[a]), len(levels[b])
    if n_a == 1 or n_b == 1:
        return None
    if _is_same(codes[:, a], codes[:, b]):
        return f"{names[a]!r} and {names[b]!r} divide the cells alike: their effects cannot be separated."
    fine, coarse = (a, b) if n_a >= n_b else (b, a)
    if len(used) == max(n_a, n_b):
        return (
            f"Each level of {names[fine]!r} occurs in one level of {names[coarse]!r} only: what all cells of a level "
            f"of {names[coarse]!r} have in common is ascribed to {names[coarse]!r}, and what differs within it to "
            f"{names[fine]!r}."
        )
    graph = np.zeros((n_a + n_b, n_a + n_b))
    graph[used[:, 0], n_a + used[:, 1]] = 1
    n_parts, part = connected_components(graph, directed=False)
    if n_parts == 1:
        return None
    parts = " / ".join(
        f"{_list_names(levels[a], part[:n_a] == p)} with {_list_names(levels[b], part[n_a:] == p)}"
        for p in range(n_parts)
    )
    # of equally many levels, those of the first variable have the smaller penalty
    coarse = b if n_b < n_a else a
    return (
        f"Levels of {names[a]!r} and {names[b]!r} occur together only as {parts}: the differences between these parts "
        f"cannot be separated, and are ascribed to {names[coarse]!r}."
    )


def _list_names(levels: list[str], taken: NDArray[np.bool_]) -> str:
    names = [level for level, is_taken in zip(levels, taken, strict=True) if is_taken]
    return ", ".join(names[:_SHOWN]) + (" and so on" if len(names) > _SHOWN else "")
