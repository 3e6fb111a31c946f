"""Few cells in both modalities: labels and imputed RNA of cells with ATAC alone.

Usage: ``python -m benchmarks.modalities.anchors [--anchors N ...] [--folder FOLDER] [--no-training]``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mudata as md
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from benchmarks.common._scores import accuracies
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.modalities._unpaired import log_norm, zscore
from benchmarks.modalities.paired import elsewhere, log_values

from muport import Integration, datasets, pp
from muport.metrics import knn_labels
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ANCHORS = (300, 1000)
N_RNA, N_ALONE = 1500, 500
K = 15
TYPES = 6  # the largest ones, whose mean expression is compared
NOTE = f"""\
snare_mouse_cortex, {N_RNA + N_ALONE:,} cells: {N_RNA:,} have RNA with known types, {N_ALONE} others ATAC alone. Some of
the cells with RNA have ATAC too: the anchors. Representations and the shared space of RNA and gene activity are those
that `muport.pp.prepare` makes of the counts. Scores are of the {N_ALONE} cells. Accuracy: the {K} nearest cells with
RNA vote (muport: `predict`). Imputed RNA: the mean of the log counts of the {K} nearest cells with RNA (muport:
`impute`); r is its correlation with the hidden measurements, over the mean of each gene in the {TYPES} largest types,
less its mean over types, and over genes and cells, less the mean of the gene.

Baselines: "anchors, nearest": the {K} nearest anchors by ATAC. "Shared space": no anchors, the only way in which cells
without RNA can be compared with RNA alone. "Side by side": both representations, each scaled to the same total
variance, missing blocks filled with the mean of the {K} nearest anchors in the other one. MOFA: mofapy2 with missing
views, 15 factors, on scaled logs of all genes and log TF-IDF of the peaks in 1 % of the cells; a dash: not trained.
"""


@dataclass(frozen=True)
class Anchored:
    """Partly paired cells, and what only the scores may read: the logs (n, genes) and labels of all cells, by name."""

    mdata: md.MuData
    anchors: pd.Index
    alone: pd.Index
    logs: pd.DataFrame
    labels: pd.Series

    @property
    def with_rna(self) -> pd.Index:
        return self.mdata["rna"].obs_names


def make_case(n_anchors: int) -> Anchored:
    """Cells with RNA, of which some have ATAC too, and cells with ATAC alone; prepared."""
    snare = datasets.load("snare_mouse_cortex", representations=False)
    order = snare.obs_names[np.random.default_rng(0).permutation(snare.n_obs)]
    with_rna, alone = order[:N_RNA], order[N_RNA : N_RNA + N_ALONE]
    rna = snare["rna"][with_rna].copy()
    atac = snare["atac"][with_rna[:n_anchors].append(alone)].copy()
    rna.obs, atac.obs = rna.obs[["batch", "cell_type"]], atac.obs[["batch"]]
    logs = snare["rna"][with_rna.append(alone)].copy()
    sc.pp.normalize_total(logs, target_sum=float(np.median(np.asarray(rna.X.sum(axis=1)))))
    sc.pp.log1p(logs)
    dense = logs.X.toarray() if sp.issparse(logs.X) else np.asarray(logs.X)
    mdata = md.MuData({"rna": rna, "atac": atac})
    pp.prepare(mdata, umap=False, progress=False)
    labels = snare["rna"].obs["cell_type"].astype(str)
    return Anchored(mdata, with_rna[:n_anchors], alone, pd.DataFrame(dense, logs.obs_names, logs.var_names), labels)


def rows_of(case: Anchored, modality: str, key: str) -> pd.DataFrame:
    """A representation, by cell name."""
    adata = case.mdata[modality]
    return pd.DataFrame(adata.obsm[key], adata.obs_names)


def score_neighbors(case: Anchored, Z: pd.DataFrame, sources: pd.Index | None = None) -> list[float]:
    """Scores of an embedding, by the nearest cells with RNA (or those of `sources`)."""
    sources = case.with_rna if sources is None else sources
    known, query = (np.ascontiguousarray(Z.loc[names], np.float32) for names in (sources, case.alone))
    labels = knn_labels(known, case.labels.loc[sources].to_numpy(str), query=query, k=K)
    imputed = case.logs.loc[sources].to_numpy()[knn(known, K, query=query).indices].mean(axis=1)
    return [*_accuracies(case, labels), *score_imputed(case, imputed)]


def _accuracies(case: Anchored, labels: NDArray[np.str_]) -> tuple[float, float]:
    truth = case.labels.loc[case.alone].to_numpy(str)
    return accuracies(truth, np.asarray(labels).astype(str), np.isin(truth, case.labels.loc[case.with_rna]))


def score_imputed(case: Anchored, imputed: NDArray[np.floating]) -> tuple[float, float]:
    """Correlation with the hidden RNA: of the differences between types, and of all values less the genes' means."""
    labels = case.labels.loc[case.alone]
    both = [pd.DataFrame(values, case.alone) for values in (imputed, case.logs.loc[case.alone].to_numpy())]
    large = labels.isin(labels.value_counts().index[:TYPES])
    means = [values[large].groupby(labels[large]).mean() for values in both]
    return tuple(
        float(np.corrcoef(*((part - part.mean()).to_numpy().ravel() for part in parts))[0, 1])
        for parts in (means, both)
    )


def score_muport(case: Anchored, *, shared: bool) -> list[float]:
    """Scores of `predict` and `impute`."""
    Integration.setup_mudata(
        case.mdata,
        use_rep={"rna": "X_pca", "atac": "X_lsi"},
        shared_rep="X_shared" if shared else None,
        batch_key="batch",
        labels_key="rna:cell_type",
    )
    model = Integration(case.mdata)
    model.train(progress=False)
    X = model.impute("rna", layer="logs")[case.alone].X
    imputed = X.toarray() if sp.issparse(X) else np.asarray(X)
    return [*_accuracies(case, model.predict().loc[case.alone]), *score_imputed(case, imputed)]


def side_by_side(case: Anchored) -> pd.DataFrame:
    """Both representations, scaled; a missing block is the mean of the nearest anchors in the other one."""
    blocks = {m: rows_of(case, m, key) for m, key in (("rna", "X_pca"), ("atac", "X_lsi"))}
    blocks = {m: (block - block.mean()) / np.sqrt(block.var().sum()) for m, block in blocks.items()}
    cells, parts = case.mdata.obs_names, []
    for m, other in (("rna", "atac"), ("atac", "rna")):
        missing = cells.difference(blocks[m].index)
        known, query = (np.ascontiguousarray(blocks[other].loc[names], np.float32) for names in (case.anchors, missing))
        values = blocks[m].loc[case.anchors].to_numpy()[knn(known, K, query=query).indices].mean(axis=1)
        parts.append(pd.concat([blocks[m], pd.DataFrame(values, missing)]).loc[cells])
    return pd.concat(parts, axis=1)


def score_mofa(case: Anchored, folder: Path, *, missing: bool) -> list[float]:
    """Scores of MOFA's factors; what a cell lacks is missing in its view. NaN if they are not there nor `missing`."""
    target = folder / f"mofa_anchors_{len(case.anchors)}.npz"
    if not target.exists() and not missing:
        return [float("nan")] * 4
    if not target.exists():
        rna, atac = case.mdata["rna"].copy(), case.mdata["atac"].copy()
        rna.X = rna.layers.get("counts", rna.X)
        views = {"rna": (rna, zscore(log_norm(rna.X))), "atac": (atac, log_values(atac))}
        arrays = {
            m: pd.DataFrame(X, a.obs_names).reindex(case.mdata.obs_names).to_numpy() for m, (a, X) in views.items()
        }
        elsewhere("mofa", arrays, target)
    with np.load(target) as data:
        return score_neighbors(case, pd.DataFrame(data["Z"].astype(np.float32), case.mdata.obs_names))


def score_anchors(n_anchors: int, folder: Path, *, missing: bool) -> list[list[object]]:
    """Scores of every method with some anchors."""
    case = make_case(n_anchors)
    case.mdata["rna"].layers["logs"] = sp.csr_matrix(case.logs.loc[case.with_rna].to_numpy(np.float32))
    shared = pd.concat([rows_of(case, "atac", "X_shared").loc[case.alone], rows_of(case, "rna", "X_shared")])
    methods: dict[str, Callable[[], list[float]]] = {
        "anchors, nearest": lambda: score_neighbors(case, rows_of(case, "atac", "X_lsi"), case.anchors),
        "Shared space": lambda: score_neighbors(case, shared),
        "Side by side": lambda: score_neighbors(case, side_by_side(case)),
        "muport": lambda: score_muport(case, shared=True),
        "muport, no shared space": lambda: score_muport(case, shared=False),
        "MOFA": lambda: score_mofa(case, folder, missing=missing),
    }
    rows: list[list[object]] = []
    for name, call in methods.items():
        rows.append([name, n_anchors, *call()])
        print(*rows[-1], flush=True)
    return rows


def verdicts(rows: list[list[object]]) -> list[str]:
    """The targets: labels and imputed RNA at least those of the best baseline with the same anchors."""
    lines = []
    for n_anchors in dict.fromkeys(row[1] for row in rows):
        here = {str(row[0]): row for row in rows if row[1] == n_anchors}
        for column, text in ((2, "accuracy"), (4, "imputed RNA, r between types")):
            others = {
                name: float(row[column])
                for name, row in here.items()
                if not name.startswith("muport") and not np.isnan(float(row[column]))
            }
            best = max(others, key=lambda name: others[name])
            value = float(here["muport"][column])
            lines.append(verdict(f"{n_anchors} anchors, {text}, the best baseline ({best})", value, others[best]))
    return lines


def main() -> None:
    """Run, print, and write the page if it was run whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anchors", nargs="+", type=int, default=list(ANCHORS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "muport-paired")
    parser.add_argument("--no-training", action="store_true", help="leave out MOFA where its factors are not there")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        row for n_anchors in args.anchors for row in score_anchors(n_anchors, args.folder, missing=not args.no_training)
    ]
    header = ["method", "anchors", "accuracy", "balanced", "r between types", "r of cells"]
    parts = [NOTE, setting("scanpy", "numpy"), "## Targets\n", *verdicts(rows), "\n## Figures\n", table(header, rows)]
    report("anchors", "Few cells in both modalities", parts, write=set(args.anchors) == set(ANCHORS))


if __name__ == "__main__":
    main()
