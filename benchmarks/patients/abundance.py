"""Differential abundance with samples as replicates: false discoveries and power on simulated cohorts.

Usage: ``python -m benchmarks.patients.abundance [--cohorts 40]``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.common._tables import report, setting, table, verdict
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

from muport import GMM
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_STATES, N_DIMS, N_CELLS, LEVEL, TOUCHED = 8, 10, 150, 0.05, 0.1
#: Samples, and which states change by which factor (natural logarithm).
KINDS: dict[str, tuple[int, dict[int, float]]] = {
    "nothing, 20 samples": (20, {}),
    "a type, 20 samples": (20, {0: 1.5, 1: 1.5}),
    "part of a type, 20 samples": (20, {0: 1.5}),
    "a type, 12 samples": (12, {0: 1.5, 1: 1.5}),
    "part of a type, 12 samples": (12, {0: 1.5}),
}
NOTE = f"""\
Simulated cohorts: {N_STATES} states in {N_DIMS} dimensions, of which pairs are annotated as one type, {N_CELLS} cells a
sample, two conditions. The odds of one type, or of one of the two states of a type, change by a factor of 4.5. Log odds
of samples have a standard deviation of .4; a batch, which 70 % of one condition and 30 % of the other have, changes two
other states by a factor of 2.7; one odd sample has log odds with a standard deviation of 2. Every cell is scored: it is
discovered if the q-value of its neighborhood or its type is at most {LEVEL}, and the discovery is true
if its state was changed. False discovery rate by cells: mean over cohorts of the false fraction of the discovered
cells, 0 if there are none; by neighborhoods: a discovery is false if at most a tenth of the neighborhood was changed.
Power: fraction of the changed cells that are discovered. The plain tests compare shares of types by a t test or a rank
test, with q-values of Benjamini and Hochberg, and know no batch. Milo in pertpy was not installed.
"""


def simulated(kind: str, seed: int) -> tuple[ad.AnnData, NDArray[np.bool_]]:
    """Cells of a cohort, and which of them are in a changed state."""
    n_samples, changes = KINDS[kind]
    rng = np.random.default_rng([seed, len(kind), n_samples])
    condition = np.arange(n_samples) % 2
    batch = (rng.random(n_samples) < np.where(condition == 1, 0.7, 0.3)).astype(np.int64)
    batch[:4] = [0, 1, 1, 0]  # both batches in both conditions
    odds = 0.4 * rng.normal(size=(n_samples, N_STATES))
    odds[:, [4, 6]] += batch[:, None]
    odds[int(rng.integers(n_samples))] += 2 * rng.normal(size=N_STATES)
    for state, effect in changes.items():
        odds[:, state] += effect * condition
    shares = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    state = np.concatenate([rng.choice(N_STATES, N_CELLS, p=share) for share in shares])
    x = (1.5 * rng.normal(size=(N_STATES, N_DIMS)))[state] + rng.normal(size=(len(state), N_DIMS))
    code = np.repeat(np.arange(n_samples), N_CELLS)
    obs = pd.DataFrame(
        {
            "sample": np.char.mod("S%02d", code),
            "condition": np.char.mod("C%d", condition[code]),
            "batch": np.char.mod("B%d", batch[code]),
            "type": np.char.mod("T%d", state // 2),
        },
        index=np.arange(len(x)).astype(str),
        dtype="category",
    )
    adata = ad.AnnData(np.zeros((len(x), 1), np.float32), obs=obs, obsm={"X_pca": x.astype(np.float32)})
    return adata, np.isin(state, list(changes))


def of_types(adata: ad.AnnData, q: pd.Series) -> NDArray[np.float64]:
    """The q-value of the type of each cell."""
    return adata.obs["type"].astype(str).map(q).to_numpy(dtype=np.float64)


def plain(adata: ad.AnnData, test: Callable[..., object]) -> NDArray[np.float64]:
    """A test of the shares of each type."""
    counts = pd.crosstab(adata.obs["sample"], adata.obs["type"])
    shares = counts.div(counts.sum(axis=1), axis=0)
    condition = adata.obs.groupby("sample", observed=True)["condition"].first().loc[shares.index]
    first = (condition == "C0").to_numpy()
    p = np.array([float(test(shares.loc[first, name], shares.loc[~first, name]).pvalue) for name in shares])
    return of_types(adata, pd.Series(false_discovery_control(p), index=shares.columns.astype(str)))


def muport_tests(adata: ad.AnnData) -> dict[str, NDArray[np.float64]]:
    """The q-value of each cell by each of our tests."""
    GMM.setup_anndata(adata, labels_key="condition", cell_type_key="type")
    model = GMM(adata)
    model.fit_gmm(k_comps=N_STATES, verbose=False)
    out = {}
    for name, keys in (("", ["batch"]), (", without the batch", [])):
        out[f"muport, types{name}"] = of_types(adata, model.test_abundance("types", covariate_keys=keys)["q"])
    out["muport, neighborhoods"] = model.test_abundance("neighborhoods", covariate_keys=["batch"])["q"].to_numpy()
    return out


def scored(kind: str, seed: int) -> dict[str, tuple[float, float, float]]:
    """False fractions of the discoveries, by cells and by neighborhoods, and power, of each method."""
    adata, changed = simulated(kind, seed)
    q = {"t test of shares": plain(adata, ttest_ind), "rank test of shares": plain(adata, mannwhitneyu)}
    q |= muport_tests(adata)
    members = knn(adata.obsm["X_pca"], 5 * KINDS[kind][0], include_self=True).indices
    touched = changed[members].mean(axis=1) > TOUCHED
    found = {}
    for name, values in q.items():
        called = values <= LEVEL
        number = max(called.sum(), 1)
        of_cells, of_neighborhoods = (
            float((called & ~changed).sum() / number),
            float((called & ~touched).sum() / number),
        )
        power = float(called[changed].mean()) if changed.any() else float("nan")
        found[name] = of_cells, of_neighborhoods, power
    return found


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=40, help="cohorts of each kind")
    n_cohorts = parser.parse_args().cohorts
    rows: list[list[object]] = []
    mean: dict[tuple[str, str], tuple[float, float, float]] = {}
    for kind in KINDS:
        runs = [scored(kind, seed) for seed in range(n_cohorts)]
        for method in runs[0]:
            values = np.array([run[method] for run in runs])
            mean[kind, method] = tuple(values.mean(axis=0).tolist())
            error = float(values[:, 0].std(ddof=1) / np.sqrt(n_cohorts)) if n_cohorts > 1 else float("nan")
            first, second, power = mean[kind, method]
            rows.append([kind, method, first, error, second, power])
            print(*rows[-1], flush=True)
    ours, plain_test, lines = "muport, neighborhoods", "t test of shares", []
    for kind in KINDS:
        for place, unit in enumerate(("cells", "neighborhoods")):
            text = f"{kind}: false discovery rate of neighborhoods, by {unit}"
            lines.append(verdict(text, mean[kind, ours][place], 0.1, at_most=True))
        if KINDS[kind][1]:
            text = f"{kind}: power of neighborhoods; the t test of types"
            lines.append(verdict(text, mean[kind, ours][2], mean[kind, plain_test][2]))
    header = ["cohort", "method", "false, by cells", "standard error", "false, by neighborhoods", "power"]
    page = [NOTE, f"{n_cohorts} cohorts of each kind.\n", setting("numpy", "scipy"), "## Targets\n", *lines,
            "\n## Figures\n", table(header, rows)]  # fmt: skip
    report("abundance", "Patients: differential abundance", page, write=True)


if __name__ == "__main__":
    main()
