"""ggml-ot on one cohort, in its own environment.

Usage: ``python -m benchmarks.patients._ggmlot IN.npz OUT.npz [CACHE]``.

IN: cells ``x`` (n, d), ``sample`` (n,) 0..P-1, ``condition`` (P,), ``k`` components, ``fold`` (P,) left out together.
OUT: ``distance`` (P, P) of each patient to those outside its fold, under the metric trained on these; seconds.
CACHE: folder that keeps each fold's result, so that a run that was stopped goes on, and a second one is free.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path

import anndata as ad
import ggml_ot
import numpy as np
import pandas as pd
from ggml_ot.distances import compute_OT

N_THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))


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


def leave_out(
    dataset: ggml_ot.data.TripletDataset, fold: np.ndarray, cache: Path | None, key: bytes
) -> tuple[np.ndarray, float, float]:
    """(P, P) distances to the patients outside one's fold; mean seconds of a training and of a fold's distances."""
    out, spent = np.full((len(fold), len(fold)), np.inf), np.zeros(2)
    for number in range(fold.max() + 1):
        rest, left = (np.flatnonzero(mask) for mask in (fold != number, fold == number))
        name = hashlib.sha256(key + rest.tobytes()).hexdigest()[:20]
        kept = None if cache is None else cache / f"{name}.npz"
        if kept is not None and kept.exists():
            with np.load(kept) as data:
                found, seconds = data["distance"], data["seconds"]
        else:
            found, seconds = one_fold(dataset, rest, left)
            if kept is not None:
                np.savez(kept, distance=found, seconds=seconds)
        out[np.ix_(left, rest)] = found
        spent += seconds
        print(f"fold {number + 1} of {fold.max() + 1}: {seconds[0]:.1f} s", file=sys.stderr, flush=True)
    return out, *(spent / (fold.max() + 1))


def one_fold(dataset: ggml_ot.data.TripletDataset, rest: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (left, rest) under the metric of the rest; seconds of the training and of the distances."""
    start = time.perf_counter()
    metric = train(dataset._subset(rest))
    middle = time.perf_counter()
    pairs = np.column_stack([np.repeat(left, len(rest)), np.tile(rest, len(left))])
    found = distances(dataset, metric, pairs).reshape(len(left), len(rest))
    return found, np.array([middle - start, time.perf_counter() - middle])


def main(source: str, target: str, cache: str | None = None) -> None:
    """Fit, and train without each fold, or once with all where no patient is in a fold (-1)."""
    warnings.simplefilter("ignore")
    ggml_ot.settings.n_threads = N_THREADS
    ggml_ot.settings.verbose = False
    with np.load(source) as data:
        x, sample, condition, k, fold = (data[key] for key in ("x", "sample", "condition", "k", "fold"))
    seconds = {}
    folder = None if cache is None else Path(cache)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    parts = (x, sample, condition, np.array(int(k)))
    key = b"".join([metadata.version("ggml-ot").encode(), *(np.ascontiguousarray(part).tobytes() for part in parts)])
    with contextlib.redirect_stdout(io.StringIO()):
        start, begun = time.perf_counter(), time.process_time()
        dataset = fit(x, sample, condition, int(k))
        seconds["fit_s"] = time.perf_counter() - start
        if fold.max() >= 0:
            found, seconds["train_s"], seconds["distance_s"] = leave_out(dataset, fold, folder, key)
        else:
            start = time.perf_counter()
            metric = train(dataset)
            middle = time.perf_counter()
            seconds["cpu_s"] = time.process_time() - begun
            found = distances(dataset, metric, np.column_stack(np.triu_indices(len(condition), 1)))
            seconds |= {"train_s": middle - start, "distance_s": time.perf_counter() - middle}
    np.savez(target, distance=found, **seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
