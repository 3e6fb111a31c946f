"""Prediction of conditions where the difference is known: composition, state, covariance, or a mixture of them.

Usage: ``python -m benchmarks.patients.grid [--seeds 5]``. Cohorts of an earlier run are not computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from benchmarks.common._measure import ROOT
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.patients.cohort import cohort, euclidean, means_of_types, pseudobulk, ratios_of_components, scores

from muport import GMM, datasets

if TYPE_CHECKING:
    import anndata as ad
    from benchmarks.patients.cohort import Cohort
    from numpy.typing import NDArray

CACHE = ROOT / ".cache" / "cohort_grid.csv"
SIZES, N_TEST, N_CELLS, N_DIMS, N_STATES = (10, 20, 50), 30, 100, 10, 5
NONE = {"state_effect": 0.0, "composition_effect": 0.0}
KINDS: dict[str, dict[str, float]] = {
    "composition": NONE | {"composition_effect": 1.5},
    "state": NONE | {"state_effect": 2.5},
    "covariance": NONE,
    "mixture": NONE | {"state_effect": 1.5, "composition_effect": 1.0},
    "nuisance shift": NONE | {"state_effect": 2.5, "patient_offset": 1.0},
    "nothing": NONE,
}
SPREAD = 3.0  # factor of the standard deviation of the affected state on one axis, in "covariance"
METHODS = ("CLR of components", "pseudobulk", "means of types", "Euclidean MW2", "muport.GMM")
NOTE = f"""\
Simulated cohorts of `datasets.simulated_cohort`: training patients, {N_TEST} new patients, {N_CELLS} cells each in
{N_DIMS} dimensions, {N_STATES} states. composition: the odds of one state change by a factor of 4.5. state: one state
moves by 2.5 standard deviations. covariance: the standard deviation of one state is {SPREAD:g} times as large on one
axis. mixture: 1.5 standard deviations and a factor of 2.7. nuisance shift: as state, and all cells of a patient move at
random, by a standard deviation of 1 on each axis in place of .3. nothing: conditions are a random label.
CLR of components: log-ratios of the shares of {N_STATES} components of one mixture of the training cells, with logistic
regression. Pseudobulk: logistic regression on the mean coordinates. Means of types: the same on the means of the true
states, less the patient's mean of these; it alone sees the states. Euclidean MW2: our mixtures of {N_STATES}
components, under no learned metric, classified as muport.GMM does. muport.GMM: {N_STATES} components, else its
defaults, without annotated types.
Balanced accuracy and AUROC of the new patients, means over the cohorts; standard errors of AUROC. The AUROC of
30 new patients of a single cohort has a standard error of about .1, so that one cohort of each kind decides no target.
"""


def simulated(kind: str, n_train: int, seed: int) -> Cohort:
    """Training patients first, then those to predict; both conditions are even in each."""
    adata = datasets.simulated_cohort(
        n_train + N_TEST, N_CELLS, N_DIMS, N_STATES, N_DIMS, random_state=1000 * seed + n_train, **KINDS[kind]
    )
    if kind == "covariance":
        widen(adata)
    names = sorted(adata.obs["sample"].unique())
    condition = adata.obs.groupby("sample", observed=True)["condition"].first().loc[names].to_numpy()
    rank = pd.Series(condition).groupby(condition).cumcount().to_numpy()
    new = np.argsort(rank * 2 + (condition == "case"), kind="stable")
    place = np.empty(len(names), np.int64)
    place[new] = np.arange(len(names))
    adata.obs["place"] = np.char.mod("S%03d", place[adata.obs["sample"].cat.codes])
    with contextlib.redirect_stdout(io.StringIO()):
        return cohort(kind, adata, "place", adata.obs["condition"], "place", N_STATES, N_DIMS)


def widen(adata: ad.AnnData) -> None:
    """Spread the affected state of the second condition on the first signal axis."""
    truth = adata.uns["simulation"]
    rows = ((adata.obs["cell_type"] == truth["affected_state"]) & (adata.obs["condition"] == "case")).to_numpy()
    axis = truth["signal_axes"][0]
    x = adata.obsm["X_pca"]
    own = adata.obs["sample"].cat.codes.to_numpy()[rows]
    center = truth["state_means"][int(truth["affected_state"][1:])] + truth["patient_offsets"][own]
    along = ((x[rows] - center) @ axis)[:, None] * axis
    x[rows] += ((SPREAD - 1) * along).astype(x.dtype)


def predictions(one: Cohort, n_train: int) -> dict[str, NDArray[np.float64]]:
    """Probability of condition 1 of the new patients, by each method."""
    train, test = np.arange(n_train), np.arange(n_train, n_train + N_TEST)
    new = one.adata(test)
    del new.obs["condition"]
    known = one.adata(train)
    GMM.setup_anndata(known, labels_key="condition")
    model = GMM(known)
    model.train(k_comps=N_STATES, progress=False)
    found = model.predict(new, soft=True)
    return {
        "CLR of components": ratios_of_components(one, train, test),
        "pseudobulk": pseudobulk(one, train, test),
        "means of types": means_of_types(one, train, test),
        "Euclidean MW2": euclidean(one, train, test, vote=False),
        "muport.GMM": found.loc[[f"S{i:03d}" for i in test], "C1"].to_numpy(),
    }


def measured(n_seeds: int) -> pd.DataFrame:
    """Scores of all cohorts, those of earlier runs included."""
    columns = ["kind", "patients", "seed", "method", "balanced accuracy", "AUROC"]
    found = pd.read_csv(CACHE) if CACHE.exists() else pd.DataFrame(columns=columns)
    for seed in range(n_seeds):
        for kind in KINDS:
            for n_train in SIZES:
                if ((found["kind"] == kind) & (found["patients"] == n_train) & (found["seed"] == seed)).any():
                    continue
                one = simulated(kind, n_train, seed)
                truth = one.condition[n_train:]
                found_here = predictions(one, n_train)
                rows = [[kind, n_train, seed, name, *scores(truth, p)] for name, p in found_here.items()]
                found = pd.concat([found, pd.DataFrame(rows, columns=columns)], ignore_index=True)
                CACHE.parent.mkdir(exist_ok=True)
                found.to_csv(CACHE, index=False)
                print(*rows[-1], flush=True)
    return found[found["seed"] < n_seeds]


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="cohorts of each kind and size")
    n_seeds = parser.parse_args().seeds
    found = measured(n_seeds)
    groups = found.groupby(["kind", "patients", "method"])
    mean, error = groups[["balanced accuracy", "AUROC"]].mean(), groups["AUROC"].sem()
    rows = [
        [kind, n, method, *mean.loc[(kind, n, method)].tolist(), float(error[kind, n, method])]
        for kind in KINDS
        for n in SIZES
        for method in METHODS
    ]
    header = ["difference", "patients", "method", "balanced accuracy", "AUROC", "standard error"]
    page = [NOTE, f"Cohorts of each kind and size: {n_seeds}.\n", setting("scikit-learn", "numpy", "torch"),
            "## Targets\n", *judged(mean), "\n## Figures\n", table(header, rows)]  # fmt: skip
    report("cohort_grid", "Patients: known differences", page, write=True)


def judged(mean: pd.DataFrame) -> list[str]:
    """Targets: the composition, the state, chance, and the best other method."""
    ours, simple = METHODS[-1], METHODS[0]
    score = {key: float(value) for key, value in mean["AUROC"].items()}
    lines = [
        verdict(f"composition, {n} patients, AUROC; CLR of components", score["composition", n, ours],
                score["composition", n, simple] - 0.02)
        for n in SIZES
    ]  # fmt: skip
    lines += [verdict(f"state, {n} patients, AUROC", score["state", n, ours], 0.95) for n in SIZES]
    for kind in ("covariance", "mixture", "nuisance shift"):
        for n in SIZES:
            best = max(METHODS[:-1], key=lambda method: score[kind, n, method])
            text = f"{kind}, {n} patients, AUROC; the best other method is {best}"
            lines.append(verdict(text, score[kind, n, ours], score[kind, n, best] - 0.02))
    chance = float(np.mean([score["nothing", n, ours] for n in SIZES]))
    lines.append(verdict("nothing, |AUROC - .5|, mean over sizes", abs(chance - 0.5), 0.02, at_most=True))
    return lines


if __name__ == "__main__":
    main()
