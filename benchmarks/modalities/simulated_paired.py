"""Simulated paired cells: twelve types in three lineages, of which the second modality sees all, coarse ones or others.

Usage: ``python -m benchmarks.modalities.simulated_paired [--seeds ...] [--cells ...]``; prints a table, writes no page.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._tables import table
from benchmarks.modalities._unpaired import clr, log_norm, zscore
from benchmarks.modalities.paired import cluster_scores, graph
from sklearn.decomposition import PCA

from muport.integration.spaces._joint_space import embed_cells, fit_joint_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = (
    "all types",
    "weak second",
    "noise second",
    "types of their own",
    "variation of the second",
    "variation of the first",
    "variation of both",
    "proteins",
    "rare types",
    "continuous",
    "coarse second",
    "coarse second with variation",
    "few counts",
)
N_TYPES, N_STATES, N_AXES = 12, 14, 30
LEVELS = ((3, 0.8), (6, 0.7), (12, 0.55))
COUNTS = {"coarse second": (200, 200), "coarse second with variation": (200, 200), "few counts": (160, 160)}
SECOND_COUNTS = {"weak second": 120, "proteins": 900}


def simulated(kind: str, n_cells: int, seed: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Representations of two modalities, and the types of the cells.

    Counts are Poisson, with an exponential of features that are linear in the state of the cell, depths and noise of
    features. A state lies near the center of its type. Variation of a modality is three further dimensions that are in
    this modality only.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    proportion = rng.dirichlet(np.full(N_TYPES, 4.0))
    if kind == "rare types":
        proportion[-3:] *= 0.1
    types = rng.choice(N_TYPES, n_cells, p=proportion / proportion.sum())
    parts = [w * rng.normal(size=(size, N_STATES))[np.arange(N_TYPES) * size // N_TYPES] for size, w in LEVELS]
    own = np.linspace(0.8, 0.2, N_STATES) * rng.normal(size=(n_cells, N_STATES))
    if kind == "continuous":
        own += 1.5 * rng.normal(size=(n_cells, 1)) * rng.normal(size=N_STATES) / np.sqrt(N_STATES)
    states = [sum(parts)[types] + own] * 2
    if kind == "types of their own":
        seen = (np.arange(N_TYPES) // 3, np.array([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]))
        states = [rng.normal(size=(6, N_STATES))[of_type[types]] + own for of_type in seen]
    elif kind == "proteins":
        states[1] = sum(parts)[np.array([0, 0, 1, 2, 3, 4, 4, 7, 8, 8, 8, 11])[types]] + 0.7 * own
    elif kind.startswith("coarse second"):
        states[1] = (parts[0] + parts[1])[types] + 0.5 * own
    elif kind == "noise second":
        states[1] = np.zeros_like(own)
    varied = {
        "variation of the first": (0.35, 0),
        "variation of the second": (0, 0.45),
        "variation of both": (0.35, 0.45),
        "coarse second with variation": (0, 0.45),
        "noise second": (0, 0.3 * (seed % 2)),
    }.get(kind, (0, 0))
    depth = (rng.lognormal(0, 0.35, n_cells), rng.lognormal(0, 0.5, n_cells))
    total = COUNTS.get(kind, (450, SECOND_COUNTS.get(kind, 400)))
    counts = []
    for m, n_features in enumerate((600, 40 if kind == "proteins" else 1500)):
        weights = 0.45 * rng.normal(size=(N_STATES, n_features)) * (rng.random(n_features) < 0.4)
        private = rng.normal(size=(n_cells, 3)) @ (varied[m] * rng.normal(size=(3, n_features)))
        rate = np.exp(states[m] @ weights + private + rng.normal(size=n_features))
        rate *= (depth[m] * total[m] * rng.uniform(0.6, 1.6))[:, None] / rate.sum(axis=1, keepdims=True)
        counts.append(rng.poisson(rate).astype(np.float32))
    first = zscore(log_norm(counts[0][:, counts[0].any(axis=0)]))
    second = clr(counts[1]) if kind == "proteins" else _tf_idf(counts[1][:, counts[1].any(axis=0)])
    rna = PCA(N_AXES, random_state=0).fit_transform(first)
    if kind == "proteins":
        other = PCA(N_AXES, random_state=0).fit_transform(second)
    else:
        u, size, _ = np.linalg.svd(second, full_matrices=False)
        other = u[:, 1 : N_AXES + 1] * size[1 : N_AXES + 1]
    return {"first": rna.astype(np.float32), "second": other.astype(np.float32)}, types


def _tf_idf(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log TF-IDF of features that are in a cell or not."""
    present = counts > 0
    frequency = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.log1p(1e4 * frequency * len(counts) / present.sum(axis=0) / counts.shape[1])


def spaces(x: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The joint space, the modalities alone, and both side by side with the same total variance."""
    n = len(x["first"])
    cells = dict.fromkeys(x, np.arange(n))
    joint = embed_cells(fit_joint_space(x, cells, np.zeros(n, np.int64)), x, cells, n).z
    side_by_side = [(v - v.mean(axis=0)) / np.linalg.norm(v.std(axis=0)) for v in x.values()]
    return {"muport": joint, "first": x["first"], "second": x["second"], "side by side": np.hstack(side_by_side)}


def main() -> None:
    """Print the scores of each setting, and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[30, 31])
    parser.add_argument("--cells", nargs="+", type=int, default=[600])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    scores: dict[tuple[str, str], list[list[float]]] = {}
    for kind in args.kinds:
        for n_cells in args.cells:
            for seed in args.seeds:
                x, types = simulated(kind, n_cells, seed)
                for method, z in spaces(x).items():
                    found = cluster_scores(graph(z), types.astype(str))
                    for where in (kind, "all settings"):
                        scores.setdefault((where, method), []).append([found[2], found[4]])
        print(kind, flush=True)
    rows = [[*key, *np.mean(of, axis=0).tolist()] for key, of in scores.items()]
    print(table(["setting", "method", "NMI and ARI", "purity"], rows))


if __name__ == "__main__":
    main()
