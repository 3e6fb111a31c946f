"""ggml-ot on one cohort, in its own environment: ``python -m benchmarks._ggmlot IN.npz OUT.npz``.

IN: cells ``x`` (n, d), ``sample`` (n,) 0..P-1, ``condition`` (P,), ``k`` components, ``fold`` (P,) left out together.
OUT: ``distance`` (P, P) of each patient to those outside its fold, under the metric trained on these; seconds.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings

import anndata as ad
import ggml_ot
import numpy as np
import pandas as pd
from ggml_ot.distances import compute_OT

N_THREADS = 2


def fit(x: np.ndarray, sample: np.ndarray, condition: np.ndarray, k: int) -> ggml_ot.data.AnnData_TripletDataset:
    """A mixture for each patient from all of its cells; no label is used, no patient sees another."""
    names = np.char.mod("P%03d", sample)
    obs = pd.DataFrame(
        {"sample": pd.Categorical(names), "condition": pd.Categorical(np.char.mod("C%d", condition[sample]))},
        index=np.arange(len(x)).astype(str),
    )
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obs=obs, obsm={"X_pca": x})
    found = ggml_ot.from_anndata(
        adata, patient_col="sample", label_col="condition", n_cells=int(np.bincount(sample).min()), use_rep="X_pca"
    )
    return found.fit_gmm(k_comps=k, verbose=False)


def train(dataset: ggml_ot.data.TripletDataset) -> np.ndarray:
    """Its metric at its defaults: 5 axes, 30 epochs of triplets on exact transport."""
    return ggml_ot.train_gmm(dataset, plot_iter=0)[0]


def distances(dataset: ggml_ot.data.TripletDataset, metric: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Transport between the pairs' mixtures (m,)."""
    found = compute_OT(dataset.supports, dataset.covariances, dataset.weights, ground_metric=metric, pairs=pairs)
    return np.asarray(found, dtype=float)


def leave_out(dataset: ggml_ot.data.TripletDataset, fold: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(P, P) distances to the patients outside one's fold; mean seconds of a training and of a fold's distances."""
    out, spent = np.full((len(fold), len(fold)), np.inf), np.zeros(2)
    for number in range(fold.max() + 1):
        rest, left = (np.flatnonzero(mask) for mask in (fold != number, fold == number))
        start = time.perf_counter()
        metric = train(dataset._subset(rest))
        middle = time.perf_counter()
        pairs = np.column_stack([np.repeat(left, len(rest)), np.tile(rest, len(left))])
        out[tuple(pairs.T)] = distances(dataset, metric, pairs)
        spent += middle - start, time.perf_counter() - middle
        print(f"fold {number + 1} of {fold.max() + 1}: {middle - start:.1f} s", file=sys.stderr, flush=True)
    return out, *(spent / (fold.max() + 1))


def main(source: str, target: str) -> None:
    """Fit, and train without each fold, or once with all where no patient is in a fold (-1)."""
    warnings.simplefilter("ignore")
    ggml_ot.settings.n_threads = N_THREADS
    ggml_ot.settings.verbose = False
    with np.load(source) as data:
        x, sample, condition, k, fold = (data[key] for key in ("x", "sample", "condition", "k", "fold"))
    seconds = {}
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        dataset = fit(x, sample, condition, int(k))
        seconds["fit_s"] = time.perf_counter() - start
        if fold.max() >= 0:
            found, seconds["train_s"], seconds["distance_s"] = leave_out(dataset, fold)
        else:
            start = time.perf_counter()
            metric = train(dataset)
            middle = time.perf_counter()
            found = distances(dataset, metric, np.column_stack(np.triu_indices(len(condition), 1)))
            seconds |= {"train_s": middle - start, "distance_s": time.perf_counter() - middle}
    np.savez(target, distance=found, **seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
