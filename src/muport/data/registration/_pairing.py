"""Whether a name in two modalities is one cell: the cells that share a name must agree better than permuted ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from muport._arrays import unit_rows
from muport.data.reading._rows import RENAME
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.data.reading._rows import Rows

__all__ = ["Pairing", "check_pairings", "compare_pairs", "pairing_metrics"]

_PACKAGE = str(Path(__file__).parents[2])
_LARGEST_P_VALUE = 0.005
_N_PERMUTATIONS = 499
# Four neighbors in the order of names: files sorted by type differ within few blocks, and no power is lost otherwise
# (the five paired sets of the benchmarks, 15 to 400 pairs).
_BLOCK = 4
_MAX_BLOCKS = 150  # 600 pairs that are compared
_MAX_NAMES = 20_000  # names that are sorted
_MAX_WIDTH = 64  # coordinates that are compared; wider representations are projected
_MIN_WARNED = 5  # fewer common names prove nothing and are logged only
_MIN_REFUTED = 30  # fewer common names are not used to align modalities
# The least of the five paired sets is 0.13, of weak SNARE-seq.
_LEAST_AGREEMENT = 0.1
_N_ERRORS = 2.33  # standard errors: with 99 % probability, the agreement is not that much larger
_EVENNESS_OF_NOISE = 0.8  # below that of normal, uniform, exponential, Poisson and t(3) noise in 300 to 2,000 cells
_MAX_CELLS = 2_000  # cells by which the structure of a modality is judged
_CLUSTERS, _PAIRS_PER_CLUSTER = 8, 8


@dataclass(frozen=True)
class Pairing:
    """How well the cells agree whose name is in two modalities.

    - `modalities`: The two modalities.
    - `n_pairs`: Number of names in both.
    - `complete`: Whether both modalities have the same names.
    - `agreement`: 0 for permuted names; 1 at most.
    - `expected`: Least agreement of pairs in modalities that both have structure; 0 if one has none.
    - `p_value`: Probability that permuted names agree so well.
    - `verdict`: ``"proved"``: they agree better than permuted ones. ``"refuted"``: they do not, and pairs would.
      ``"undecided"``: they do not, but pairs might not either.
    """

    modalities: tuple[str, str]
    n_pairs: int
    complete: bool
    agreement: float
    expected: float
    p_value: float
    verdict: Literal["proved", "refuted", "undecided"]


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Agreement of pairs in one space, its standard deviation when names are permuted, and the p-value."""

    agreement: float
    deviation: float
    p_value: float


@dataclass(frozen=True, eq=False)
class _Part:
    """A modality: the cell of each of its rows, and where its coordinates stand.

    - `cell`: (n_m,) positions of the cells.
    - `rows`: (n_m,) positions in `shared`.
    - `own`: (n_m, d_m) own representation, None if it is not given.
    - `shared`: (n_rows, d) shared representation of all modalities, None if there is none.
    """

    cell: NDArray[np.int64]
    rows: NDArray[np.int64]
    own: NDArray[np.float32] | None
    shared: NDArray[np.float32] | None


def compare_pairs(rows: Rows) -> tuple[Pairing, ...]:
    """Compare the cells whose name is in two modalities with permuted ones, for each two modalities.

    Names are permuted within blocks of four names of one batch that follow each other in the order of names. So an
    agreement that comes from the batches, or from files that are sorted by type, proves nothing.

    Returns one entry for each two modalities with names in common.
    """
    parts = _split_modalities(rows)
    pairings = (_compare_modalities(rows, (a, b), parts[a], parts[b]) for a, b in combinations(parts, 2))
    return tuple(pairing for pairing in pairings if pairing is not None)


def check_pairings(pairings: Sequence[Pairing], *, concatenated: bool = False, warn: bool = True) -> None:
    """Refuse names that are in two modalities by chance, and warn if that is not certain.

    - `concatenated`: Whether the modalities are concatenated: there is no argument `paired` then.
    - `warn`: Whether to warn.
    """
    for pairing in pairings:
        if pairing.verdict == "refuted":
            raise ValueError(_refusal(pairing, concatenated))
    for pairing in pairings:
        if warn and pairing.verdict == "undecided" and pairing.n_pairs >= _MIN_WARNED:
            warnings.warn(_warning(pairing, concatenated), UserWarning, skip_file_prefixes=(_PACKAGE,))


def pairing_metrics(pairings: Sequence[Pairing]) -> dict[str, float]:
    """Return the entries of ``metrics_``: those of the two modalities whose names agree least."""
    if not pairings:
        return {}
    least = max(pairings, key=lambda pairing: pairing.p_value)
    return {
        "pairs": float(least.n_pairs),
        "pair_agreement": least.agreement,
        "pair_p_value": least.p_value,
    }


def _refusal(pairing: Pairing, concatenated: bool) -> str:
    remedy = "put the representations side by side in mdata.obsm yourself" if concatenated else "pass paired=True"
    return (
        f"{_describe(pairing)} Pairs in modalities that are not noise agree by {pairing.expected:.2f} or "
        f"more: these names are equal by chance. Make them distinct: {RENAME}. If each name is one cell nevertheless, "
        f"{remedy}."
    )


def _warning(pairing: Pairing, concatenated: bool) -> str:
    if pairing.complete or concatenated:
        use = "The names are taken for pairs."
    else:
        use = "They are not used to align the modalities; a cell with such a name lies between its two measurements."
    decide = "" if concatenated else " If they are, pass paired=True."
    rename = f"If they are not, make the names distinct: {RENAME}."
    return f"{_describe(pairing)} It is not certain whether they are pairs. {use}{decide} {rename}"


def _describe(pairing: Pairing) -> str:
    a, b = pairing.modalities
    return (
        f"{pairing.n_pairs} names are in both {a!r} and {b!r}, but these pairs agree no better than permuted ones: "
        f"agreement {pairing.agreement:.3f} (0 by chance), p = {pairing.p_value:.3g}, expected p <= {_LARGEST_P_VALUE}."
    )


def _split_modalities(rows: Rows) -> dict[str, _Part]:
    if rows.columns:
        every = np.arange(rows.n_cells)
        return {m: _Part(every, every, rows.x[:, columns], None) for m, columns in rows.columns.items()}
    shared = rows.x if rows.x.shape[1] > 0 else None
    parts = {}
    for code, m in enumerate(rows.modalities):
        taken = np.flatnonzero(rows.modality == code)
        own = rows.own.get(m)
        if own is not None and shared is not None and np.shares_memory(own, shared):
            own = None
        parts[m] = _Part(rows.cell[taken], taken, own, shared)
    return parts


def _compare_modalities(rows: Rows, modalities: tuple[str, str], a: _Part, b: _Part) -> Pairing | None:
    row_of_cell = np.full((2, rows.n_cells), -1)
    row_of_cell[0, a.cell] = np.arange(len(a.cell))
    row_of_cell[1, b.cell] = np.arange(len(b.cell))
    cells = np.flatnonzero((row_of_cell >= 0).all(axis=0))
    if not len(cells):
        return None
    batch_of_cell = np.zeros(rows.n_cells, np.int64)
    batch_of_cell[rows.cell] = rows.batch
    sampled, block = _sample_blocks(rows.obs_names[cells], batch_of_cell[cells])
    first, second = row_of_cell[:, cells[sampled]]
    comparisons = []
    if a.own is not None and b.own is not None:
        batch = batch_of_cell[cells[sampled]]
        x, y = (_compute_features(values, batch, block) for values in (a.own[first], b.own[second]))
        comparisons.append(_compare_own(x, y, block))
    if a.shared is not None and b.shared is not None:
        comparisons.append(_compare_shared(a.shared[a.rows[first]], b.shared[b.rows[second]], block))
    best = min(comparisons, key=lambda comparison: comparison.p_value)
    p_value = min(1.0, best.p_value * len(comparisons))
    expected = 0.0
    verdict: Literal["proved", "refuted", "undecided"] = "proved"
    if p_value > _LARGEST_P_VALUE:
        structured = all(_has_structure(rows, part, batch_of_cell) for part in (a, b))
        expected = _LEAST_AGREEMENT if structured else 0.0
        too_low = [c.agreement + _N_ERRORS * c.deviation < expected for c in comparisons]
        refuted = len(cells) >= _MIN_REFUTED and any(too_low)
        verdict = "refuted" if refuted else "undecided"
        best = comparisons[too_low.index(True)] if refuted else best
    complete = len(cells) == len(a.cell) == len(b.cell)
    return Pairing(modalities, len(cells), complete, best.agreement, expected, p_value, verdict)


def _sample_blocks(names: pd.Index, batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample blocks of names that follow each other within a batch; the rows of the data may be in any order.

    Shorter names come first, so that numbers are in their order. Returns the positions of the names in `names`, and
    their blocks, in ascending order.
    """
    taken = _sample_names(names, _MAX_NAMES)
    texts, batch = names[taken].to_numpy().astype(str), batch[taken]
    order = np.lexsort((texts, np.char.str_len(texts), batch))
    batch = batch[order]
    start = np.flatnonzero(np.r_[True, np.diff(batch) != 0])
    position = np.arange(len(batch)) - np.repeat(start, np.diff(np.r_[start, len(batch)]))
    block = np.cumsum(position % _BLOCK == 0) - 1
    n_blocks = block[-1] + 1
    if n_blocks > _MAX_BLOCKS:
        compared = np.isin(block, np.linspace(0, n_blocks - 1, _MAX_BLOCKS).astype(np.int64))
        order, block = order[compared], np.unique(block[compared], return_inverse=True)[1]
    return taken[order], block


def _sample_names(names: pd.Index, n: int) -> NDArray[np.int64]:
    """Sample positions of names, by their hashes: the same names in any order."""
    if len(names) <= n:
        return np.arange(len(names))
    return np.argsort(pd.util.hash_array(names.to_numpy(dtype=object)), kind="stable")[:n]


def _compare_own(x: NDArray[np.float32], y: NDArray[np.float32], block: NDArray[np.int64]) -> _Comparison:
    """Compare two spaces by the sum of squares of X'Y, the inner product of their kernels.

    - `x`, `y`: (n, f) features of the pairs in each space. A permutation of the names permutes the rows of `y`.
    """
    largest = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return _test(lambda order: np.square(np.matmul(x.T, y[order])).sum(axis=(1, 2)), block, largest)


def _compare_shared(x: NDArray[np.float32], y: NDArray[np.float32], block: NDArray[np.int64]) -> _Comparison:
    """Compare coordinates that two modalities share: the mean cosine of the pairs."""
    x, y = _directions(x, block), _directions(y, block)
    cosine = x @ y.T
    return _test(lambda order: cosine[np.arange(len(cosine)), order].mean(axis=1), block, 1.0)


def _compute_features(
    x: NDArray[np.float32], batch: NDArray[np.int64], block: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Compute the directions of the rows (n, d), and of their memberships of clusters: these follow any relation."""
    n_clusters = min(_CLUSTERS, len(x) // _PAIRS_PER_CLUSTER)
    if n_clusters < 2:
        return _directions(x, block)
    clusters = kmeans(_subtract_batch_means(x, batch).astype(np.float32), n_clusters, n_iter=10, random_state=0)
    membership = np.eye(len(clusters.centers), dtype=np.float32)[clusters.labels]
    return np.concatenate([_directions(x, block), _directions(membership, block)], axis=1)


def _subtract_batch_means(x: NDArray[np.float32], batch: NDArray[np.int64]) -> NDArray[np.float64]:
    code = np.unique(batch, return_inverse=True)[1]
    mean = np.zeros((code.max() + 1, x.shape[1]))
    np.add.at(mean, code, x)
    return np.asarray(x - (mean / np.bincount(code)[:, None])[code], np.float64)


def _directions(x: NDArray[np.float32], block: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the direction in which each row lies from the mean of its block."""
    if x.shape[1] > _MAX_WIDTH:
        x = x @ np.random.default_rng(0).normal(size=(x.shape[1], _MAX_WIDTH)).astype(np.float32)
    start = np.flatnonzero(np.r_[True, np.diff(block) != 0])
    mean = np.add.reduceat(x, start, axis=0) / np.bincount(block)[:, None]
    return unit_rows(x - mean[block].astype(np.float32))


def _test(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float32]], block: NDArray[np.int64], largest: float
) -> _Comparison:
    """Test the pairs against names permuted within the blocks.

    - `statistic`: From (k, n) orders of the second modality to (k,) values, which are large for pairs.
    - `largest`: Largest value of the statistic.
    """
    rng = np.random.default_rng(0)
    permuted = np.concatenate(
        [
            statistic(np.argsort(block + rng.random((min(50, _N_PERMUTATIONS - done), len(block))), axis=1))
            for done in range(0, _N_PERMUTATIONS, 50)
        ]
    )
    value = float(statistic(np.arange(len(block))[None])[0])
    mean, scale = float(permuted.mean()), largest - float(permuted.mean())
    tie = 1e-5 * max(abs(value), abs(mean))
    p_value = (1 + int((permuted >= value - tie).sum())) / (1 + len(permuted))
    if scale <= tie:
        return _Comparison(0.0, 0.0, p_value)
    return _Comparison((value - mean) / scale, float(permuted.std()) / scale, p_value)


def _has_structure(rows: Rows, part: _Part, batch_of_cell: NDArray[np.int64]) -> bool:
    """Whether the variance of a modality lies in few of its principal axes; that of noise is spread evenly."""
    taken = _sample_names(rows.obs_names[part.cell], _MAX_CELLS)
    values = part.own[taken] if part.own is not None else part.shared[part.rows[taken]]  # type: ignore[index]
    centered = _subtract_batch_means(values, batch_of_cell[part.cell[taken]])
    covariance = centered.T @ centered / len(taken)
    squares = float(np.square(covariance).sum()) * len(covariance)
    # noise in d axes and n cells has an evenness of 1 / (1 + d / n)
    evenness = (
        float(np.trace(covariance)) ** 2 / max(squares, np.finfo(float).tiny) * (1 + len(covariance) / len(taken))
    )
    return squares > 0 and evenness < _EVENNESS_OF_NOISE
