"""Prediction of the condition of patients.

Usage: ``python -m benchmarks.patients.cohort [--parts ..] [--datasets ..] [--without-ggmlot]``.
"""

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
from benchmarks.common._measure import N_THREADS, POOLS, ROOT, make_environment
from benchmarks.common._tables import RESULTS, cell, report, setting, table, verdict
from benchmarks.common._worker import peak_bytes, reset_peak
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from muport import datasets
from muport._keys import DATA_VARIABLE
from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein
from muport.gmm.metric._kernel_ridge import classify
from muport.gmm.metric._log_ratios import CellCounts, centered_log_ratios
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport import GMM
    from muport.gmm.mixtures._mixtures import Mixtures

GGMLOT = ROOT / ".venv-ggmlot"
CACHE = ROOT / ".cache" / "ggmlot"  # its folds, which take minutes each
N_BOOTSTRAP, N_PERMUTATIONS, N_NEIGHBORS = 2000, 20, 5
NOTE = f"""\
One person is left out at a time, with all of its samples (two in kang, one elsewhere), the same for every method, and
everything that learns is refitted without it, the shared PCA apart, which sees no label; `--folds` leaves out more at
once. muport.GMM: its defaults, `predict(soft=True)`; with the annotated types of the cells (`cell_type_key`), and
without. CLR of types, CLR of components: centered log-ratios of the shares of the annotated types, or of k components
of a mixture of the training cells, zeros replaced by .65 of a cell, with balanced logistic regression; standardized:
additive replacement by half a cell, and standard deviations of 1. ggml-ot: mixtures of k components (it has no default
that runs), its default training, its own classifier: the {N_NEIGHBORS} nearest training patients vote (3 in kang, of
4); the share of votes is the score. Rows with a commit were measured there, in an earlier run. Euclidean
MW2: our mixtures of k components under no learned metric, with the same vote, or classified as muport.GMM does (ridge).
Pseudobulk: logistic regression on the patients' mean coordinates, standardised. Means of types: the same on the means
of the annotated types, less the patient's mean of these. Intervals: 95 % of {N_BOOTSTRAP}
bootstraps of patients within conditions. Scores of left-out patients are pooled for every method, which
biases AUROC downwards where scores follow the share of a condition among the rest. Permuted conditions: simulated
cohorts in 2 folds, covid and melanoma in 5.
"""


@dataclass(frozen=True)
class Cohort:
    """Cells ``x`` (n, d), ``sample``, ``types`` (n,); ``condition``, ``person``, ``fold`` (P,); ``k`` where asked."""

    name: str
    x: NDArray[np.float32]
    sample: NDArray[np.int64]
    condition: NDArray[np.int64]
    person: NDArray[np.int64]
    fold: NDArray[np.int64]
    k: int
    types: NDArray[np.int64]

    def adata(self, rows: NDArray[np.int64]) -> ad.AnnData:
        """The cells of some samples."""
        keep = np.isin(self.sample, rows)
        code = self.sample[keep]
        columns = {"sample": ("S%03d", code), "condition": ("C%d", self.condition[code]),
                   "person": ("P%03d", self.person[code]), "cell_type": ("T%02d", self.types[keep])}  # fmt: skip
        obs = {name: np.char.mod(*values) for name, values in columns.items()}
        index = np.flatnonzero(keep).astype(str)
        empty = np.zeros((keep.sum(), 1), np.float32)
        return ad.AnnData(empty, obs=pd.DataFrame(obs, index=index, dtype="category"), obsm={"X_pca": self.x[keep]})


def cohort(
    name: str, adata: ad.AnnData, sample: str, condition: pd.Series, fold: str, k: int, n_dims: int,
    types: str = "cell_type",
) -> Cohort:  # fmt: skip
    """From columns of ``obs``; the condition that sorts last is 1."""
    code, names = pd.factorize(adata.obs[sample].astype(str), sort=True)
    first = pd.Series(np.arange(len(code))).groupby(code).first().to_numpy()
    label = pd.factorize(condition.astype(str), sort=True)[0][first]
    left = pd.factorize(adata.obs[fold].astype(str), sort=True)[0][first]
    x = np.ascontiguousarray(adata.obsm["X_pca"][:, :n_dims], dtype=np.float32)
    print(f"{name}: {len(names)} samples, {np.bincount(label)} by condition, {np.bincount(code).min()} cells or more")
    of_types = pd.factorize(adata.obs[types].astype(str), sort=True)[0]
    return Cohort(name, x, code, label, left, left, k, of_types)


def simulated(name: str, n_patients: int = 40, **effects: float) -> Cohort:
    """Patients x 500 cells x 30 dimensions; case sorts before control."""
    adata = datasets.simulated_cohort(n_patients, **effects)
    return cohort(name, adata, "sample", adata.obs["condition"], "sample", 8, 30)


def covid() -> Cohort:
    """Healthy against COVID-19 of any severity."""
    adata = datasets.load("covid_gloscope_20samples_pcs")
    return cohort("covid", adata, "sample", adata.obs["group"] != "Healthy", "patient", 8, 50)


def melanoma() -> Cohort:
    """Responders against non-responders before therapy; some 29 cells a patient."""
    adata = datasets.load("melanoma_scfeatures_550")
    return cohort("melanoma", adata, "patient", adata.obs["condition"], "patient", 3, 20, "cellTypes")


def kang() -> Cohort:
    """Control against stimulated samples of three donors."""
    adata = datasets.load("kang_distinct_3donor")
    return cohort("kang", adata, "sample_id", adata.obs["condition"], "donor", 8, 30)


def synovium() -> Cohort:
    """Rheumatoid arthritis (18) against osteoarthritis (3), before any correction of 24 plates."""
    adata = ad.read_h5ad(Path(os.environ[DATA_VARIABLE]) / "ra_synovium_24plates_pcs.h5ad")
    return cohort("synovium", adata, "donor", adata.obs["disease"], "donor", 4, 20)


def grouped(one: Cohort, n_folds: int) -> Cohort:
    """The same cohort in `n_folds` of whole people, conditions spread evenly; 0, or more than people: one at a time."""
    if not 0 < n_folds < one.person.max() + 1:
        return replace(one, fold=one.person)
    fold = np.empty(len(one.person), np.int64)
    split = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    for number, (_, left) in enumerate(split.split(one.person, one.condition, one.person)):
        fold[left] = number
    return replace(one, fold=fold)


COHORTS: dict[str, Callable[[], Cohort]] = {
    "simulated state": lambda: simulated("simulated state"),
    "simulated shares": lambda: simulated("simulated shares", state_effect=0.0, composition_effect=1.5),
    "covid": covid,
    "melanoma": melanoma,
    "kang": kang,
    "synovium": synovium,
}
MEASURED = {"covid", "melanoma", "kang", "synovium"}
PERMUTED_FOLDS = {"simulated state": 2, "simulated shares": 2, "covid": 5, "melanoma": 5, "kang": 0, "synovium": 3}


def over_folds(one: Cohort, predict: Callable[[Cohort, NDArray[np.int64], NDArray[np.int64]], NDArray]) -> NDArray:
    """(P,) probability of condition 1, each fold's from the rest."""
    out = np.empty(len(one.condition))
    for number in range(one.fold.max() + 1):
        left = np.flatnonzero(one.fold == number)
        out[left] = predict(one, np.flatnonzero(one.fold != number), left)
    return out


def trained(adata: ad.AnnData) -> GMM:
    """Our model at its defaults; samples of one person are held out together."""
    from muport import GMM

    GMM.setup_anndata(adata, use_rep="X_pca", sample_key="sample", labels_key="condition")
    model = GMM(adata)
    model.train(group_key="person", progress=False, random_state=0)
    return model


def muport_gmm(one: Cohort) -> dict[str, NDArray[np.float64]]:
    """Our model as a user calls it, without and with the types of cells; mixtures do not depend on the types."""
    out = {name: np.empty(len(one.condition)) for name in OURS}
    for number in range(one.fold.max() + 1):
        train, test = np.flatnonzero(one.fold != number), np.flatnonzero(one.fold == number)
        known, new = one.adata(train), one.adata(test)
        del new.obs["condition"]
        model = trained(known)
        rows = [f"S{i:03d}" for i in test]
        out["muport.GMM"][test] = model.predict(new, soft=True).loc[rows, "C1"]
        annotated = with_types(known, model)
        out["muport.GMM, types"][test] = annotated.predict(new, soft=True).loc[rows, "C1"]
    return out


def with_types(known: ad.AnnData, model: GMM) -> GMM:
    """The same model, set up with the types of cells; its mixtures, which do not depend on them, are kept."""
    from muport import GMM

    data = known.copy()
    GMM.setup_anndata(data, use_rep="X_pca", sample_key="sample", labels_key="condition", cell_type_key="cell_type")
    annotated = GMM(data)
    types = sorted(data.obs["cell_type"].unique())
    code = pd.Categorical(data.obs["cell_type"], categories=types).codes.astype(np.int64)
    sample = data.obs["sample"].cat.codes.to_numpy().astype(np.int64)
    counts = CellCounts.count(sample, len(model.state_.samples), code, len(types))
    annotated.state_ = replace(model.state_, types=tuple(types), counts=counts)
    annotated.settings_ = model.settings_
    annotated.is_trained_ = True
    annotated.train_gmm(group_key="person", random_state=0)
    return annotated


def euclidean(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64], vote: bool) -> NDArray[np.float64]:
    """Mixture Wasserstein distances under no learned metric; the prior comes from the training patients."""
    keep = np.isin(one.sample, train)
    prior = fit_pooled_priors(one.x[keep], np.searchsorted(train, one.sample[keep]), [one.k])[one.k]
    mixtures = fit_mixtures(one.x, one.sample, one.k, prior=prior).mixtures
    known = mixtures.subset(train)
    between, new = mixture_wasserstein(known), mixture_wasserstein(mixtures.subset(test), known)
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


def means_of_types(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logistic regression on the means of the annotated types, less the patient's mean of these."""
    n_types = int(one.types.max()) + 1
    key, n = one.sample * n_types + one.types, len(one.condition) * n_types
    size = np.bincount(key, minlength=n)
    sums = np.stack([np.bincount(key, column, n) for column in one.x.T], axis=1)
    mean = (sums / np.maximum(size, 1)[:, None]).reshape(len(one.condition), n_types, -1)
    absent = (size == 0).reshape(mean.shape[:2])
    # a type that a patient lacks has the mean of the training patients
    usual = mean[train].sum(axis=0) / np.maximum((~absent[train]).sum(axis=0), 1)[:, None]
    shift = np.where(absent[:, :, None], 0, mean - usual)
    relative = (shift - shift.mean(axis=1, keepdims=True)).reshape(len(mean), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return model.fit(relative[train], one.condition[train]).predict_proba(relative[test])[:, 1]


def log_ratios(counts: NDArray[np.float64], additive: bool = False) -> NDArray[np.float64]:
    """Centered log-ratios of counts (P, T), with additive or multiplicative replacement of zeros."""
    if not additive:
        return centered_log_ratios(counts, counts.sum(1))
    logarithm = np.log(counts + 0.5)
    return logarithm - logarithm.mean(1, keepdims=True)


def ratios_of_types(
    one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64], standardized: bool
) -> NDArray[np.float64]:
    """Logistic regression on the log-ratios of the annotated types that training patients have."""
    counts = np.zeros((len(one.condition), one.types.max() + 1))
    np.add.at(counts, (one.sample, one.types), 1)
    return logistic(one, log_ratios(counts[:, counts[train].any(0)], standardized), train, test, standardized)


def ratios_of_components(one: Cohort, train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logistic regression on the log-ratios of the components of one mixture of the training cells."""
    mixture = GaussianMixture(one.k, reg_covar=1e-3, random_state=0).fit(one.x[np.isin(one.sample, train)])
    counts = np.zeros((len(one.condition), one.k))
    np.add.at(counts, one.sample, mixture.predict_proba(one.x))
    return logistic(one, log_ratios(counts), train, test)


def logistic(
    one: Cohort, x: NDArray[np.float64], train: NDArray[np.int64], test: NDArray[np.int64], standardized: bool = False
) -> NDArray[np.float64]:
    """Probability of condition 1 by balanced logistic regression."""
    regression = LogisticRegression(class_weight="balanced", max_iter=2000)
    model = make_pipeline(StandardScaler(), regression) if standardized else regression
    return model.fit(x[train], one.condition[train]).predict_proba(x[test])[:, 1]


def ggmlot(one: Cohort, fold: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Distances and seconds of ggml-ot, from its own environment (built at its first use)."""
    python = GGMLOT / "bin" / "python"
    if not python.exists():
        make_environment("ggmlot", GGMLOT)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, x=one.x, sample=one.sample, condition=one.condition, k=one.k, fold=fold)
        env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
        command = [python, "-W", "ignore", "-m", "benchmarks.patients._ggmlot", source, target, CACHE]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        with np.load(target) as out:
            return dict(out)


OURS = ("muport.GMM", "muport.GMM, types")
METHODS: dict[str, Callable[[Cohort], NDArray[np.float64]]] = {
    **dict.fromkeys(OURS, lambda one: np.empty(0)),
    "CLR of types": lambda one: over_folds(one, lambda *rest: ratios_of_types(*rest, standardized=False)),
    "CLR of types, standardized": lambda one: over_folds(one, lambda *rest: ratios_of_types(*rest, standardized=True)),
    "CLR of components": lambda one: over_folds(one, ratios_of_components),
    "ggml-ot": lambda one: votes(ggmlot(one, one.fold)["distance"], one.condition),
    "Euclidean MW2, vote": lambda one: over_folds(one, lambda *rest: euclidean(*rest, vote=True)),
    "Euclidean MW2, ridge": lambda one: over_folds(one, lambda *rest: euclidean(*rest, vote=False)),
    "pseudobulk": lambda one: over_folds(one, pseudobulk),
    "means of types": lambda one: over_folds(one, means_of_types),
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


def accuracy(names: list[str], methods: list[str], folds: int) -> tuple[list[list[object]], list[str]]:
    """Rows of the table, and the verdicts of our model against each other method."""
    rows, found = [], {}
    for name in names:
        one = grouped(COHORTS[name](), folds)
        ours = muport_gmm(one)
        for method in methods:
            p = ours[method] if method in ours else METHODS[method](one)
            drawn, value = bootstrap(one.condition, p), scores(one.condition, p)
            found[name, method] = value, drawn
            rows.append([name, method, value[0], interval(drawn[:, 0]), value[1], interval(drawn[:, 1])])
            print(*rows[-1], flush=True)
    return rows, judge(names, methods, found)


def judge(names: list[str], methods: list[str], found: dict) -> list[str]:
    """Ours with types against the best other method on each cohort, ours without them against the components."""
    lines = []
    others = [method for method in methods if method not in OURS]
    for i, score in enumerate(("balanced accuracy", "AUROC")):
        for name in names:
            best = max(others, key=lambda method: found[name, method][0][i])
            text = f"{name}, {score}, with types; the best other method is {best}"
            lines.append(verdict(text, found[name, OURS[1]][0][i], found[name, best][0][i] - 0.02))
            text = f"{name}, {score}, without types; CLR of components"
            lines.append(verdict(text, found[name, OURS[0]][0][i], found[name, "CLR of components"][0][i] - 0.02))
        mean = {method: float(np.mean([found[name, method][0][i] for name in names])) for method in methods}
        best = max(others, key=lambda m: mean[m])
        lines.append(verdict(f"mean {score}, the best other method ({best})", mean[OURS[1]], mean[best] + 0.03))
    return lines


def kept_rows(measured: list[list[object]]) -> list[list[object]]:
    """Rows of the last page that were not measured again, with the commit of their measurement."""
    page = (RESULTS / "cohort_accuracy.md").read_text(encoding="utf-8")
    commit = page.split("Measured at commit ")[1].split()[0]
    rows = [[entry.strip() for entry in line.strip("| ").split("|")] for line in page.splitlines() if line[:2] == "| "]
    again = {(row[0], row[1]) for row in measured}
    old = [row for row in rows[2:] if len(row) == 6 and (row[0], row[1].split(" (at ")[0]) not in again]
    return [[row[0], row[1] if " (at " in row[1] else f"{row[1]} (at {commit})", *row[2:]] for row in old]


def permuted(names: list[str]) -> list[list[object]]:
    """Our model, and the same with permuted conditions: mean and range of the scores."""
    rows = []
    for name in names:
        one = COHORTS[name]()
        model = trained(one.adata(np.arange(len(one.condition))))
        found = model.cross_validate(PERMUTED_FOLDS[name] or None, group_key="person", n_permutations=N_PERMUTATIONS)
        row: list[object] = [name]
        for i, score in enumerate((found.balanced_accuracy, found.auroc)):
            drawn = found.null[:, i]
            row += [score, float(drawn.mean()), f"{drawn.min():.2f} to {drawn.max():.2f}"]
        rows.append(row)
        print(*row, flush=True)
    return rows


def timed(call: Callable[[], object], repeats: int = 10) -> tuple[float, float]:
    """The least seconds, and processor seconds, of a few calls: what the machine can do when nothing else runs."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return min(one[0] for one in spent), min(one[1] for one in spent)


def whole(one: Cohort) -> None:
    """Mixtures of k components and the metric."""
    from muport import GMM

    adata = one.adata(np.arange(len(one.condition)))
    GMM.setup_anndata(adata, use_rep="X_pca", sample_key="sample", labels_key="condition")
    model = GMM(adata)
    model.fit_gmm(k_comps=one.k, verbose=False)
    model.train_gmm()


def sklearn_loop(x: NDArray[np.float32], sample: NDArray[np.int64], start: Mixtures) -> None:
    """One scikit-learn mixture after another, from given starts."""
    precisions = np.linalg.inv(start.covariances)
    for i in range(sample.max() + 1):
        model = GaussianMixture(
            start.weights.shape[1], tol=1e-3, max_iter=100, reg_covar=1e-4, weights_init=start.weights[i],
            means_init=start.means[i], precisions_init=precisions[i], random_state=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x[sample == i])


def cells(*size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cells and patients of a simulated cohort of patients x cells x dimensions."""
    many = datasets.simulated_cohort(*size, n_genes=size[2])
    return many.obsm["X_pca"], many.obs["sample"].cat.codes.to_numpy().astype(np.int64)


def speed(with_ggmlot: bool) -> tuple[list[list[object]], list[str]]:
    """Rows: task, seconds and processor seconds of ours and of the other, ratios, our peak memory; and the verdicts."""
    nan = float("nan")
    one = simulated("20 x 500 x 30", 20)
    ours, theirs = timed(lambda: whole(one)), {"fit_s": nan, "train_s": nan, "cpu_s": nan}
    if with_ggmlot:
        theirs = ggmlot(one, np.full(len(one.condition), -1))
    other = float(theirs["fit_s"] + theirs["train_s"]), float(theirs["cpu_s"])
    rows = [_compared("fit and metric, 20 x 500 x 30, k = 8", ours, "ggml-ot", other)]
    lines = [verdict("fit and metric, times faster than ggml-ot", other[0] / ours[0], 50, digits=1)]
    x, sample = cells(100, 500, 20)
    start = fit_mixtures(x, sample, 8, EMSettings(max_iter=1)).mixtures
    ours = timed(lambda: fit_mixtures(x, sample, 8, init=start))
    with threadpool_limits(1):
        # its products of small matrices are slower on several threads
        other = timed(lambda: sklearn_loop(x, sample, start))
    rows.append(_compared("EM from one start, 100 x 500 x 20, k = 8", ours, "scikit-learn loop", other))
    lines.append(verdict("EM, times faster than a scikit-learn loop", other[0] / ours[0], 3, digits=1))
    lines.append(verdict("the same, processor seconds", other[1] / ours[1], 3, digits=1))
    x, sample = cells(200, 2000, 30)
    reset_peak()
    base, found = peak_bytes(), []
    fit = timed(lambda: found.append(fit_mixtures(x, sample, 8).mixtures), 1)
    between = timed(lambda: mixture_wasserstein(found[0]), 1)
    peak = (peak_bytes() - base) / 2**20
    for task, spent in (("mixtures, 200 x 2000 x 30, k = 8", fit), ("distances of all pairs of these", between)):
        rows.append([*_compared(task, spent, "–", (nan, nan))[:-1], peak])
    lines.append(verdict("seconds of the distances of 200 patients", between[0], 60, at_most=True, digits=1))
    return rows, lines


def _compared(task: str, ours: tuple[float, float], name: str, other: tuple[float, float]) -> list[object]:
    row = [task, *ours, name, *other, other[0] / ours[0], other[1] / ours[1], float("nan")]
    print(*row, flush=True)
    return row


def main() -> None:
    """Run, print, and write the page of each part that is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--datasets", nargs="+", choices=COHORTS, default=list(COHORTS))
    parser.add_argument("--without-ggmlot", action="store_true")
    parser.add_argument("--folds", type=int, default=0, help="0 leaves one person out at a time")
    asked = parser.parse_args()
    methods = [name for name in METHODS if not (asked.without_ggmlot and name == "ggml-ot")]
    # rows that are not measured again are kept on the page of accuracy
    complete = set(asked.datasets) >= (MEASURED if asked.parts == ["accuracy"] else set(COHORTS))
    for part in asked.parts:
        title, lines, figures = _page(part, asked.datasets, methods, asked.folds)
        page = [NOTE, setting("scikit-learn", "numpy", "torch"), "## Targets\n", *lines, "\n## Figures\n", figures]
        report(f"cohort_{part}", f"Patients: {title}", page, write=complete)


def _page(part: str, cohorts: list[str], methods: list[str], folds: int) -> tuple[str, list[str], str]:
    """Title, verdicts and table of a part."""
    if part == "speed":
        rows, lines = speed("ggml-ot" in methods)
        header = ["task", "muport, s", "CPU s", "other", "other, s", "CPU s", "ratio", "of CPU", "peak, MiB"]
        return "speed", lines, table(header, rows, digits=2)
    if part == "accuracy":
        rows, lines = accuracy(cohorts, methods, folds)
        if "ggml-ot" not in methods or set(cohorts) != set(COHORTS):
            rows += kept_rows(rows)
        header = ["cohort", "method", "balanced accuracy", "interval", "AUROC", "interval"]
        return "accuracy", lines, table(header, rows)
    rows = permuted(cohorts)
    header = ["cohort", "balanced accuracy", "permuted", "range", "AUROC", "permuted", "range"]
    chance = float(np.mean([row[2] for row in rows]))
    lines = [verdict("balanced accuracy with permuted conditions, mean", chance, 0.55, at_most=True)]
    return f"permuted conditions, {N_PERMUTATIONS} times", lines, table(header, rows)


PARTS = ("speed", "accuracy", "permuted")

if __name__ == "__main__":
    main()
