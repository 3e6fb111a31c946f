"""Batch integration of seven real data sets, side by side.

Usage: ``python -m benchmarks.integration.batches [--datasets ...] [--runs FOLDER]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from benchmarks.common._data import BATCH_FILES, load_cells
from benchmarks.common._measure import Measure, measure
from benchmarks.common._methods import METHODS, inputs
from benchmarks.common._scores import cilisi, kept_within_batches, kmeans_from_ten_starts, scib
from benchmarks.common._tables import report, setting, table, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common._data import Cells
    from numpy.typing import NDArray

MAIN = {
    "Total": "total",
    "Total10": "total, 10 starts",
    "Bio conservation": "bio",
    "Batch correction": "batch",
    "Isolated labels": "isolated",
    "Kept": "kept",
    "ciLISI": "ciLISI",
}
COST = {"seconds": "seconds", "MB": "peak MB"}
NOTE = """\
All methods at their defaults, each in a fresh process of two threads. ComBat, Harmony, scBIOT and muport see the same
PCA; Scanorama and CONCORD the log values of its features; scVI and scANVI their counts (pancreas_wang_xin, hsc and asap
have no RNA counts: no row). harmony1: harmonypy 0.0.10, the algorithm of 2019; harmony: harmonypy 2. **scANVI sees the
labels that it is scored with**, so its row is no comparison. Scores: scib-metrics' `Benchmarker`
(`min_max_scale=False`, its own 15, 50 and 90 neighbours for every embedding); total = .6 bio + .4 batch. Kept: mean
share of the 30 nearest cells of the same batch that are still so. ciLISI: iLISI among the cells of the same type, mean
over cells. Seconds: the method's call on values in memory, after a first call on 600 random cells. Peak MB: resident
memory above that after import and first call, the input included. **The seconds of scVI, scANVI, CONCORD and scBIOT
were taken beside other work on the two cores and are too large; the others were taken alone.** A known shift of each
method: see its own page.

scib-metrics starts k-means once, and a single start can end far from the best clusters: two methods lose a quarter of
the NMI on mesc in this way. "Total, 10 starts" is the total with the NMI and ARI of the tightest of ten clusterings,
for all methods alike."""


def run(method: str, cells: Cells, folder: Path | None) -> Measure:
    """Run a method, or read what an earlier run left in `folder`."""
    file = None if folder is None else folder / f"{cells.name}-{method}.npz"
    if file is not None and file.exists():
        with np.load(file) as stored:
            return Measure(**{key: value.item() if value.ndim == 0 else value for key, value in stored.items()})
    done = measure(method, cells)
    if file is not None and not done.error:
        np.savez(file, **vars(done))
    return done


def score(name: str, methods: Sequence[str], folder: Path | None) -> tuple[pd.DataFrame, list[Measure]]:
    """Scores and cost of every method on one data set; a method that failed has no row of scores."""
    cells = load_cells(name, features=True)
    methods = [method for method in methods if all(getattr(cells, key) is not None for key in inputs(method))]
    runs = [run(method, cells, folder) for method in methods]
    embeddings = {run.method: run.Z for run in runs if run.Z is not None and np.isfinite(run.Z).all()}
    scores = _scores(cells, embeddings, folder).reindex(list(methods))
    scores["seconds"] = [run.seconds for run in runs]
    scores["MB"] = [run.peak / 1e6 for run in runs]
    print(name, cells.X.shape, scores["Total"].round(3).to_dict(), flush=True)
    return scores, runs


def _scores(cells: Cells, embeddings: dict[str, NDArray[np.float32]], folder: Path | None) -> pd.DataFrame:
    """All scores of the embeddings; scib-metrics takes minutes, so its scores are kept beside the runs."""
    file = None if folder is None else folder / f"{cells.name}-scores.csv"
    if file is not None and file.exists():
        scores = pd.read_csv(file, index_col=0).reindex(list(embeddings))
    else:
        scores = scib(cells, embeddings)
        scores["Kept"] = pd.Series({method: kept_within_batches(cells, Z) for method, Z in embeddings.items()})
        scores["ciLISI"] = pd.Series({method: cilisi(cells, Z) for method, Z in embeddings.items()})
        if file is not None:
            scores.to_csv(file)
    ten = {method: kmeans_from_ten_starts(cells, Z) for method, Z in embeddings.items()}
    gain = pd.Series({method: sum(both) for method, both in ten.items()}) - scores["KMeans NMI"] - scores["KMeans ARI"]
    return scores.assign(Total10=scores["Total"] + 0.6 * gain / 5)


def verdicts(scores: pd.DataFrame) -> list[str]:
    """The targets; ``scores`` has an index (data set, method)."""
    mean = scores.groupby(level="method").mean()

    def over(method: str, key: str) -> float:
        return float(mean[key].get("muport", np.nan) - mean[key].get(method, np.nan))

    def worst(method: str, key: str) -> tuple[str, float]:
        wide = scores[key].unstack("method").reindex(columns=list(METHODS))
        gap = wide["muport"] - wide[method]
        return str(gap.idxmin()) if gap.notna().any() else "no set", float(gap.min(skipna=False))

    (near_input, bio) = worst("unintegrated", "Bio conservation")
    margins = {method: worst(method, "Total") for method in ("harmony", "harmony1", "combat")}
    return [
        verdict("mean total", float(mean["Total"].get("muport", np.nan)), 0.70),
        verdict("mean share of neighbours kept within batches", float(mean["Kept"].get("muport", np.nan)), 0.94),
        verdict("mean total over Harmony's", over("harmony", "Total"), 0.10),
        verdict("mean total over scBIOT's", over("scbiot", "Total"), 0.15),
        verdict("mean isolated labels over unintegrated", over("unintegrated", "Isolated labels"), -0.03),
        *(
            verdict(f"smallest margin over the total of {method}, on {name}", margin, -0.01)
            for method, (name, margin) in margins.items()
        ),
        verdict(f"smallest margin over the input's bio conservation, on {near_input}", bio, -0.005),
    ]


def per_dataset(scores: pd.DataFrame, columns: dict[str, str], digits: int = 3) -> str:
    """One row per data set and method."""
    rows = [[*key, *(float(row[c]) for c in columns)] for key, row in scores.iterrows()]
    return table(["data set", "method", *columns.values()], rows, digits)


def means(scores: pd.DataFrame) -> str:
    """One row per method: means over the data sets."""
    mean = scores.groupby(level="method").mean().reindex([m for m in METHODS if m in scores.index.unique("method")])
    columns = MAIN | COST
    rows = [[method, *(float(row[c]) for c in columns)] for method, row in mean.iterrows()]
    return table(["method", *columns.values()], rows)


def page(scores: pd.DataFrame, runs: list[Measure]) -> list[str]:
    """The parts of the report."""
    n_sets = scores.groupby(level="method").size()
    everywhere = n_sets.index[n_sets == n_sets.max()]
    common = scores.groupby(level="data set").size()
    counted = common.index[common == common.max()]
    ten = [c for c in scores.columns if c not in {*MAIN, *COST} or c == "Isolated labels"]
    errors = sorted({f"- {run.method}: {run.error}" for run in runs if run.error})
    versions = sorted({f"{run.method} {run.version}" for run in runs if run.version})
    return [
        NOTE + "\n",
        setting("scib-metrics", "scanpy", "numpy") + f"Methods: {', '.join(versions)}.\n",
        *(["## Failed\n", *errors, ""] if errors else []),
        f"## Targets ({scores.index.unique('data set').size} data sets)\n",
        *verdicts(scores),
        "\n## Mean over data sets, of the methods that run on all\n",
        means(scores[scores.index.isin(everywhere, level="method")]),
        f"## Mean over the data sets of all methods ({', '.join(counted)})\n",
        means(scores[scores.index.isin(counted, level="data set")]),
        "## Each data set\n",
        per_dataset(scores, MAIN | COST),
        "## All ten scores\n",
        per_dataset(scores, {c: c for c in ten}),
    ]


def main() -> None:
    """Run, print, and write the page when nothing was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(BATCH_FILES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--runs", type=Path, help="folder of finished runs, which are not repeated")
    args = parser.parse_args()
    if args.runs is not None:
        args.runs.mkdir(parents=True, exist_ok=True)
    found = {name: score(name, args.methods, args.runs) for name in args.datasets}
    scores = pd.concat({name: frame for name, (frame, _) in found.items()}, names=["data set", "method"])
    runs = [run for _, several in found.values() for run in several]
    whole = set(args.datasets) == set(BATCH_FILES) and set(args.methods) == set(METHODS)
    report("integration", "Batch integration of real cells", page(scores, runs), write=whole)


if __name__ == "__main__":
    main()
