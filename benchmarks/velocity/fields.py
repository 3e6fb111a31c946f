"""Velocity fields beside VelOT, scVelo and CellRank.

Usage: ``python -m benchmarks.velocity.fields [--parts ...] [--quick]``.
"""

from __future__ import annotations

import argparse
import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.velocity._velocity_methods import ROOT
from benchmarks.velocity._velocity_runs import LARRY_FATES, REAL, Outcome, larry, paths_of, run, simulated

from muport.metrics import cbdir, clonal_agreement, direction_free, iccoh, velocity_error
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("linear", "bifurcation", "trifurcation", "cycle")
DIMS, NOISES, SEEDS = (30, 50), (0.1, 0.25, 0.5), range(5)
K = 15
NOTE = """\
Every method runs in a process of its own with two threads and sees the same coordinates and the same time; muport and
VelOT at their defaults. Cosine: mean over cells of that between the field and the truth; p05: its 5th percentile;
magnitude error: median of | |v|/|u| - 1 | without any rescaling (VelOT's velocity is a displacement, not divided by
time); within 2 sd: share of cells whose true velocity is no farther than two of our standard deviations. CBDir, its
value on reversed edges, the contrast (half the difference) and ICCoh: `muport.metrics`, in the full space, 15
neighbours, unweighted means over edges or groups. Null: mean of the neighbours minus the cell. scVelo's velocities
come into the space by its own graph and `velocity_embedding`.
"""
PARTS = ("simulated", "real", "clones", "speed")

type Rows = list[list[object]]


def simulate(quick: bool) -> tuple[Rows, list[str]]:
    """Errors per kind, dimension and noise: means over seeds; VelOT on the first seed only."""
    seeds, n_cells = (SEEDS[:1], 2000) if quick else (SEEDS, 5000)
    dims = DIMS[:1] if quick else DIMS
    cases = [(*case, seed) for case in product(KINDS, dims, NOISES) for seed in seeds]
    chosen = {"muport": cases, "velot": [case for case in cases if case[-1] == 0]}
    if quick:
        chosen["velot"] = [case for case in chosen["velot"] if case[0] == "bifurcation"]
    frames: list[tuple[object, ...]] = []
    followed: list[dict[str, object]] = []
    for method, those in chosen.items():
        made = [simulated(kind, n_cells, d, noise, seed) for kind, d, noise, seed in those]
        for case, (data, truth), got in zip(those, made, run(method, [data for data, _ in made], 14_400), strict=True):
            error = velocity_error(got.arrays["velocity"], truth) if not got.error else None
            figures = (error.cosine, error.cosine_p05, error.magnitude) if error else (math.nan,) * 3
            figures += (_within(got, truth),)
            frames.append((method, *case[:3], *figures))
            print(method, *case, *figures, got.error, flush=True)
            if method == "muport" and not got.error:
                followed.append(dict(zip(("kind", "noise"), case[::2], strict=False)) | paths_of(data, got, ROOT))
    names = ["method", "kind", "dims", "noise", "cosine", "p05", "magnitude", "within"]
    found = pd.DataFrame(frames, columns=names)
    mean = found.groupby(names[:4], sort=False).agg(
        cosine=("cosine", "mean"),
        p05=("p05", "mean"),
        worst=("p05", "min"),
        magnitude=("magnitude", "mean"),
        within=("within", "mean"),
    )
    paths = pd.DataFrame(followed).groupby(["kind", "noise"], sort=False).mean()
    rows = [list(row) for row in mean.reset_index().itertuples(index=False)]
    return rows, _simulated_verdicts(mean.reset_index()) + _path_verdicts(paths.reset_index())


def _within(got: Outcome, truth: NDArray[np.float32]) -> float:
    """Share of cells whose true velocity is within two standard deviations, of the methods that tell any."""
    if got.error or "uncertainty" not in got.arrays:
        return math.nan
    off = np.linalg.norm(got.arrays["velocity"] - truth, axis=1)
    return float((off <= 2 * got.arrays["uncertainty"]).mean())


def _path_verdicts(paths: pd.DataFrame) -> list[str]:
    """The worst mean over dimensions and seeds of each kind and noise, and all of them."""
    forks = paths[paths["shares"].notna()]
    lines = [
        verdict("share of trajectories that stay in their branch", float(forks["kept"].min()), 0.99),
        verdict("error of the root's fate shares", float(forks["shares"].max()), 0.05, at_most=True),
        verdict("ends of trajectories, in distances of neighbours", float(paths["ends"].max()), 1.5, at_most=True),
        verdict("ends of SDE particles, likewise", float(paths["particles"].max()), 2.0, at_most=True),
    ]
    header = ("kind", "noise", "kept", "ends", "particles", "shares")
    rows = table(header, paths[list(header)].itertuples(index=False))
    return [
        *lines,
        f"\nPaths, means over dimensions and seeds (100 trajectories from the latter half of each branch):\n\n{rows}",
    ]


def _simulated_verdicts(mean: pd.DataFrame) -> list[str]:
    ours = mean[mean["method"] == "muport"]
    low, high = ours[ours["noise"] <= 0.25], ours[ours["noise"] > 0.25]
    return [
        verdict("least mean cosine, noise up to .25", float(low["cosine"].min()), 0.98),
        verdict("least mean cosine, noise .5", float(high["cosine"].min()), 0.96),
        verdict("least 5th percentile, noise up to .25", float(low["p05"].min()), 0.90),
        verdict("least 5th percentile, noise .5", float(high["p05"].min()), 0.90),
        verdict("largest median magnitude error", float(ours["magnitude"].max()), 0.15, at_most=True),
        verdict("least share of true velocities within two standard deviations", float(ours["within"].min()), 0.85),
    ]


def real(quick: bool) -> tuple[Rows, list[str]]:
    """Directions on measured data: one row per data set and method."""
    rows: Rows = []
    lines: list[str] = []
    for name in ("paul15",) if quick else REAL:
        case = REAL[name]()
        methods = ["muport", "velot"]
        methods += ["scvelo_stochastic", "scvelo_dynamical"] if "spliced" in case.data else []
        found = {method: run(method, [_seen(method, case.data)])[0] for method in methods}
        found["null"] = Outcome("null", {"velocity": direction_free(case.data["X"], K)}, 0.0)
        scores = {}
        for method, got in found.items():
            scores[method] = _directions(case, got) if not got.error else [math.nan] * 4
            rows.append([name, method, *scores[method], got.seconds])
            print(*rows[-1], got.error, flush=True)
        lines += _real_verdicts(name, scores)
        lines.append(f"  - {name}: {case.note}.")
    return rows, lines


def _seen(method: str, data: object) -> dict[str, NDArray[np.generic]]:
    counts = () if method.startswith("scvelo") else ("spliced", "unspliced")
    return {key: value for key, value in dict(data).items() if key not in counts}


def _directions(case: object, got: Outcome) -> list[float]:
    x, velocity = case.data["X"], got.arrays["velocity"]
    edges = cbdir(x, velocity, case.labels, case.edges, k=K)[["forward", "reverse", "contrast"]].mean()
    return [*map(float, edges), float(iccoh(x, velocity, case.labels, k=K)["coherence"].mean())]


def _real_verdicts(name: str, scores: dict[str, list[float]]) -> list[str]:
    contrast = {method: found[2] for method, found in scores.items()}
    lines = [verdict(f"{name}: contrast, twice VelOT's", contrast["muport"], 2 * contrast["velot"])]
    for peer in (method for method in contrast if method.startswith("scvelo")):
        lines.append(verdict(f"{name}: contrast, that of {peer}", contrast["muport"], contrast[peer]))
    lines.append(verdict(f"{name}: ICCoh, VelOT's", scores["muport"][3], scores["velot"][3]))
    return lines


def clones() -> tuple[Rows, list[str]]:
    """AUROC of fate probabilities on the day before the last, for all cells and for undifferentiated ones."""
    adata, data = larry()
    day, state = adata.obs["day"].to_numpy(), adata.obs["state_info"].astype(str).to_numpy()
    found = {
        "muport, days": run("muport_fates", [data["days"]])[0],
        "muport, days, couplings alone": run("muport_coupling_fates", [data["days"]])[0],
        "muport, days, velocity alone": run("muport_velocity_fates", [data["days"]])[0],
        "muport, pseudotime": run("muport_fates", [data["pseudotime"]])[0],
        "muport, pseudotime, velocity alone": run("muport_velocity_fates", [data["pseudotime"]])[0],
        "CellRank PseudotimeKernel": run("cellrank_fates", [data["pseudotime"]])[0],
        "kNN of terminal cells": _vote(data["days"]),
    }
    rows: Rows = []
    for who, keep in {"all": np.full(len(day), True), "undifferentiated": (state == "undiff") | (day == 6)}.items():
        for method, got in found.items():
            if got.error:
                rows.append([who, method, *[math.nan] * len(LARRY_FATES), math.nan])
                print(method, got.error, flush=True)
                continue
            fates = pd.DataFrame(got.arrays["fates"], columns=got.arrays["names"])[list(LARRY_FATES)]
            score = clonal_agreement(fates[keep], adata.obsm["X_clone"][keep], state[keep], day[keep], early=4, late=6)
            # a mean over fates with a handful of positive cells would be noise
            common = score["auroc"][score["n_positive"] >= 5]
            rows.append([who, method, *score["auroc"], common.mean()])
            print(*rows[-1], flush=True)
        counts = ", ".join(f"{name} {n}" for name, n in score["n_positive"].items())
        rows.append([who, f"(positive cells: {counts}; {score['n_clones'].iloc[0]} clones)", *[""] * 6])
    mean = {(str(row[0]), str(row[1])): float(row[-1]) for row in rows if row[-1] != ""}
    return rows, [
        verdict(
            f"{who} cells, {ours}: mean AUROC, the better of CellRank and kNN",
            mean[who, ours],
            max(mean[who, "CellRank PseudotimeKernel"], mean[who, "kNN of terminal cells"]),
        )
        for who in ("all", "undifferentiated")
        for ours in ("muport, days", "muport, pseudotime")
    ]


def _vote(data: dict[str, NDArray[np.generic]]) -> Outcome:
    """Shares of the fates among the nearest terminal cells."""
    fate, x = data["fate"], data["X"]
    names = np.unique(fate[fate != ""])
    found = knn(x[fate != ""], K, query=x).indices
    shares = (fate[fate != ""][found][:, :, None] == names).mean(axis=1)
    return Outcome("kNN", {"fates": shares, "names": names})


def speed(quick: bool) -> tuple[Rows, list[str]]:
    """Seconds and memory of the whole: neighbours, transport, network, and two-dimensional picture."""
    sizes = {5000: ("muport", "velot")} if quick else {
        5000: ("muport", "velot"), 40_000: ("muport", "velot"), 400_000: ("muport",),
    }  # fmt: skip
    got: dict[tuple[int, str], Outcome] = {}
    rows: Rows = []
    for n_cells, methods in sizes.items():
        data, truth = simulated("bifurcation", n_cells, 30, 0.25, 0)
        data = {"X": data["X"], "time": data["time"], "embedding": data["X"][:, :2]}
        for method in methods:
            out = got[n_cells, method] = run(method, [data])[0]
            error = velocity_error(out.arrays["velocity"], truth).cosine if not out.error else math.nan
            figures = [out.seconds, out.cpu, out.peak / 1e6, out.above / 1e6, error]
            rows.append([n_cells, method, out.version, *figures])
            print(*rows[-1], out.error, flush=True)
    return rows, _speed_verdicts(got)


def _speed_verdicts(got: dict[tuple[int, str], Outcome]) -> list[str]:
    lines = []
    for n_cells, bound in ((5000, 4.0), (40_000, 15.0)):
        ours, theirs = (got.get((n_cells, method), Outcome(method)) for method in ("muport", "velot"))
        lines += [
            verdict(f"times faster than VelOT at {n_cells:,} cells", theirs.seconds / ours.seconds, bound, digits=1),
            verdict(f"peak memory over VelOT's, {n_cells:,} cells", ours.peak / theirs.peak, 0.5, at_most=True),
            verdict(f"- the same above imports, {n_cells:,} cells", ours.above / theirs.above, 0.5, at_most=True),
        ]
    slope = got.get((400_000, "muport"), Outcome("")).seconds / got.get((40_000, "muport"), Outcome("")).seconds
    lines.append(verdict("time at 400,000 cells over that at 40,000", slope, 13.0, at_most=True, digits=1))
    return lines


HEADERS = {
    "simulated": (
        "Known fields",
        ["method", "kind", "dims", "noise", "cosine", "p05", "p05, worst seed", "magnitude error", "within 2 sd"],
    ),
    "real": ("Measured data", ["data", "method", "CBDir", "reversed", "contrast", "ICCoh", "seconds"]),
    "clones": (
        "Fates of clones (LARRY, AUROC, day 4 to 6)",
        ["cells", "method", *LARRY_FATES, "mean of fates with 5+ cells"],
    ),
    "speed": (
        "Speed and memory",
        ["cells", "method", "version", "seconds", "CPU s", "peak MB", "above imports MB", "cosine"],
    ),
}


def main() -> None:
    """Run, print, and write the page of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="few and small cases; writes nothing")
    args = parser.parse_args()
    calls = {"simulated": simulate, "real": real, "clones": lambda _: clones(), "speed": speed}
    for part in args.parts:
        rows, lines = calls[part](args.quick)
        title, header = HEADERS[part]
        page = [
            NOTE,
            setting("scanpy", "torch", "numpy"),
            "## Targets\n",
            *lines,
            "\n## Figures\n",
            table(header, rows),
        ]
        report(f"velocity_{part}", f"Velocity: {title}", page, write=not args.quick)


if __name__ == "__main__":
    main()
