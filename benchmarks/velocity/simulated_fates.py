"""Fates of branching diffusions whose true fate probabilities are known, by each kernel.

Usage: ``python -m benchmarks.velocity.simulated_fates [--quick]``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks.common._tables import report, setting, table, verdict
from scipy.stats import rankdata

from muport import Velocity, pp
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

STEP, NOISE = 0.01, 0.6  # of the diffusion: step of progress, standard deviation per unit of progress
START, END = -0.3, 1.2  # progress of the first cells, and where fates are decided
N_ONWARD = 100  # paths from each cell, of which its true fate probabilities are
K, K_PSEUDOTIME = 15, 30
NOTE = f"""\
A cell has a progress u and two coordinates that diffuse (standard deviation {NOISE} per unit of u). From a split
on, the first is driven to 1 (fate A) or -1; with three fates, the second of the latter to 1 or -1 later on. Cells
are seen in many dimensions with noise, at a few days (progress differs within a day) or with a diffusion
pseudotime from the first cells. True fate probabilities: {N_ONWARD} paths onward from each cell. Terminal cells:
the latest cells of a branch. AUROC: of fates that are drawn by the true probabilities, mean over fates; error:
root mean square difference from the true probabilities; both over cells that are not terminal, nor of the last
day. Root: largest error of the mean fates of the first cells. *nearest terminal cells*: their fractions among the
{K} nearest. *pseudotime kernel*: the nearest {K_PSEUDOTIME} cells, without earlier ones but for the closest 30 %,
as in CellRank. The kernels were chosen on courses of these kinds with other seeds.
"""


@dataclass(frozen=True)
class Course:
    """One simulated course; `days` are the progress of each day, none with a pseudotime."""

    name: str
    days: tuple[float, ...] = ()
    n_cells: int = 250
    spread: float = 0.08
    dims: int = 20
    noise: float = 0.5
    bias: float = 0.0
    growth: float = 0.0
    three: bool = False
    sizes: tuple[int, ...] = ()


COURSES = (
    Course("5 days", (0, 0.25, 0.5, 0.75, 1), 200),
    Course("3 days", (0, 0.5, 1), 300),
    Course("3 days, asynchronous", (0, 0.5, 1), 300, spread=0.2),
    Course("3 days, noisy", (0, 0.5, 1), 300, dims=50, noise=0.8),
    Course("2 days", (0.15, 1), 400, spread=0.12),
    Course("4 days, three fates", (0, 0.33, 0.67, 1), three=True),
    Course("4 days, biased", (0, 0.33, 0.67, 1), bias=0.5),
    Course("4 days, unequal", (0, 0.33, 0.67, 1), sizes=(100, 600, 150, 400)),
    Course("4 days, A grows", (0, 0.33, 0.67, 1), growth=2),
    Course("8 days, asynchronous", tuple(np.linspace(0, 1.1, 8)), 120, spread=0.2),
    Course("5 days, few cells", (0, 0.25, 0.5, 0.75, 1), 60),
    Course("pseudotime"),
    Course("pseudotime, noisy", dims=50, noise=0.8),
    Course("pseudotime, three fates", three=True),
    Course("pseudotime, biased", bias=0.5),
    Course("pseudotime, A grows", growth=2),
    Course("pseudotime, few cells", n_cells=100),
)


@dataclass(frozen=True, eq=False)
class Cells:
    """Simulated cells with their true fate probabilities, a drawn fate, and the code of terminal cells."""

    x: NDArray[np.float32]
    progress: Floats
    day: Floats
    truth: Floats
    drawn: NDArray[np.int64]
    terminal: NDArray[np.int64]


def drift(u: Floats, y: Floats, course: Course) -> Floats:
    """(n, 2) drift of the coordinates."""
    split = 1 / (1 + np.exp(-(u - 0.35) / 0.05))
    first = -6 * y[:, 0] * (1 - split) + split * 5 * (y[:, 0] - y[:, 0] ** 3) + course.bias
    second = 1 / (1 + np.exp(-(u - 0.5) / 0.05)) * (y[:, 0] < 0) * course.three
    return np.stack([first, -6 * y[:, 1] * (1 - second) + second * 5 * (y[:, 1] - y[:, 1] ** 3)], axis=1)


def advance(u: Floats, y: Floats, end: Floats, course: Course, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Coordinates at the progress `end`, and the logarithm of the mass of each cell."""
    mass = np.zeros(len(u))
    while (u < end - 1e-9).any():
        h = np.clip(end - u, 0, STEP)
        mass += course.growth * h * ((y[:, 0] > 0) & (u > 0.35))
        y = y + drift(u, y, course) * h[:, None] + NOISE * np.sqrt(h)[:, None] * rng.normal(size=y.shape)
        u = u + h
    return y, mass


def fates_of(y: Floats, course: Course) -> NDArray[np.int64]:
    """(n,) fate of cells at the end."""
    return np.where(y[:, 0] > 0, 0, np.where((y[:, 1] > 0) & course.three, 2, 1))


def simulate(course: Course, seed: int) -> Cells:
    """Cells of all days; six times as many are followed, and drawn by their mass."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, day in enumerate(course.days or (0.0,)):
        n = course.sizes[i] if course.sizes else course.n_cells * (1 if course.days else 4)
        end = day + course.spread * rng.normal(size=6 * n) if course.days else rng.uniform(0, 1.15, 6 * n)
        end = np.maximum(end, START + STEP)
        y, mass = advance(np.full(6 * n, START), rng.normal(0, 0.17, (6 * n, 2)), end, course, rng)
        weight = np.exp(mass - mass.max())
        drawn = rng.choice(6 * n, n, replace=False, p=weight / weight.sum())
        parts.append((end[drawn], y[drawn], np.full(n, day)))
    u, y, days = (np.concatenate(part) for part in zip(*parts, strict=True))
    n_fates = 3 if course.three else 2
    start = np.repeat(u, N_ONWARD)
    onward, _ = advance(start, np.repeat(y, N_ONWARD, axis=0), np.maximum(start, END), course, rng)
    truth = np.eye(n_fates)[fates_of(onward, course)].reshape(len(u), N_ONWARD, n_fates).mean(axis=1)
    z = np.stack([10 * u, *(np.array([3, 2.5])[:, None] * y.T * np.clip(u + 0.3, 0.3, 1.3)), 2 * np.sin(np.pi * u)], 1)
    axes = np.linalg.qr(rng.normal(size=(course.dims, course.dims)))[0][:4]
    x = (z @ axes + course.noise * rng.normal(size=(len(u), course.dims))).astype(np.float32)
    late = (days == days.max()) & (u > (min(0.85, days.max() - 0.05) if course.days else 0.85))
    decided = (np.abs(y[:, 0]) > 0.6) & ((y[:, 0] > 0) | (np.abs(y[:, 1]) > 0.5) | (not course.three))
    drawn = np.array([rng.choice(n_fates, p=row) for row in truth])
    return Cells(x, u, days, truth, drawn, np.where(late & decided, fates_of(y, course), -1))


def pseudotime_kernel(x: NDArray[np.float32], time: Floats) -> sp.csr_matrix:
    """Moves to the nearest cells; of those beyond the closest, earlier ones are left out."""
    near = knn(x, K_PSEUDOTIME)
    weight = np.exp(-np.square(near.distances / np.median(near.distances)))
    earlier = time[near.indices] < time[:, None]
    earlier[:, : int(0.3 * K_PSEUDOTIME)] = False
    weight = np.where(earlier, 0, weight)
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(x)), K_PSEUDOTIME)
    return sp.csr_matrix((weight.ravel(), (rows, near.indices.ravel())), shape=(len(x), len(x)))


def predictions(course: Course, cells: Cells, seed: int) -> dict[str, Floats]:
    """Fate probabilities by each method."""
    from muport.velocity import fate_probabilities

    names = [f"cell{i}" for i in range(len(cells.x))]
    labels = np.where(cells.terminal < 0, "transient", np.array(["A", "B", "C"])[cells.terminal])
    obs = pd.DataFrame({"time": cells.day, "label": labels}, index=names)
    adata = ad.AnnData(np.zeros((len(names), 1), np.float32), obs=obs, obsm={"X_pca": cells.x})
    if not course.days:
        adata.obs["root"] = np.where(cells.progress < np.quantile(cells.progress, 0.05), "root", "other")
        pp.pseudotime(adata, root_cluster="root", labels_key="root")
        adata.obs["time"] = adata.obs["pseudotime"]
    Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time", labels_key="label")
    model = Velocity(adata)
    model.train(n_bootstrap=0, accelerator="cpu", random_state=seed, progress=False)
    ends = ["A", "B", "C"][: cells.truth.shape[1]]
    kernels = {"muport, combined": "combined", "muport, velocity alone": "velocity"}
    if course.days:
        kernels["muport, couplings alone"] = "coupling"
    found = {name: model.get_fates(ends, kernel=kernel)[ends].to_numpy() for name, kernel in kernels.items()}
    if not course.days:
        chain = pseudotime_kernel(cells.x, adata.obs["time"].to_numpy(np.float64))
        found["pseudotime kernel"] = fate_probabilities(chain, cells.terminal)
    ended = cells.terminal >= 0
    near = knn(cells.x[ended], min(K, int(ended.sum())), query=cells.x).indices
    found["nearest terminal cells"] = np.eye(len(ends))[cells.terminal[ended]][near].mean(axis=1)
    return {**found, "true probabilities": cells.truth}


def scores(course: Course, cells: Cells, fates: Floats) -> tuple[float, float, float]:
    """AUROC, error and error of the root."""
    fates = np.where(fates.sum(axis=1, keepdims=True) > 0, fates, 1 / fates.shape[1])
    kept = cells.terminal < 0
    first = cells.progress < np.quantile(cells.progress, 0.1)
    if course.days:
        kept, first = kept & (cells.day < cells.day.max()), cells.day == cells.day.min()
    areas = [auroc(cells.drawn[kept] == fate, fates[kept, fate]) for fate in range(fates.shape[1])]
    error = float(np.sqrt(np.square(fates - cells.truth)[kept].mean()))
    return float(np.mean(areas)), error, float(np.abs((fates - cells.truth)[first].mean(axis=0)).max())


def auroc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Probability that a positive cell has a larger score than another."""
    n = int(positive.sum())
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two courses; writes nothing")
    quick = parser.parse_args().quick
    rows = []
    for i, course in enumerate((COURSES[1], COURSES[-1]) if quick else COURSES):
        cells = simulate(course, 500 + i)
        for method, fates in predictions(course, cells, i).items():
            rows.append((course.name, method, *scores(course, cells, fates)))
            print(*rows[-1], flush=True)
    found = pd.DataFrame(rows, columns=["course", "method", "auroc", "error", "root"])
    time = found["course"].str.startswith("pseudotime").map({True: "pseudotime", False: "days"})
    mean = found.groupby([time.rename("time"), "method"], sort=False)[["auroc", "error", "root"]].mean()
    lines = []
    for kind in mean.index.levels[0]:
        ours = mean.loc[kind, "muport, combined"]
        for peer in mean.loc[kind].index.drop(["muport, combined", "true probabilities"]):
            theirs = mean.loc[kind, peer]
            lines.append(verdict(f"{kind}: mean AUROC, that of {peer}", ours["auroc"], theirs["auroc"]))
            lines.append(verdict(f"{kind}: mean error, that of {peer}", ours["error"], theirs["error"], at_most=True))
    header = ["method", "AUROC", "error", "root"]
    page = [NOTE, setting("torch", "numpy"), "## Targets\n", *lines, "\n## Means over the courses\n"]
    page.append(
        table(["time", *header], [[*key, *values] for key, values in zip(mean.index, mean.to_numpy(), strict=True)])
    )
    page += ["\n## Each course\n", table(["course", *header], [list(row) for row in rows])]
    report("velocity_fates", "Velocity: fates of simulated courses", page, write=not quick)


if __name__ == "__main__":
    main()
