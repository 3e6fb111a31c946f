"""Paired and partly paired cells.

Usage: ``python -m benchmarks.modalities.paired [--parts ...] [--peers FOLDER] [--no-training] [--ours]``.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._measure import ROOT, make_environment
from benchmarks.common._scores import accuracies
from benchmarks.common._tables import OTHERS, read_page, report, setting, table, verdict
from benchmarks.modalities._paired_cases import PAIRED, Case, case, in_order
from benchmarks.modalities._unpaired import log_norm, zscore

from muport.metrics import foscttm, knn_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    from numpy.typing import NDArray

RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
SEEDS = (0, 1, 2)
K = 15
PREPARED = ", prepared"
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
EPOCHS = {"multivi": 80, "totalvi": 0}  # 0: the peer's own number
GLUE_CAPPED = 45  # epochs of each of the two stages of scGLUE
COUNTS_PEER = {"snare_mouse_cortex": "multivi", "teaseq_rna_adt": "totalvi"}
FEW = 4_000  # hidden cells whose mixing is scored
PAIRED_NOTE = f"""\
NMI and ARI of Leiden clusters with the cell types, both at the resolution of {RESOLUTIONS} with the highest mean of the
two, for every method alike; means of {len(SEEDS)} seeds of Leiden on {K} neighbours. Purity: share of a cell's {K}
neighbours of its type (no clustering). Representations by one recipe (`shared/data`'s README): PCA of logs, LSI without
its first component; "prepared": those that `muport.pp.prepare` makes of the counts. No method sees labels; those of
snare_mouse_cortex were made from RNA. muport: `Integration` with two modalities; RNA and second modality alone:
`Integration` with one, and the representation as it is (raw). WNN: muon's, on the representations (its graph is what
Leiden sees; purity by its distances). MOFA: mofapy2, 15 factors, on the logs of all genes and, of ATAC, log TF-IDF of
the peaks in 1 % of the cells, or the proteins' CLR. MultiVI and totalVI: on counts, as `_paired_peers.py`
says; a dash: not trained.
"""
MOSAIC_NOTE = f"""\
snare_mouse_cortex. A share of the cells is paired; the others are two cells each, one in each modality, under other
names. Accuracy: {K} nearest cells with RNA vote for the cells with ATAC alone, in the latent space without labels.
FOSCTTM: mean share of cells closer than the true partner (.5: chance). iLISI and kBET: scib-metrics', of the modality
among cells with one modality ({FEW} at most; 1 is best). At 0 % nothing is paired and the shared space (gene activity)
is integrated; with fewer pairs than 30 the same. "pp.shared_representation": that space made by muport; "prepared":
the modalities' own representations too (`pp.prepare`). "Shared space": the space as it is. scGLUE (0.4.1): as in its
tutorial (negative binomials, PCA and LSI of 100 components, all genes, peaks guided by the genes they are linked to),
with the peaks in 1 % of the cells, batches as its batches, and its model of paired cells where there are any; a paired
cell is the mean of its two. Each of its two stages is stopped at {GLUE_CAPPED} epochs (its own limit is 166 to 265).
A dash: not trained.
"""


def muport_latent(
    found: Case, *, shared: str | None = None, weights: dict[str, str] | None = None, suffix: str = ""
) -> NDArray[np.float32]:
    """Our latent space of a case; `shared` is the space that modalities have in common."""
    from muport import Integration

    keys = {"batch_key": found.batch_key, "shared_rep": shared}
    Integration.setup_mudata(found.mdata, use_rep=found.use_rep, **keys)
    model = Integration(found.mdata)
    model.train(progress=False)
    if weights is not None:
        share = model.get_modality_weights().median()
        weights[found.name + suffix] = ", ".join(f"{name} {value:.2f}" for name, value in share.items())
    return in_order(found, model.get_latent_representation())


def muport_alone(adata: ad.AnnData, rep: str, batch_key: str | None) -> NDArray[np.float32]:
    """Our latent space of one modality."""
    from muport import Integration

    Integration.setup_anndata(adata, use_rep=rep, batch_key=batch_key)
    model = Integration(adata)
    model.train(progress=False)
    return model.get_latent_representation()


def elsewhere(name: str, arrays: dict[str, NDArray], target: Path, *arguments: str) -> None:
    """``_paired_{name}.py`` on some arrays, in its own environment (made if it is not there)."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        make_environment(name, python.parents[1])
    source = target.with_suffix(".in.npz")
    np.savez(source, **arrays)
    command = [
        python,
        "-W",
        "ignore",
        ROOT / "benchmarks" / "modalities" / f"_paired_{name}.py",
        source,
        target,
        *arguments,
    ]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    source.unlink()


def mofa_latent(found: Case, folder: Path) -> NDArray[np.float32]:
    """MOFA's factors, from its own environment."""
    target = folder / f"mofa_{found.name}.npz"
    if not target.exists():
        views = {"rna": zscore(log_norm(found.mdata["rna"].X)), found.second: log_values(found.mdata[found.second])}
        elsewhere("mofa", views, target)
    with np.load(target) as data:
        return data["Z"].astype(np.float32)


def log_values(adata: ad.AnnData) -> NDArray[np.float32]:
    """Log TF-IDF of the peaks in 1 % of the cells, or the CLR of proteins."""
    from benchmarks.modalities._unpaired import clr

    if adata.n_vars < 1000:
        return clr(adata.X)
    import muon as mu

    common = adata[:, np.asarray((adata.X > 0).mean(axis=0)).ravel() >= 0.01].copy()
    mu.atac.pp.tfidf(common, scale_factor=1e4)
    return np.asarray(common.X.toarray(), dtype=np.float32)


def peer_latent(found: Case, method: str, share: float, folder: Path, *, missing: bool) -> tuple[NDArray, str] | None:
    """Latent space of a peer on counts, from the folder if it is there, and how long it was trained."""
    target = folder / (f"{method}.npz" if method == "totalvi" else f"{method}_{round(100 * share)}.npz")
    if not target.exists():
        if not missing:
            return None
        arguments = [method, found.name, str(share), str(EPOCHS[method]), str(target)]
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.modalities._paired_peers", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"}, check=False)
        if done.returncode:
            return None
    return _trained(found, target)


def glue_latent(found: Case, share: float, folder: Path, *, missing: bool) -> tuple[NDArray, str] | None:
    """scGLUE's latent space, from the folder if it is there, and how long it was trained."""
    target = folder / f"glue_{round(100 * share)}.npz"
    if not target.exists():
        if not missing:
            return None
        elsewhere("glue", _glue_arrays(found), target, str(GLUE_CAPPED))
    return _trained(found, target)


def _glue_arrays(found: Case) -> dict[str, NDArray]:
    import scipy.sparse as sp

    from muport import datasets

    arrays = {"cell": found.row, "mod": found.kind, "paired": np.array((found.kind == "both").sum())}
    counts = {"link": datasets.load(found.name)["atac"].varm["gene_link"]}
    for modality in ("rna", "atac"):
        adata = found.mdata[modality]
        counts[modality] = adata.X
        arrays[f"{modality}_names"] = adata.obs_names.to_numpy().astype(str)
        arrays[f"{modality}_batch"] = adata.obs[found.batch_key].to_numpy().astype(str)
    for name, values in counts.items():
        X = sp.csr_matrix(values)
        arrays |= {f"{name}_{part}": getattr(X, part) for part in ("data", "indices", "indptr")}
        arrays[f"{name}_shape"] = np.array(X.shape)
    return arrays


def _trained(found: Case, target: Path) -> tuple[NDArray, str]:
    with np.load(target) as data:
        same = np.array_equal(data["cell"], found.row) and np.array_equal(data["mod"], found.kind)
        assert same, f"{target} holds other cells: remove it"
        return data["Z"].astype(np.float32), f"{int(data['epochs'])} epochs"


def wnn(found: Case) -> ad.AnnData:
    """muon's weighted nearest neighbours, as a graph of cells."""
    import anndata as ad
    import mudata as md
    import muon as mu
    import scanpy as sc

    parts = {m: ad.AnnData(found.mdata[m].obsm[rep]) for m, rep in found.use_rep.items()}
    for part in parts.values():
        part.obs_names = [str(i) for i in range(part.n_obs)]
        sc.pp.neighbors(part, use_rep="X", n_neighbors=K, random_state=0)
    mdata = md.MuData(parts)
    mu.pp.neighbors(mdata, n_neighbors=K, random_state=0)
    out = ad.AnnData(np.zeros((mdata.n_obs, 1), np.float32))
    out.obsp, out.uns["neighbors"] = dict(mdata.obsp), mdata.uns["neighbors"]
    return out


def graph(Z: NDArray[np.float32]) -> ad.AnnData:
    """Neighbours of an embedding."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(np.ascontiguousarray(Z, np.float32))
    sc.pp.neighbors(adata, use_rep="X", n_neighbors=K, random_state=0)
    return adata


def cluster_scores(adata: ad.AnnData, label: NDArray[np.str_]) -> list[float]:
    """NMI, ARI and their mean at the best resolution, that resolution, and the purity of neighbours."""
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found = []
    for resolution in RESOLUTIONS:
        both = []
        for seed in SEEDS:
            settings = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
            sc.tl.leiden(adata, resolution=resolution, key_added="leiden", **settings)
            found_labels = adata.obs["leiden"].to_numpy()
            nmi = normalized_mutual_info_score(label, found_labels)
            both.append((nmi, adjusted_rand_score(label, found_labels)))
        found.append(np.mean(both, axis=0))
    best = int(np.mean(found, axis=1).argmax())
    distances = adata.obsp["distances"].tocoo()
    same = label[distances.row] == label[distances.col]
    return [*map(float, found[best]), float(np.mean(found[best])), RESOLUTIONS[best], float(same.mean())]


def prepared(found: Case) -> Case:
    """The same cells with the representations that muport makes of their counts."""
    from muport import pp

    for modality in found.mdata.mod:
        found.mdata[modality].obsm.clear()
    pp.prepare(found.mdata, umap=False)
    return found


def on_representations(found: Case, suffix: str, weights: dict[str, str]) -> dict[str, Callable[[], ad.AnnData]]:
    """The methods that read representations: name with the suffix -> graph of the cells."""
    rna, other, key = found.mdata["rna"], found.mdata[found.second], found.batch_key
    rep = found.use_rep[found.second]
    methods = {
        "muport": lambda: graph(muport_latent(found, weights=weights, suffix=suffix)),
        "RNA alone": lambda: graph(muport_alone(rna, "X_pca", key)),
        f"{found.second} alone": lambda: graph(muport_alone(other, rep, key)),
        "RNA alone, raw": lambda: graph(rna.obsm["X_pca"]),
        f"{found.second} alone, raw": lambda: graph(other.obsm[rep]),
        "WNN (muon)": lambda: wnn(found),
    }
    return {name + suffix: call for name, call in methods.items()}


def paired_part(
    names: list[str], folder: Path, missing: bool, ours: bool
) -> tuple[list[list[object]], list[str], dict[str, str]]:
    """Scores of every method, or of ours alone, on paired cells; what was trained how long, and our weights."""
    rows: list[list[object]] = []
    notes: list[str] = []
    weights: dict[str, str] = {}
    for name in names:
        found, made = case(name), prepared(case(name))
        peer = COUNTS_PEER[name]
        methods = {
            **on_representations(found, "", weights),
            **on_representations(made, PREPARED, weights),
            "MOFA": lambda f=found: graph(mofa_latent(f, folder)),
            peer: lambda f=found, p=peer: _peer_graph(f, p, folder, missing, notes),
        }
        for method, call in _chosen(methods, ours).items():
            start = time.perf_counter()
            try:
                scores = cluster_scores(call(), found.label)
            except Exception as error:  # noqa: BLE001
                print(f"{method} on {name} failed: {error!r}", flush=True)
                scores = [math.nan] * 5
            rows.append([name, method, *scores])
            print(*rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    return rows, notes, weights


def _chosen[T](methods: dict[str, T], ours: bool) -> dict[str, T]:
    """All methods, or muport with its variants alone."""
    return {name: call for name, call in methods.items() if not ours or name.startswith("muport")}


def merge_rows(kept: list[list[object]], rows: list[list[object]]) -> list[list[object]]:
    """The rows of a page, those measured again in place of the former ones; the first two columns are the key."""
    again = {tuple(row[:2]): row for row in rows}
    return [again.get(tuple(row[:2]), row) for row in kept]


def _peer_graph(found: Case, method: str, folder: Path, missing: bool, notes: list[str]) -> ad.AnnData:
    return graph(_noted(f"{method} on {found.name}", peer_latent(found, method, 1.0, folder, missing=missing), notes))


def mixing(Z: NDArray[np.float32], kind: NDArray[np.str_], label: NDArray[np.str_]) -> tuple[float, float]:
    """iLISI and kBET of the modality among cells with one modality."""
    from scib_metrics import ilisi_knn, kbet_per_label
    from scib_metrics.nearest_neighbors import pynndescent

    one = np.flatnonzero(kind != "both")
    if len(one) > FEW:
        one = np.sort(np.random.default_rng(0).choice(one, FEW, replace=False))
    codes = np.unique(kind[one], return_inverse=True)[1]
    near = pynndescent(Z[one].astype(np.float32), n_neighbors=90, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lisi = float(ilisi_knn(near, codes))
        kbet = float(kbet_per_label(near.subset_neighbors(n=50), codes, label[one]))
    return lisi, kbet


def mosaic_scores(found: Case, Z: NDArray[np.float32]) -> list[float]:
    """Accuracy, balanced accuracy, FOSCTTM, iLISI and kBET."""
    hidden = found.kind == found.second
    voters = ~hidden
    answer = knn_labels(Z[voters], found.label[voters], query=Z[hidden], k=K)
    pairs = foscttm(Z[found.kind == "rna"], Z[hidden])
    return [
        *accuracies(found.label[hidden], answer, np.full(hidden.sum(), True)),
        pairs,
        *mixing(Z, found.kind, found.label),
    ]


def mosaic_part(shares: list[float], folder: Path, missing: bool, ours: bool) -> tuple[list[list[object]], list[str]]:
    """Scores of every method, or of ours alone, with some of the pairing hidden."""
    rows: list[list[object]] = []
    notes: list[str] = []
    for share in shares:
        if share == 1:
            continue
        found = case("snare_mouse_cortex", share)
        methods = {
            "muport": lambda f=found: muport_latent(f, shared="X_shared"),
            "muport, pp.shared_representation": lambda f=found: muport_latent(f, shared=_own_shared(f)),
            "muport, prepared": lambda s=share: _all_own(s),
            "Shared space": lambda f=found: _shared(f),
            "multivi": lambda f=found, s=share: _noted(
                f"multivi at {s:.0%}", peer_latent(f, "multivi", s, folder, missing=missing), notes
            ),
            "scGLUE": lambda f=found, s=share: _noted(
                f"scGLUE at {s:.0%}", glue_latent(f, s, folder, missing=missing), notes
            ),
        }
        if share > 0:
            methods["muport, no shared space"] = lambda f=found: muport_latent(f)
        for method, call in _chosen(methods, ours).items():
            start = time.perf_counter()
            try:
                scores = mosaic_scores(found, call())
            except Exception as error:  # noqa: BLE001
                print(f"{method} at {share} failed: {error!r}", flush=True)
                scores = [math.nan] * 5
            rows.append([method, f"{share:.0%}", *scores])
            print(*rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    return rows, notes


def _own_shared(found: Case) -> str:
    """Key of the space of RNA and gene activity that muport makes of the counts."""
    from muport import datasets, pp

    source, atac = datasets.load(found.name)["atac"], found.mdata["atac"]
    atac.varm["gene_link"], atac.uns["gene_link_genes"] = source.varm["gene_link"], source.uns["gene_link_genes"]
    pp.shared_representation(found.mdata, activity="gene_link", key_added="X_own")
    return "X_own"


def _all_own(share: float) -> NDArray[np.float32]:
    """Our latent space from representations and a shared space that muport makes of the counts."""
    found = prepared(case("snare_mouse_cortex", share))
    return muport_latent(found, shared=_own_shared(found))


def _shared(found: Case) -> NDArray[np.float32]:
    rna, other = (found.mdata[m].obsm["X_shared"] for m in ("rna", found.second))
    return np.concatenate([rna, other[int((found.kind == "both").sum()) :]])


def _noted(name: str, got: tuple[NDArray, str] | None, notes: list[str]) -> NDArray[np.float32]:
    if got is None:
        raise ValueError("not trained")
    notes.append(f"- {name}: {got[1]}.")
    return got[0]


def paired_verdicts(rows: list[list[object]]) -> list[str]:
    """The targets: highest mean of NMI and ARI, and not below RNA alone, from given and from our representations."""
    lines = []
    for name in dict.fromkeys(str(row[0]) for row in rows):
        mean = {str(row[1]): float(row[4]) for row in rows if row[0] == name and not math.isnan(float(row[4]))}
        for suffix in ("", PREPARED):
            ours = "muport" + suffix
            others = {k: v for k, v in mean.items() if not k.startswith("muport") and (suffix or PREPARED not in k)}
            best = max(others, key=lambda method: others[method])
            alone = max(v for k, v in others.items() if k.startswith("RNA alone") and k.endswith(suffix))
            text = f"{name}{suffix}: mean of NMI and ARI"
            lines.append(verdict(f"{text}, the best other ({best})", mean[ours], others[best]))
            lines.append(verdict(f"{text}, RNA alone", mean[ours], alone))
    return lines


def mosaic_verdicts(rows: list[list[object]]) -> list[str]:
    """The target: no step down of more than .1 in accuracy, or up in FOSCTTM, as pairs vanish."""
    ours = [row for row in rows if row[0] == "muport"]
    accuracy, distance = [float(row[2]) for row in ours], [float(row[4]) for row in ours]
    if len(ours) < 2:
        return []
    return [
        verdict("largest fall of accuracy between two shares", max(-np.diff(accuracy)), 0.1, at_most=True),
        verdict("largest rise of FOSCTTM between two shares", max(np.diff(distance)), 0.1, at_most=True),
    ]


def write_paired(rows: list[list[object]], notes: list[str], *, ours: bool, write: bool) -> None:
    """Print the page of paired cells, and write it."""
    header = ["data set", "method", "NMI", "ARI", "mean", "resolution", "purity"]
    if ours:
        kept, former, commit = read_page("paired", header, 2)
        rows = merge_rows(kept, rows)
        notes = [*notes, *_of_peers(former), f"{OTHERS}{commit}."]
    parts = [PAIRED_NOTE, notes[0], "## Targets\n", *paired_verdicts(rows), "\n## Figures\n", table(header, rows)]
    report("paired", "Paired cells", [*parts, *notes[1:]], write=write)


def _of_peers(notes: list[str]) -> list[str]:
    """The notes on how long other methods were trained."""
    return [note for note in notes if note.endswith("epochs.")]


def write_mosaic(rows: list[list[object]], notes: list[str], *, ours: bool, write: bool) -> None:
    """Print the page of partly paired cells, and write it."""
    header = ["method", "paired", "accuracy", "balanced", "FOSCTTM", "iLISI", "kBET"]
    if ours:
        kept, former, commit = read_page("mosaic", header, 2)
        measured = ", ".join(dict.fromkeys(str(row[1]) for row in rows))
        rows = merge_rows(kept, rows)
        notes = [*notes, *_of_peers(former), f"- muport was measured again at {measured}.", f"{OTHERS}{commit}."]
    rows.sort(key=lambda row: str(row[0]))
    parts = [MOSAIC_NOTE, notes[0], "## Targets\n", *mosaic_verdicts(rows), "\n## Figures\n", table(header, rows)]
    report("mosaic", "Partly paired cells", [*parts, *notes[1:]], write=write)


def main() -> None:
    """Run the parts, print them, and write the pages of those that were run whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=("paired", "mosaic"), default=["paired", "mosaic"])
    parser.add_argument("--datasets", nargs="+", choices=PAIRED, default=list(PAIRED))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "muport-paired")
    parser.add_argument("--no-training", action="store_true", help="leave out peers whose latent space is not there")
    parser.add_argument("--ours", action="store_true", help="measure muport alone; keep the other rows of the page")
    args = parser.parse_args()
    args.peers.mkdir(parents=True, exist_ok=True)
    versions = setting("scvi-tools", "muon", "scib-metrics", "scanpy", "numpy")
    if "paired" in args.parts:
        rows, notes, weights = paired_part(args.datasets, args.peers, not args.no_training, args.ours)
        notes = [f"- muport's weights on {name} (median over cells): {text}." for name, text in weights.items()] + notes
        write_paired(rows, [versions, *notes], ours=args.ours, write=set(args.datasets) == set(PAIRED))
    if "mosaic" in args.parts:
        rows, notes = mosaic_part(args.shares, args.peers, not args.no_training, args.ours)
        write_mosaic(rows, [versions, *notes], ours=args.ours, write=args.ours or set(args.shares) == set(SHARES))


if __name__ == "__main__":
    main()
