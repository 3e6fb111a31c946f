"""Scores of the distances between samples: what is known about a sample is also known about its neighbors.

The four scores are those of SPARE (Shitov et al. 2025): information, removal of batches, trajectory, and replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import spearmanr

from muport._checks import check_integers, check_seed
from muport._tables import same_row_and_column_order
from muport.gmm.interpretation._patient_trajectory import patient_affinities, time_from
from muport.metrics._checked_values import category_codes, finite_numbers
from muport.pp.cell_graphs._pseudotime import diffusion_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["replicate_retrieval", "sample_batch_removal", "sample_information", "sample_trajectory"]

_N_NEIGHBORS = 5
_ROUNDING = 1e-5  # relative difference of two distances that are equal but for their digits, of float32


def sample_information(distances: Any, values: Any, *, k: int = _N_NEIGHBORS) -> float:
    """Score how well the nearest samples predict a covariate of each sample.

    Parameters
    ----------
    distances
        (P, P) distances between samples, such as ``model.get_sample_distances()``.
    values
        (P,) covariate; a Series is matched by the names of the samples where `distances` is a DataFrame. Numbers are
        predicted by the mean of the neighbors, all other values by their vote. Samples without a value are left out.
    k
        Number of neighbors; fewer if there are fewer samples.

    Returns
    -------
    Of numbers the rank correlation of values and predictions, of categories the F1 score, averaged over the
    categories. NaN with a single value.

    Raises
    ------
    ValueError
        If the distances are not square, symmetric and finite, or there is not a value for each sample.
    KeyError
        If a sample is not in the Series.

    Examples
    --------
    >>> between = np.abs(np.subtract.outer([0.0, 1.0, 8.0, 9.0], [0.0, 1.0, 8.0, 9.0]))
    >>> sample_information(between, ["control", "control", "case", "case"], k=1)
    1.0
    """
    matrix, covariate = _matched(distances, values, "values")
    if pd.api.types.is_numeric_dtype(covariate) and not pd.api.types.is_bool_dtype(covariate):
        number = finite_numbers(covariate.to_numpy(), "values")
        # a power of two leaves the digits as they are, and the sums finite
        number = np.ldexp(number, -np.frexp(np.abs(number).max())[1])
        if len(np.unique(number)) < 2:
            return float("nan")
        predicted = number[_neighbors(matrix, k)].mean(axis=1)
        return float(spearmanr(number, predicted).statistic) if np.ptp(predicted) else 0.0
    names, code = category_codes(covariate, "values")
    return float("nan") if len(names) < 2 else _f1(matrix, code, k)


def sample_batch_removal(
    distances: Any, batch: Any, *, k: int = _N_NEIGHBORS, n_permutations: int = 100, random_state: int = 0
) -> float:
    """Score how little the nearest samples say about the batch of a sample.

    One minus :func:`sample_information` of the batch, where that of permuted batches counts as 0: 1 is what unrelated
    samples have, 0 that every sample has neighbors of its own batch only.

    Parameters
    ----------
    distances, k
        As for :func:`sample_information`.
    batch
        (P,) batch of each sample, a category.
    n_permutations
        Number of permutations, whose mean is the score of chance.
    random_state
        Seed.

    Returns
    -------
    A number from 0 to 1; NaN with a single batch.

    Raises
    ------
    KeyError, ValueError
        As :func:`sample_information`.

    Examples
    --------
    >>> between = np.abs(np.subtract.outer([0.0, 1.0, 8.0, 9.0], [0.0, 1.0, 8.0, 9.0]))
    >>> sample_batch_removal(between, ["x", "x", "y", "y"], k=1)
    0.0
    """
    check_integers(n_permutations=n_permutations)
    check_seed(random_state)
    matrix, covariate = _matched(distances, batch, "batch")
    names, code = category_codes(covariate, "batch")
    if len(names) < 2:
        return float("nan")
    rng = np.random.default_rng(random_state)
    found = _f1(matrix, code, k)
    chance = float(np.mean([_f1(matrix, rng.permutation(code), k) for _ in range(n_permutations)]))
    return float(np.clip(1 - (found - chance) / max(1 - chance, 1e-12), 0, 1))


def sample_trajectory(
    distances: Any, order: Any, *, root: Any | None = None, n_neighbors: int = _N_NEIGHBORS
) -> float:  # fmt: skip
    """Score how well a diffusion pseudotime on the distances follows a known order of the samples.

    Parameters
    ----------
    distances
        As for :func:`sample_information`.
    order
        (P,) numbers, such as severities, stages or times.
    root
        Name, or position, of the sample at which the pseudotime starts; by default the most central one of those of the
        lowest number.
    n_neighbors
        As for :meth:`muport.GMM.get_trajectory`.

    Returns
    -------
    Rank correlation of pseudotime and order, without the root; NaN if the order has one value.

    Raises
    ------
    KeyError, ValueError
        As :func:`sample_information`; or if the root is no sample, or the order holds no numbers.

    Examples
    --------
    >>> line = np.arange(12.0)
    >>> sample_trajectory(np.abs(np.subtract.outer(line, line)), line) > 0.9
    True
    """
    check_integers(n_neighbors=n_neighbors)
    matrix, covariate = _matched(distances, order, "order")
    number = finite_numbers(covariate.to_numpy(), "order")
    if len(np.unique(number)) < 2 or len(number) < 4 or not matrix.any():
        return float("nan")
    if root is None:
        lowest = np.flatnonzero(number == number.min())
        start = int(lowest[matrix[np.ix_(lowest, lowest)].sum(axis=1).argmin()])
    elif not isinstance(root, Hashable) or root not in covariate.index:
        raise KeyError(f"root={root!r} is no sample with a value.")
    else:
        start = int(covariate.index.get_indexer([root])[0])
    graph = sparse.csr_array(patient_affinities(matrix, n_neighbors))
    time = time_from(diffusion_coordinates(graph, np.arange(len(matrix)), 0), start)
    rest = np.arange(len(matrix)) != start
    return float(spearmanr(time[rest], number[rest]).statistic)


def replicate_retrieval(distances: Any, person: Any) -> float:
    """Compute the fraction of samples whose nearest other sample is of the same person.

    Parameters
    ----------
    distances
        As for :func:`sample_information`.
    person
        (P,) person, or other unit, of each sample; persons with a single sample do not count.

    Returns
    -------
    A number from 0 to 1; NaN if no person has two samples.

    Raises
    ------
    KeyError, ValueError
        As :func:`sample_information`.

    Examples
    --------
    >>> between = np.abs(np.subtract.outer([0.0, 1.0, 8.0, 9.0], [0.0, 1.0, 8.0, 9.0]))
    >>> replicate_retrieval(between, ["a", "a", "b", "b"])
    1.0
    """
    matrix, covariate = _matched(distances, person, "person")
    code = category_codes(covariate, "person")[1]
    repeated = np.bincount(code)[code] > 1
    if not repeated.any():
        return float("nan")
    nearest = _neighbors(matrix, 1)[:, 0]
    return float((code[nearest] == code)[repeated].mean())


def _matched(distances: Any, values: Any, name: str) -> tuple[NDArray[np.float64], pd.Series]:
    """Distances between the samples that have a value, and these values."""
    matrix = finite_numbers(same_row_and_column_order(distances, "distances", "sample"), "distances")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"distances has shape {matrix.shape}: a square matrix of two or more samples is needed.")
    largest = float(np.abs(matrix).max())
    if matrix.min() < -_ROUNDING * largest or np.abs(matrix - matrix.T).max() > _ROUNDING * largest:
        raise ValueError("distances must be symmetric and not negative: pass distances, not similarities.")
    index = distances.index if isinstance(distances, pd.DataFrame) else pd.RangeIndex(len(matrix))
    values = pd.Series(values) if isinstance(values, Mapping) else values
    if isinstance(values, pd.Series) and isinstance(distances, pd.DataFrame):
        if absent := [sample for sample in index if sample not in values.index]:
            raise KeyError(f"{name}: sample {absent[0]!r} (and {len(absent) - 1} more) is not in the Series.")
        column = values
    else:
        if len(values) != len(matrix):
            raise ValueError(f"{name} has {len(values)} entries for {len(matrix)} samples: give each sample one.")
        if len(np.shape(values)) > 1:
            raise ValueError(f"{name} has shape {np.shape(values)}: give each sample one value.")
        column = pd.Series(values.array if isinstance(values, pd.Series) else values, index=index)
    for what, names in (("distances", index), (name, column.index)):
        if not names.is_unique:
            raise ValueError(f"{what} has several rows of the name {names[names.duplicated()][0]!r}: make it unique.")
    # equally near samples are taken in the order of their names
    order = np.argsort(index.to_numpy(), kind="stable")
    column, matrix = column.loc[index[order]], matrix[np.ix_(order, order)]
    known = column.notna().to_numpy()
    if known.sum() < 2:
        raise ValueError(f"{name} is known for {int(known.sum())} samples: at least two are needed.")
    # numbers beside None are a column of objects
    return matrix[np.ix_(known, known)], column[known].infer_objects()


def _neighbors(matrix: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k nearest other samples (P, k)."""
    check_integers(k=k)
    others = matrix.copy()
    np.fill_diagonal(others, np.inf)
    return np.argsort(others, axis=1, kind="stable")[:, : min(k, len(matrix) - 1)].astype(np.int64)


def _f1(matrix: NDArray[np.float64], code: NDArray[np.int64], k: int) -> float:
    """F1 score of the vote of the nearest samples, averaged over the categories; ties go to the nearest voter."""
    votes = code[_neighbors(matrix, k)]
    n_classes = int(code.max()) + 1
    count = np.zeros((len(code), n_classes))
    # a nearer sample counts a little more, which decides ties only
    for place, column in enumerate(votes.T):
        np.add.at(count, (np.arange(len(code)), column), 1 + 1e-3 / (1 + place))
    found = count.argmax(axis=1)
    right = np.bincount(code[found == code], minlength=n_classes)
    either = np.bincount(code, minlength=n_classes) + np.bincount(found, minlength=n_classes)
    return float(np.mean(2 * right / np.maximum(either, 1)))
