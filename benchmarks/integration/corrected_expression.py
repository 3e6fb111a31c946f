"""Corrected expression beside ComBat and scVI: the truth in simulated counts, and the genes of a real stimulation.

Usage: ``python -m benchmarks.integration.corrected_expression [--seeds ...] [--epochs ...]``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from benchmarks.common._tables import report, setting, table, verdict
from scipy import sparse, stats

from muport import Integration, datasets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_CELLS, N_GENES, N_TYPES, N_BATCHES, N_CHANGED = 900, 300, 5, 3, 60
EFFECT, INTERACTION, LOG_CHANGE, DISPERSION = 0.5, 0.2, 1.0, 2.0
SEEDS = (0, 1, 2)
FDR = 0.1
STIMULATED = ("ISG15", "PSME2", "MX2", "APOL3")  # interferon genes among the 100 genes of the file
NOTE = """\
**Simulated counts** (negative binomial, {n} cells x {g} genes, {t} types, {b} batches; mean over seeds {seeds}). A
batch scales each gene by exp(N(0, {e}^2)) and each gene of each type by exp(N(0, {i}^2)) more; the first batch lacks a
type. In the largest type, {c} genes change by a factor of e under a condition that is balanced over batches. The truth
of a cell is log1p of its expected counts without batches, at the median depth.

- *cells*: mean over genes of the correlation with the truth over cells. *entries*: the same over all cells and genes at
  once. *groups*: mean over genes, over the means of each type, batch and condition (10 cells or more), which have
  little noise.
- *batch*: mean over genes of the fraction of the variance within a type that is between batches; 0 is best.
- *recall*, *false*: Welch's t-test of the condition in that type, gene by gene, Benjamini-Hochberg at {fdr}: fraction
  of the changed genes that are found, and fraction of the found genes that are not changed. It is above {fdr} in all
  rows, because the depth of a cell depends on the changed genes.

Rows marked "smooth" are values without the noise of the single cell: the decoder mean of scVI (`transform_batch` = all
batches), and the mean over the 30 nearest cells of the integrated space, taken here of muport's corrected counts at
equal depth. Smooth values cannot be tested: neighbors share their values, so most of what a test finds is false.

**Stimulation** (kang, {d} donors as batches): the genes are ranked by |t| between stimulated and control cells of each
type; the table counts the interferon genes of the panel ({k}) among the first 10 and 20, summed over types.
"""


type Method = Callable[[ad.AnnData], dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Simulation:
    """Counts with log values in ``X`` and ``X_pca``, the genes that change, and the type they change in."""

    adata: ad.AnnData
    changed: NDArray[np.bool_]
    type_of_change: str


def simulate(seed: int) -> Simulation:
    """Draw the counts of one seed."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(N_TYPES, N_CELLS, p=rng.dirichlet(np.full(N_TYPES, 8.0)))
    batch = rng.choice(N_BATCHES, N_CELLS, p=rng.dirichlet(np.full(N_BATCHES, 20.0)))
    lacking = (kind == 1) & (batch == 0)
    batch[lacking] = 1 + rng.integers(N_BATCHES - 1, size=int(lacking.sum()))
    condition = rng.integers(2, size=N_CELLS)
    specific = rng.normal(0, 0.8, (N_TYPES, N_GENES)) * (rng.random((N_TYPES, N_GENES)) < 0.3)
    changed = np.zeros(N_GENES, bool)
    changed[rng.choice(N_GENES, N_CHANGED, replace=False)] = True
    change = np.where(changed, LOG_CHANGE * rng.choice([-1, 1], N_GENES), 0)
    largest = int(np.bincount(kind).argmax())
    log_mean = rng.normal(-0.5, 1.0, N_GENES) + specific[kind]
    log_mean += ((kind == largest) & (condition == 1))[:, None] * change
    shift = EFFECT * rng.normal(size=(N_BATCHES, 1, N_GENES))
    shift = shift + INTERACTION * rng.normal(size=(N_BATCHES, N_TYPES, N_GENES))
    depth = rng.lognormal(0, 0.3, N_CELLS) * np.exp(0.3 * rng.normal(size=N_BATCHES))[batch]
    rate = np.exp(log_mean + shift[batch, kind]) * depth[:, None]
    counts = rng.poisson(rng.gamma(DISPERSION, rate / DISPERSION)).astype(np.float32)
    truth = np.exp(log_mean)
    adata = ad.AnnData(
        counts, layers={"truth": np.log1p(truth / truth.sum(1, keepdims=True) * np.median(counts.sum(1)))}
    )
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    adata.obs["batch"], adata.obs["type"] = [f"b{i}" for i in batch], [f"t{i}" for i in kind]
    adata.obs["condition"] = [f"c{i}" for i in condition]
    return Simulation(with_log_values(adata), changed, f"t{largest}")


def with_log_values(adata: ad.AnnData) -> ad.AnnData:
    """Put the counts into a layer, their log values into ``X``, and the PCA of these into ``X_pca``."""
    adata.layers["counts"] = sparse.csr_matrix(adata.X)
    adata.X = at_equal_depth(adata.layers["counts"])
    sc.pp.pca(adata, 30)
    return adata


def at_equal_depth(counts: object, depth: float | None = None) -> NDArray[np.float64]:
    """Return log1p of counts that are scaled to the median depth."""
    x = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, np.float64)
    total = x.sum(axis=1, keepdims=True)
    return np.log1p(x / np.maximum(total, 1e-12) * (np.median(total) if depth is None else depth))


def uncorrected(adata: ad.AnnData) -> dict[str, NDArray[np.float64]]:
    """The log values themselves."""
    return {"uncorrected": np.asarray(adata.X, np.float64)}


def combat(adata: ad.AnnData) -> dict[str, NDArray[np.float64]]:
    """scanpy's ComBat of the log values."""
    copy = ad.AnnData(np.asarray(adata.X, np.float64), obs=adata.obs.copy())
    sc.pp.combat(copy, "batch")
    return {"ComBat": np.asarray(copy.X)}


def muport(adata: ad.AnnData) -> dict[str, NDArray[np.float64]]:
    """Our values on both scales, and the means over neighbors."""
    Integration.setup_anndata(adata, batch_key="batch")
    model = Integration(adata)
    model.train(progress=False, accelerator="cpu")
    values = np.asarray(model.get_corrected_expression("adata").X, np.float64)
    counts = model.get_corrected_expression("adata", layer="counts").X
    log_counts = at_equal_depth(counts)
    neighbors = ad.AnnData(obs=adata.obs[[]], obsm={"X": model.get_latent_representation()})
    sc.pp.neighbors(neighbors, 30, use_rep="X")
    mean = (neighbors.obsp["distances"] > 0) + sparse.eye_array(len(values))
    mean = mean / mean.sum(axis=1)[:, None]
    return {
        "muport, log values": values,
        "muport, counts": log_counts,
        "muport, counts, smooth": np.log1p(mean @ np.expm1(log_counts)),
    }


def scvi(adata: ad.AnnData, epochs: int | None = None) -> dict[str, NDArray[np.float64]]:
    """scVI's normalized expression, averaged over all batches."""
    import scvi as package
    import torch

    torch.set_num_threads(1)  # the layers are small: threads would wait for each other
    package.settings.seed, package.settings.verbosity = 0, 40
    copy = ad.AnnData(adata.layers["counts"], obs=adata.obs[["batch"]].copy())
    package.model.SCVI.setup_anndata(copy, batch_key="batch")
    model = package.model.SCVI(copy)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    batches = sorted(set(copy.obs["batch"]))
    fractions = model.get_normalized_expression(transform_batch=batches, library_size=1, return_numpy=True)
    return {"scVI, smooth": np.log1p(fractions * np.median(np.asarray(copy.X.sum(axis=1))))}


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean over columns of the correlation of two matrices."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(((a * b).sum(axis=0)[norm > 0] / norm[norm > 0]).mean())


def score(sim: Simulation, values: NDArray[np.float64]) -> list[float]:
    """The columns of the table for corrected values."""
    obs, truth = sim.adata.obs, sim.adata.layers["truth"]
    keys = [obs["type"], obs["batch"], obs["condition"]]
    size = obs.groupby(keys, observed=True)["type"].transform("size") >= 10
    means = [pd.DataFrame(x, index=obs.index)[size].groupby(keys).mean().to_numpy() for x in (values, truth)]
    frame = pd.DataFrame(values, index=obs.index)
    of_type = frame.groupby(obs["type"]).transform("mean")
    of_batch = frame.groupby([obs["type"], obs["batch"]]).transform("mean")
    between = ((of_batch - of_type) ** 2).sum() / ((frame - of_type) ** 2).sum()
    return [
        correlation(values, truth),
        float(np.corrcoef(values.ravel(), truth.ravel())[0, 1]),
        correlation(*means),
        float(between.mean()),
        *find_changes(sim, values),
    ]


def find_changes(sim: Simulation, values: NDArray[np.float64], covariate: bool = False) -> tuple[float, float]:
    """Recall and fraction of false findings in one type; with `covariate`, batches are in the model of the test."""
    rows = (sim.adata.obs["type"] == sim.type_of_change).to_numpy()
    stimulated = (sim.adata.obs["condition"] == "c1").to_numpy()[rows]
    x = values[rows]
    if covariate:
        design = np.column_stack([pd.get_dummies(sim.adata.obs["batch"][rows]).to_numpy(float), stimulated])
        coefficient = np.linalg.lstsq(design, x, rcond=None)[0]
        free = len(x) - design.shape[1]
        variance = ((x - design @ coefficient) ** 2).sum(axis=0) / free
        error = np.sqrt(np.maximum(variance, 1e-12) * np.linalg.inv(design.T @ design)[-1, -1])
        p = 2 * stats.t.sf(np.abs(coefficient[-1] / error), free)
    else:
        p = np.nan_to_num(stats.ttest_ind(x[stimulated], x[~stimulated], equal_var=False).pvalue, nan=1)
    found = stats.false_discovery_control(p) < FDR
    return float(found[sim.changed].mean()), float((found & ~sim.changed).sum() / max(found.sum(), 1))


def rank_stimulated(adata: ad.AnnData, values: NDArray[np.float64]) -> tuple[int, int, int]:
    """Numbers of interferon genes among the 10 and 20 genes with the largest |t| of each type, and the most."""
    known = np.isin(adata.var_names, STIMULATED)
    first, possible = np.zeros(2, int), 0
    for kind in sorted(set(adata.obs["cell_type"])):
        rows = (adata.obs["cell_type"] == kind).to_numpy()
        stimulated = (adata.obs["condition"] == "stim").to_numpy()[rows]
        x = values[rows]
        t = np.nan_to_num(stats.ttest_ind(x[stimulated], x[~stimulated], equal_var=False).statistic)
        order = np.argsort(-np.abs(t), kind="stable")
        first += [int(known[order[:number]].sum()) for number in (10, 20)]
        possible += int(known.sum())
    return int(first[0]), int(first[1]), possible


def run_all(methods: list[Method], adata: ad.AnnData) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """The values of every method, and seconds."""
    values: dict[str, NDArray[np.float64]] = {}
    seconds = {}
    for method in methods:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = method(adata)
        values |= results
        seconds |= dict.fromkeys(results, time.perf_counter() - start)
    return values, seconds


def run_seed(seed: int, epochs: int | None) -> pd.DataFrame:
    """The table of one seed."""
    sim = simulate(seed)
    values, seconds = run_all([uncorrected, combat, muport, partial(scvi, epochs=epochs)], sim.adata)
    rows = {name: [*score(sim, x), seconds[name]] for name, x in values.items()}
    tested = find_changes(sim, values["uncorrected"], covariate=True)
    rows["uncorrected, batch as covariate"] = [*[np.nan] * 4, *tested, np.nan]
    heads = ["cells", "entries", "groups", "batch", "recall", "false", "seconds"]
    scores = pd.DataFrame.from_dict(rows, orient="index", columns=heads)
    print(seed, scores.round(3).to_string(), sep="\n", flush=True)
    return scores


def verdicts(mean: pd.DataFrame, ranked: dict[str, tuple[int, int, int]]) -> list[str]:
    """The targets."""
    ours, counts, smooth = (mean.loc[f"muport, {name}"] for name in ("log values", "counts", "counts, smooth"))
    peer = mean.loc["scVI, smooth"]
    covariate = mean.loc["uncorrected, batch as covariate"]
    bound, false = float(covariate["recall"]) - 0.02, float(covariate["false"]) + 0.02
    return [
        verdict("correlation over cells, smooth, against scVI", smooth["cells"], peer["cells"]),
        verdict("correlation over groups, smooth, against scVI", smooth["groups"], peer["groups"]),
        verdict("correlation over cells, log values (not smooth), against scVI", ours["cells"], peer["cells"]),
        verdict("correlation over groups, log values (not smooth), against scVI", ours["groups"], peer["groups"]),
        verdict("correlation over groups, log values, against ComBat", ours["groups"], mean.loc["ComBat", "groups"]),
        verdict("recall, log values, against the covariate less .02", ours["recall"], bound),
        verdict("recall, counts, against the covariate less .02", counts["recall"], bound),
        verdict("false findings, log values, against the covariate", ours["false"], false, at_most=True),
        verdict("ISG15, PSME2, MX2, APOL3 among the first 20, against uncorrected",
                float(ranked["muport, log values"][1]), float(ranked["uncorrected"][1]), digits=0),
    ]  # fmt: skip


def main() -> None:
    """Run, print, and write the page when all seeds and all epochs were run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=None, help="of scVI; its default by default")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tables = list(pool.map(partial(run_seed, epochs=args.epochs), args.seeds))
    mean = sum(tables) / len(tables)
    kang = datasets.load("kang_distinct_3donor")
    kang = with_log_values(ad.AnnData(kang.X.astype(np.float32), obs=kang.obs, var=kang.var[[]]))
    ranked = {name: rank_stimulated(kang, x) for name, x in run_all([uncorrected, combat, muport], kang)[0].items()}
    note = NOTE.format(
        n=N_CELLS, g=N_GENES, t=N_TYPES, b=N_BATCHES, c=N_CHANGED, e=EFFECT, i=INTERACTION, fdr=FDR,
        seeds=", ".join(map(str, args.seeds)), k=", ".join(STIMULATED), d=kang.obs["batch"].nunique(),
    )  # fmt: skip
    rows = [[name, *map(float, row)] for name, row in zip(mean.index, mean.to_numpy(), strict=True)]
    heads = ["values", "among the first 10", "among the first 20", "possible"]
    parts = [
        note,
        setting("scvi-tools", "scanpy", "numpy"),
        "## Targets\n",
        *verdicts(mean, ranked),
        "\n## Simulated counts\n",
        table(["values", *mean.columns], rows),
        "## Interferon genes after stimulation\n",
        table(heads, [[name, *row] for name, row in ranked.items()]),
    ]
    whole = tuple(args.seeds) == SEEDS and args.epochs is None
    report("corrected_expression", "Corrected expression", parts, write=whole)


if __name__ == "__main__":
    main()
