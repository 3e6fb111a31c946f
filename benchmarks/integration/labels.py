"""Integration with labels for some cells, beside scANVI.

Usage: ``python -m benchmarks.integration.labels [--datasets ..] [--cache ..]``.

scANVI's latent spaces are kept in ``--cache``: they take minutes to hours, and are those of the same masks. With
``--no-training`` it is scored where its latent space is there.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from benchmarks.common._data import BATCH_FILES, KIND, load_cells
from benchmarks.common._methods import _adata
from benchmarks.common._scores import accuracies, scib
from benchmarks.common._tables import report, setting, table, verdict

from muport.metrics import knn_labels

if TYPE_CHECKING:
    from benchmarks.common._data import Cells
    from numpy.typing import NDArray

UNKNOWN = "unknown"
MODES = ("half", "one batch", "tenth")
WRONG = {"half, a tenth of them wrong": 0.1, "half, permuted": 1.0}
COLUMNS = ["total", "bio", "batch", "total, hidden cells", "accuracy", "balanced"]
STEPS, EPOCHS = 5_000, 200  # most steps of scVI's training, and most epochs of it
NOTE = f"""Half: labels of a random half of the cells are known; one batch: those of the largest batch; tenth: of a
random tenth.
Scores as in the page of batch integration, over all cells; so half of the labels that score were seen, by every
method but those without labels. "Hidden cells": the same score on the cells alone whose labels no method saw, when
they are half. Accuracy and balanced accuracy: vote of the 15 nearest labelled cells for the hidden ones. scANVI: from
scVI (2 layers, 30 latent dimensions, at most {EPOCHS} epochs or {STEPS} steps of 128 cells), then 20 epochs; 2,000
highly variable features; zero-inflated counts, or a normal likelihood where the data are logs."""


def known(cells: Cells, mode: str, seed: int = 0) -> NDArray[np.bool_]:
    """Cells whose label is given."""
    if mode == "one batch":
        names, count = np.unique(cells.batch, return_counts=True)
        return cells.batch == names[count.argmax()]
    n = len(cells.X)
    out = np.zeros(n, bool)
    out[np.random.default_rng(seed).permutation(n)[: n // (10 if mode == "tenth" else 2)]] = True
    return out


def given(cells: Cells, mode: str, seed: int = 1) -> NDArray[np.str_]:
    """Labels as a method sees them; in the last two modes some are those of other cells."""
    rows, label = known(cells, mode), cells.label.astype(object)
    rng = np.random.default_rng(seed)
    mixed = np.flatnonzero(rows)
    if WRONG.get(mode) == 1:
        label[mixed] = label[rng.permutation(mixed)]
    elif mode in WRONG:
        types = np.unique(cells.label)
        mixed = rng.choice(mixed, round(WRONG[mode] * len(mixed)), replace=False)
        step = 1 + rng.integers(len(types) - 1, size=len(mixed))
        label[mixed] = types[(np.searchsorted(types, cells.label[mixed]) + step) % len(types)]
    label[~rows] = UNKNOWN
    return label.astype(str)


def muport(cells: Cells, label: NDArray[np.str_] | None) -> NDArray[np.float32]:
    """Our ``Integration``, with labels or without."""
    from muport.integration import Integration

    adata = _adata(cells.X, cells.batch)
    if label is not None:
        adata.obs["label"] = pd.Categorical(label)
    Integration.setup_anndata(
        adata, "X_pca", "batch", labels_key=None if label is None else "label", unlabeled_category=UNKNOWN
    )
    model = Integration(adata)
    model.train(progress=False)
    return model.get_latent_representation()


def scanvi(name: str, cells: Cells, labels: dict[str, NDArray[np.str_]], cache: Path) -> dict[str, NDArray[np.float32]]:
    """scVI ("scVI") and scANVI of every mode; read where they are in the cache."""
    path = _kept(name, cache)
    if path.exists():
        with np.load(path) as kept:
            return {key: kept[key] for key in kept.files}
    found = _scanvi(name, cells, labels)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def _kept(name: str, cache: Path) -> Path:
    return cache / f"scanvi_{name}.npz"


def _scanvi(name: str, cells: Cells, labels: dict[str, NDArray[np.str_]]) -> dict[str, NDArray[np.float32]]:
    import scanpy as sc
    import scvi

    from muport import datasets

    adata = datasets.load(BATCH_FILES[name])
    log = KIND.get(name) == "log"
    if adata.n_vars > 2_000:
        work = adata.copy()
        if not log:
            sc.pp.normalize_total(work)
            sc.pp.log1p(work)
        sc.pp.highly_variable_genes(work, n_top_genes=2_000)
        adata = adata[:, work.var["highly_variable"].to_numpy()].copy()
    adata.obs["b"] = cells.batch
    how = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key="b")
    model = scvi.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="normal" if log else "zinb")
    model.train(max_epochs=min(EPOCHS, max(10, STEPS * 128 // adata.n_obs)), **how)
    out = {"scVI": model.get_latent_representation()}
    for mode, label in labels.items():
        adata.obs["label"] = label
        trained = scvi.model.SCANVI.from_scvi_model(model, UNKNOWN, labels_key="label")
        trained.train(max_epochs=20, **how)
        out[mode] = trained.get_latent_representation()
    return out


def score(name: str, cache: Path | None, train: bool) -> pd.DataFrame:
    """Rows (labels, method) of one data set."""
    cells = load_cells(name)
    labels = {mode: given(cells, mode) for mode in (*MODES, *WRONG)}
    Z = {("none", "muport"): muport(cells, None)}
    Z |= {(mode, "muport"): muport(cells, label) for mode, label in labels.items()}
    if cache is not None and (train or _kept(name, cache).exists()):
        theirs = scanvi(name, cells, {mode: labels[mode] for mode in MODES}, cache)
        Z[("none", "scVI")] = theirs.pop("scVI")
        Z |= {(mode, "scANVI"): z for mode, z in theirs.items()}
    keys = {f"{mode}|{method}": z for (mode, method), z in Z.items()}
    whole = scib(cells, keys)
    rows = {}
    for mode in labels:
        hidden = ~known(cells, mode)
        part = {k: np.ascontiguousarray(z[hidden]) for k, z in keys.items() if k.split("|")[0] in (mode, "none")}
        # one share is enough: these scores are most of the time
        alone = scib(cells.take(hidden), part)["Total"] if mode == "half" else dict.fromkeys(part, np.nan)
        for key in part:
            z, seen = keys[key], ~hidden
            vote = knn_labels(z[seen], cells.label[seen], query=z[hidden])
            right = accuracies(cells.label[hidden], vote, np.isin(cells.label[hidden], cells.label[seen]))
            first = whole.loc[key, ["Total", "Bio conservation", "Batch correction"]]
            what = key.split("|")
            rows[mode, f"{what[1]}, no labels" if what[0] == "none" else what[1]] = [*first, alone[key], *right]
    out = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
    out.index = pd.MultiIndex.from_tuples(out.index, names=["labels", "method"])
    print(name, out.round(3).to_string(), sep="\n", flush=True)
    return out


def verdicts(mean: pd.DataFrame) -> list[str]:
    """The targets, on the means over data sets."""

    def gain(mode: str, column: str = "total") -> float:
        return float(mean.loc[(mode, "muport"), column] - mean.loc[(mode, "muport, no labels"), column])

    lines = [verdict("labels for half the cells, gain in total", gain("half"), 0.03)]
    lines.append(verdict("the same on the cells with hidden labels", gain("half", "total, hidden cells"), 0.03))
    share = gain("half, a tenth of them wrong") / gain("half")
    lines.append(verdict("share of the gain that is left with a tenth wrong", share, 0.8))
    lines.append(verdict("permuted labels, gain in total", gain("half, permuted"), -0.01))
    return lines


def _mean(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.groupby(level=["labels", "method"], sort=False).mean()


def main() -> None:
    """Run, print, and write the page when nothing was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(BATCH_FILES))
    parser.add_argument("--cache", type=Path, help="folder of scANVI's latent spaces; without it scANVI is left out")
    parser.add_argument("--no-training", action="store_true", help="leave scANVI out where the cache has it not")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {name: score(name, args.cache, not args.no_training) for name in args.datasets}
    scores = pd.concat(found, names=["data set"])
    trained = [name for name in args.datasets if "scANVI" in found[name].index.get_level_values("method")]
    ours = scores[scores.index.get_level_values("method").str.startswith("muport")]
    mean = _mean(ours)
    parts = [
        NOTE + "\n",
        setting("scib-metrics", "scvi-tools", "numpy"),
        f"## Targets ({len(args.datasets)} data sets)\n",
        *verdicts(mean),
        "\n## Mean over data sets\n",
        table(["labels", "method", *COLUMNS], [[*key, *map(float, row)] for key, row in mean.iterrows()]),
        f"## Mean over the data sets on which scANVI was trained ({', '.join(trained) or 'none'})\n",
        table(["labels", "method", *COLUMNS], [[*k, *map(float, r)] for k, r in _mean(scores.loc[trained]).iterrows()]),
        "## Each data set\n",
        table(["data set", "labels", "method", *COLUMNS], [[*k, *map(float, r)] for k, r in scores.iterrows()]),
    ]
    report("labels", "Integration with labels for some cells", parts, write=set(args.datasets) == set(BATCH_FILES))


if __name__ == "__main__":
    main()
