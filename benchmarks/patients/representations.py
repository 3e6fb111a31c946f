"""Distances between samples: information, removal of batches, trajectory and replicates, as in SPARE.

Usage: ``python -m benchmarks.patients.representations``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.patients.cohort import log_ratios
from scipy.spatial.distance import cdist

from muport import GMM, datasets, metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTE = """\
No method sees a condition, a batch or a person. muport.GMM: `fit_gmm` and `get_sample_distances("mw2")`; moments,
sliced: `get_sample_distances("moments")` and `"sliced"`. Pseudobulk: Euclidean distances of the mean coordinates.
Composition: Euclidean distances of the centered log-ratios of the shares of annotated types. Information: F1 score of
the vote of the 5 nearest samples, averaged over the categories, or the rank correlation of numbers. Batch removal: 1 is
what unrelated samples have, 0 that neighbors are of one batch. Trajectory: rank correlation of a diffusion pseudotime
with a known order. Replicates: the cells of each sample are split at random in two halves, of which the other one must
be nearest. MW2 misses them since it grows with the root of a difference in composition: with equal weights of the
components in all samples, halves of covid find each other in .975, with equal covariances in .525; shrinkage of the
mixtures by 200 to 5,000 cells gives .525 to .600.
melanoma has some 29 cells a sample, 14 in a half; kang has six samples, of which the five neighbors are all others, so
that its information is 0. simulated order: 40 samples of 200 cells, with a score that moves two of five states by up to
four standard deviations and changes the odds of a third by a factor of up to e^2; two batches that move all cells by
half a standard deviation on each axis.
"""


def ordered_cohort(seed: int = 0, n_samples: int = 40, n_cells: int = 200, n_dims: int = 15) -> ad.AnnData:
    """Samples on a trajectory, in two batches that do not depend on it."""
    rng = np.random.default_rng(seed)
    score, batch = rng.uniform(size=n_samples), np.arange(n_samples) % 2
    center = 2 * rng.normal(size=(5, n_dims))
    axes = np.linalg.qr(rng.normal(size=(n_dims, 2)))[0].T
    shift = rng.choice([-0.5, 0.5], size=n_dims)
    cells, types = [], []
    for value, own in zip(score, batch, strict=True):
        odds = 0.4 * rng.normal(size=5) + 2 * value * np.eye(5)[2]
        state = rng.choice(5, n_cells, p=np.exp(odds) / np.exp(odds).sum())
        mean = center + 4 * value * np.eye(5)[:, :2] @ axes + own * shift + 0.2 * rng.normal(size=n_dims)
        cells.append(mean[state] + rng.normal(size=(n_cells, n_dims)))
        types.append(state)
    code = np.repeat(np.arange(n_samples), n_cells)
    obs = pd.DataFrame(
        {
            "sample": np.char.mod("S%02d", code), "score": score[code], "batch": np.char.mod("B%d", batch[code]),
            "cell_type": np.char.mod("T%d", np.concatenate(types)),
        },
        index=np.arange(len(code)).astype(str),
    )  # fmt: skip
    x = np.concatenate(cells).astype(np.float32)
    return ad.AnnData(np.zeros((len(x), 1), np.float32), obs=obs, obsm={"X_pca": x})


#: Data, sample, type, dimensions, components.
COHORTS = {
    "covid": ("covid_gloscope_20samples_pcs", "sample", "cell_type", 30, 8),
    "melanoma": ("melanoma_scfeatures_550", "patient", "cellTypes", 20, 3),
    "kang": ("kang_distinct_3donor", "sample_id", "cell_type", 30, 8),
    "simulated order": (None, "sample", "cell_type", 15, 5),
}


def distances(adata: ad.AnnData, sample: str, types: str, k: int) -> dict[str, pd.DataFrame]:
    """Distances between the samples by each method."""
    GMM.setup_anndata(adata, use_rep="X_use", sample_key=sample)
    own = GMM(adata)
    own.fit_gmm(k_comps=k, refit="full", verbose=False)
    names = list(own.state_.samples)
    code = pd.Categorical(adata.obs[sample].astype(str), categories=names).codes
    x = np.asarray(adata.obsm["X_use"], dtype=np.float64)
    mean = np.stack([np.bincount(code, column) for column in x.T], axis=1) / np.bincount(code)[:, None]
    counts = pd.crosstab(adata.obs[sample].astype(str), adata.obs[types].astype(str)).loc[names].to_numpy(np.float64)
    return {
        "muport.GMM": own.get_sample_distances("mw2"),
        "muport.GMM, moments": own.get_sample_distances("moments"),
        "muport.GMM, sliced": own.get_sample_distances("sliced"),
        "pseudobulk": _table(mean, names),
        "composition": _table(log_ratios(counts), names),
    }


def _table(x: NDArray[np.float64], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(cdist(x, x), index=names, columns=names)


def halves(adata: ad.AnnData, sample: str, seed: int = 0) -> ad.AnnData:
    """The same cells, each sample split in two."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    place = pd.Series(order).groupby(adata.obs[sample].astype(str).to_numpy()).rank(method="first").to_numpy()
    copy = adata.copy()
    copy.obs["half"] = adata.obs[sample].astype(str).to_numpy() + np.where(place % 2, "|a", "|b").astype(object)
    return copy


def main() -> None:
    """Run, print, and write the page."""
    rows: list[list[object]] = []
    replicates = {}
    for name, (source, sample, types, n_dims, k) in COHORTS.items():
        adata = ordered_cohort() if source is None else datasets.load(source)
        adata.obsm["X_use"] = np.ascontiguousarray(adata.obsm["X_pca"][:, :n_dims], dtype=np.float32)
        samples = adata.obs.groupby(adata.obs[sample].astype(str), observed=True).first()
        own, split = distances(adata, sample, types, k), distances(halves(adata, sample), "half", types, k)
        for method, between in own.items():
            person = pd.Series([str(half).split("|")[0] for half in split[method].index], index=split[method].index)
            found = metrics.replicate_retrieval(split[method], person)
            replicates[name, method] = found
            rows += [[name, method, what, *values] for what, values in scores(name, between, samples).items()]
            rows.append([name, method, "replicates", found])
            print(*rows[-1], flush=True)
    lines = [
        verdict(f"{name}: replicates of {method}", replicates[name, method], 0.98)
        for method in ("muport.GMM, moments", "muport.GMM")
        for name in COHORTS
    ]
    page = [NOTE, setting("numpy", "scikit-learn", "scanpy"), "## Targets\n", *lines, "\n## Figures\n",
            table(["cohort", "distance", "score", "value"], rows)]  # fmt: skip
    report("representations", "Patients: distances between samples", page, write=True)


def scores(name: str, between: pd.DataFrame, samples: pd.DataFrame) -> dict[str, list[float]]:
    """What can be scored on a cohort."""
    if name == "simulated order":
        return {
            "information, score": [metrics.sample_information(between, samples["score"])],
            "batch removal": [metrics.sample_batch_removal(between, samples["batch"])],
            "trajectory, score": [metrics.sample_trajectory(between, samples["score"])],
        }
    columns = {"covid": ["group"], "melanoma": ["condition"], "kang": ["condition", "donor"]}[name]
    return {f"information, {key}": [metrics.sample_information(between, samples[key].astype(str))] for key in columns}


if __name__ == "__main__":
    main()
