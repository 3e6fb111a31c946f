"""Patients told apart by condition: ``python -m benchmarks.cohort [--parts ..] [--datasets ..] [--without-ggmlot]``."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._measure import N_THREADS, POOLS, ROOT
from benchmarks._tables import cell, report, setting, table, verdict
from benchmarks._worker import peak_bytes, reset_peak
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from muport import datasets
from muport.gmm._distance import mw2
from muport.gmm._em import fit_mixtures
from muport.gmm._predict import classify
from muport.gmm._prior import pooled_prior

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GGMLOT = ROOT / ".venv-ggmlot"
CACHE = ROOT / ".cache" / "ggmlot"  # its folds, which take minutes each
N_BOOTSTRAP, N_PERMUTATIONS, N_NEIGHBORS = 2000, 5, 5
NOTE = f"""\
Leave one patient out (kang: one donor, both of its samples); everything that learns is refitted without it, the shared
PCA apart, which sees no label. muport.GMM: its defaults, `predict(soft=True)`. ggml-ot: mixtures of k components (it
has no default that runs), its default training, its own classifier: the {N_NEIGHBORS} nearest training patients vote (3
in kang, of 4); the share of votes is the score. Euclidean MW2: our mixtures of k components under no learnt metric,
with the same vote, or classified as muport.GMM does (ridge). Pseudobulk: logistic regression on the patients' mean
coordinates, standardised. Intervals: 95 % of {N_BOOTSTRAP} bootstraps of patients within conditions. Scores of left-out
patients are pooled, which biases AUROC downwards where scores follow the share of a condition among the rest.
"""


@dataclass(frozen=True)
class Cohort:
    """Cells ``x`` (n, d) of ``sample`` (n,) 0..P-1; ``condition`` and ``fold`` (P,); ``k`` for methods to be told."""

    name: str
    x: NDArray[np.float32]
    sample: NDArray[np.int64]
    condition: NDArray[np.int64]
    fold: NDArray[np.int64]
    k: int

    def adata(self, rows: NDArray[np.int64]) -> ad.AnnData:
        """The cells of some samples."""
        keep = np.isin(self.sample, rows)
        code = self.sample[keep]
        obs = {"sample": np.char.mod("S%03d", code), "condition": np.char.mod("C%d", self.condition[code])}
        index = np.flatnonzero(keep).astype(str)
        empty = np.zeros((keep.sum(), 1), np.float32)
        return ad.AnnData(empty, obs=pd.DataFrame(obs, index=index, dtype="category"), obsm={"X_pca": self.x[keep]})


def cohort(name: str, adata: ad.AnnData, sample: str, condition: pd.Series, fold: str, k: int, n_dims: int) -> Cohort:
    """From columns of ``obs``; the condition that sorts last is 1."""
    code, names = pd.factorize(adata.obs[sample].astype(str), sort=True)
    first = pd.Series(np.arange(len(code))).groupby(code).first().to_numpy()
    label = pd.factorize(condition.astype(str), sort=True)[0][first]
    left = pd.factorize(adata.obs[fold].astype(str), sort=True)[0][first]
    x = np.ascontiguousarray(adata.obsm["X_pca"][:, :n_dims], dtype=np.float32)
    print(f"{name}: {len(names)} samples, {np.bincount(label)} by condition, {np.bincount(code).min()} cells or more")
    return Cohort(name, x, code, label, left, k)


def simulated(name: str, **effects: float) -> Cohort:
    """20 patients x 500 cells x 30 dimensions; case sorts before control."""
    adata = datasets.simulated_cohort(**effects)
    return cohort(name, adata, "sample", adata.obs["condition"], "sample", 8, 30)


def covid() -> Cohort:
    """Healthy against COVID-19 of any severity."""
    adata = datasets.load("covid_gloscope_20samples_pcs")
    return cohort("covid", adata, "sample", adata.obs["group"] != "Healthy", "patient", 8, 50)


def melanoma() -> Cohort:
    """Responders against non-responders before therapy; some 29 cells a patient."""
    adata = datasets.load("melanoma_scfeatures_550")
    return cohort("melanoma", adata, "patient", adata.obs["condition"], "patient", 3, 20)


def kang() -> Cohort:
    """Control against stimulated samples of three donors."""
    adata = datasets.load("kang_distinct_3donor")
    return cohort("kang", adata, "sample_id", adata.obs["condition"], "donor", 8, 30)


def grouped(one: Cohort, n_folds: int) -> Cohort:
    """The same cohort with its folds joined to `n_folds`, the conditions spread evenly; fewer stay as they are."""
    if not 0 < n_folds < one.fold.max() + 1:
        return one
    fold = np.empty(len(one.fold), np.int64)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    for number, (_, left) in enumerate(split.split(one.fold, one.condition, one.fold)):
        fold[left] = number
    return replace(one, fold=fold)


COHORTS: dict[str, Callable[[], Cohort]] = {
    "simulated state": lambda: simulated("simulated state"),
    "simulated shares": lambda: simulated("simulated shares", state_effect=0.0, composition_effect=1.5),
    "covid": covid,
    "melanoma": melanoma,
    "kang": kang,
}


def over_folds(one: Cohort, predict: Callable[[Cohort, NDArray[np.int64], NDArray[np.int64]], NDArray]) -> NDArray:
    """(P,) probability of condition 1, each fold's from the rest."""
    out = np.empty(len(one.condition))
    for number in range(one.fold.max() + 1):
        left = np.flatnonzero(one.fold == number)
        out[left] = predict(one, np.flatnonzero(one.fold != number), left)
    return out


def muport_gmm(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Our model as a user calls it."""
    from muport import GMM

    known, new = one.adata(train), one.adata(test)
    del new.obs["condition"]
    GMM.setup_anndata(known, use_rep="X_pca", sample_key="sample", labels_key="condition")
    model = GMM(known)
    model.train(progress=False, random_state=0)
    return model.predict(new, soft=True).loc[[f"S{i:03d}" for i in test], "C1"].to_numpy()


def euclidean(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64], vote: bool) -> NDArray[np.float64]:
    """Mixture Wasserstein distances under no learnt metric; the prior comes from the training patients."""
    keep = np.isin(one.sample, train)
    prior = pooled_prior(one.x[keep], np.searchsorted(train, one.sample[keep]), [one.k])[one.k]
    mixtures = fit_mixtures(one.x, one.sample, one.k, prior=prior).mixtures
    between, new = mw2(mixtures.subset(train)), mw2(mixtures.subset(test), mixtures.subset(train))
    if vote:
        return votes(new, one.condition[train])
    return classify(between, one.condition[train], new)[:, 1]


def votes(distance: NDArray[np.float64], condition: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of condition 1 among the nearest training patients; infinitely far ones are none."""
    out = np.empty(len(distance))
    for i, row in enumerate(distance):
        least = int(np.bincount(condition[np.isfinite(row)]).min())
        # as many as are left of both conditions would always tie
        out[i] = condition[np.argsort(row, kind="stable")[: min(N_NEIGHBORS, 2 * least - 1)]].mean()
    return out


def pseudobulk(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logistic regression on the patients' means."""
    size = np.bincount(one.sample)[:, None]
    mean = np.stack([np.bincount(one.sample, column) for column in one.x.T], axis=1) / size
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return model.fit(mean[train], one.condition[train]).predict_proba(mean[test])[:, 1]


def ggmlot(one: Cohort, fold: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Distances and seconds of ggml-ot, from its own environment (built at its first use)."""
    python = GGMLOT / "bin" / "python"
    if not python.exists():
        subprocess.run([ROOT / "benchmarks" / "ggmlot_env.sh", GGMLOT], check=True)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, x=one.x, sample=one.sample, condition=one.condition, k=one.k, fold=fold)
        env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
        command = [python, "-W", "ignore", "-m", "benchmarks._ggmlot", source, target, CACHE]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        with np.load(target) as out:
            return dict(out)


METHODS: dict[str, Callable[[Cohort], NDArray[np.float64]]] = {
    "muport.GMM": lambda one: over_folds(one, muport_gmm),
    "ggml-ot": lambda one: votes(ggmlot(one, one.fold)["distance"], one.condition),
    "Euclidean MW2, vote": lambda one: over_folds(one, lambda *rest: euclidean(*rest, vote=True)),
    "Euclidean MW2, ridge": lambda one: over_folds(one, lambda *rest: euclidean(*rest, vote=False)),
    "pseudobulk": lambda one: over_folds(one, pseudobulk),
}


def scores(condition: NDArray[np.int64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Balanced accuracy and AUROC."""
    return np.array([balanced_accuracy_score(condition, p > 0.5), roc_auc_score(condition, p)])


def bootstrap(condition: NDArray[np.int64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 2) scores of patients redrawn within conditions; the same draws for every method."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(condition == c) for c in range(2)]
    draws = (np.concatenate([rng.choice(part, len(part)) for part in members]) for _ in range(N_BOOTSTRAP))
    return np.array([scores(condition[rows], p[rows]) for rows in draws])


def interval(values: NDArray[np.float64]) -> str:
    """The middle 95 %."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return f"{cell(float(low), 2)} to {cell(float(high), 2)}"


def accuracy(names: list[str], methods: list[str]) -> tuple[list[list[object]], list[str]]:
    """Rows of the table, and the verdicts of our model against each other method."""
    rows, found = [], {}
    for name in names:
        one = COHORTS[name]()
        for method in methods:
            start = time.perf_counter()
            p = METHODS[method](one)
            seconds = time.perf_counter() - start
            drawn, value = bootstrap(one.condition, p), scores(one.condition, p)
            found[name, method] = value, drawn
            rows.append([name, method, value[0], interval(drawn[:, 0]), value[1], interval(drawn[:, 1]), seconds])
            print(*rows[-1], flush=True)
    return rows, judge(names, methods, found)


def judge(names: list[str], methods: list[str], found: dict) -> list[str]:
    """Ours against ggml-ot within the interval of the difference, and against every method on the mean."""
    lines = []
    for i, score in enumerate(("balanced accuracy", "AUROC")):
        if "ggml-ot" in methods:
            for name in names:
                (ours, a), (theirs, b) = found[name, "muport.GMM"], found[name, "ggml-ot"]
                most = float(np.percentile(a[:, i] - b[:, i], 97.5))
                text = (
                    f"{name}, {score}: {ours[i]:.3f}, ggml-ot {theirs[i]:.3f}; upper end of the difference's interval"
                )
                lines.append(verdict(text, most, 0.0))
        mean = {method: float(np.mean([found[name, method][0][i] for name in names])) for method in methods}
        best = max((m for m in methods if m != "muport.GMM"), key=lambda m: mean[m])
        lines.append(verdict(f"mean {score}, the best other method ({best})", mean["muport.GMM"], mean[best]))
    return lines


def permuted(names: list[str]) -> list[list[object]]:
    """Our model where conditions are dealt anew: mean and range of the scores."""
    rows = []
    for name in names:
        one = COHORTS[name]()
        drawn = []
        for seed in range(N_PERMUTATIONS):
            dealt = replace(one, condition=np.random.default_rng(seed).permutation(one.condition))
            drawn.append(scores(dealt.condition, METHODS["muport.GMM"](dealt)))
        mean, low, high = (f(drawn, axis=0) for f in (np.mean, np.min, np.max))
        spans = [f"{low[i]:.2f} to {high[i]:.2f}" for i in range(2)]
        rows.append([name, float(mean[0]), spans[0], float(mean[1]), spans[1]])
        print(*rows[-1], flush=True)
    return rows


def timed(call: Callable[[], object], repeats: int = 3) -> float:
    """The least seconds of a few calls: what the machine can do when nothing else runs."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)


def whole(one: Cohort) -> None:
    """Mixtures of k components and the metric."""
    from muport import GMM

    adata = one.adata(np.arange(len(one.condition)))
    GMM.setup_anndata(adata, use_rep="X_pca", sample_key="sample", labels_key="condition")
    model = GMM(adata)
    model.fit_gmm(k_comps=one.k, verbose=False)
    model.train_gmm()


def sklearn_loop(x: NDArray[np.float32], sample: NDArray[np.int64], k: int) -> None:
    """One scikit-learn mixture after another."""
    for i in range(sample.max() + 1):
        model = GaussianMixture(k, tol=1e-3, max_iter=100, reg_covar=1e-4, init_params="k-means++", random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x[sample == i])


def speed(with_ggmlot: bool) -> tuple[list[list[object]], list[str]]:
    """Rows: task, ours, the other's seconds, ratio, peak memory of ours above the input; and the verdicts."""
    rows, lines = [], []
    one = COHORTS["simulated state"]()
    ours = timed(lambda: whole(one))
    theirs = {key: float("nan") for key in ("fit_s", "train_s")}
    if with_ggmlot:
        theirs = ggmlot(one, np.full(len(one.condition), -1))
    other = float(theirs["fit_s"] + theirs["train_s"])
    rows.append(["fit and metric, 20 x 500 x 30, k = 8", ours, "ggml-ot", other, other / ours, float("nan")])
    lines.append(verdict("fit and metric, times faster than ggml-ot", other / ours, 50, digits=1))
    many = datasets.simulated_cohort(100, 500, 20, n_genes=20)
    x, sample = many.obsm["X_pca"], many.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    ours, other = timed(lambda: fit_mixtures(x, sample, 8)), timed(lambda: sklearn_loop(x, sample, 8))
    rows.append(["EM, 100 x 500 x 20, k = 8", ours, "scikit-learn loop", other, other / ours, float("nan")])
    lines.append(verdict("EM, times faster than a scikit-learn loop", other / ours, 3, digits=1))
    many = datasets.simulated_cohort(200, 2000, 30, n_genes=30)
    x, sample = many.obsm["X_pca"], many.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    reset_peak()
    base = peak_bytes()
    start = time.perf_counter()
    mixtures = fit_mixtures(x, sample, 8).mixtures
    middle = time.perf_counter()
    mw2(mixtures)
    seconds = time.perf_counter() - middle
    peak = (peak_bytes() - base) / 2**20
    rows.append(["mixtures, 200 x 2000 x 30, k = 8", middle - start, "–", float("nan"), float("nan"), peak])
    rows.append(["distances of all pairs of these", seconds, "–", float("nan"), float("nan"), peak])
    lines.append(verdict("seconds of the distances of 200 patients", seconds, 60, at_most=True, digits=1))
    return rows, lines


def main() -> None:
    """Run, print, and write the page of each part that is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--datasets", nargs="+", choices=COHORTS, default=list(COHORTS))
    parser.add_argument("--without-ggmlot", action="store_true")
    asked = parser.parse_args()
    methods = [name for name in METHODS if not (asked.without_ggmlot and name == "ggml-ot")]
    complete = set(asked.datasets) == set(COHORTS) and not asked.without_ggmlot
    for part in asked.parts:
        title, lines, figures = _page(part, asked.datasets, methods)
        page = [NOTE, setting("scikit-learn", "numpy", "torch"), "## Targets\n", *lines, "\n## Figures\n", figures]
        report(f"cohort_{part}", f"Patients: {title}", page, write=complete or part == "permuted")


def _page(part: str, cohorts: list[str], methods: list[str]) -> tuple[str, list[str], str]:
    """Title, verdicts and table of a part."""
    if part == "speed":
        rows, lines = speed("ggml-ot" in methods)
        header = ["task", "muport, s", "other", "other, s", "ratio", "peak, MiB"]
        return "speed", lines, table(header, rows, digits=2)
    if part == "accuracy":
        rows, lines = accuracy(cohorts, methods)
        header = ["cohort", "method", "balanced accuracy", "interval", "AUROC", "interval", "seconds"]
        return "accuracy", lines, table(header, rows)
    rows = permuted(cohorts)
    header = ["cohort", "balanced accuracy", "range", "AUROC", "range"]
    chance = float(np.mean([row[1] for row in rows]))
    lines = [verdict("balanced accuracy with permuted conditions, mean", chance, 0.55, at_most=True)]
    return f"conditions dealt anew, {N_PERMUTATIONS} times", lines, table(header, rows)


PARTS = ("speed", "accuracy", "permuted")

if __name__ == "__main__":
    main()
