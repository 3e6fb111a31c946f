"""Modalities without shared features or pairs: the bridge beside SCOT, on measured and on simulated cells.

``MUPORT_DATA=... python benchmarks/unshared.py`` writes ``benchmarks/results/unshared.md``.

SCOT (version 1) is written from its paper (Demetci et al. 2022): unit rows, hop distances in the k-nearest-neighbour
graph by correlation, divided by the largest, entropic Gromov-Wasserstein of POT, barycentric projection.  On the cell
lines it gets the k and epsilon its authors publish (which they chose with the pairing); elsewhere its defaults, k =
50 and epsilon = 1e-3.  Ours has no setting to give.  Times are CPU seconds of this process, on one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import ot
from scipy.sparse.csgraph import dijkstra
from sklearn.neighbors import KNeighborsClassifier, kneighbors_graph
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from muport.datasets import load
from muport.integration._bridge import confidence, cross, fit_bridge
from muport.metrics import foscttm

RESULT = Path(__file__).parent / "results" / "unshared.md"
PUBLISHED = {"snare_celllines_scot": (110, 1e-3)}
DEFAULT = (50, 1e-3)
VOTERS = 5
FIGURES = ("objective", "stability", "margin")
COLUMNS = "case | modalities | method | FOSCTTM | first from second | second from first | CPU s | unsupervised figures"
SEEDS = 2
SHARES = {
    "3 branches": (0.5, 0.3, 0.2),
    "4 branches": (0.4, 0.3, 0.2, 0.1),
    "5 clusters": (0.32, 0.26, 0.2, 0.14, 0.08),
}


@dataclass(frozen=True)
class Case:
    """Cells and types of each modality; where `paired`, row i is one cell in all."""

    name: str
    views: dict[str, np.ndarray]
    kind: dict[str, np.ndarray]
    paired: bool


def measured() -> list[Case]:
    out = []
    for name, column in (("snare_celllines_scot", "cell_type"), ("scnmt_features_pamona", "stage")):
        mods = load(name).mod
        views = {key: np.asarray(one.X, np.float32) for key, one in mods.items()}
        kind = {key: one.obs[column].astype(str).to_numpy() for key, one in mods.items()}
        out.append(Case(name, views, kind, name.startswith("snare")))
    return out


def simulated(name: str, seed: int, n: int = 450) -> Case:
    """Two random smooth views of branches or clusters; "shifted" ones have other proportions in the second."""
    rng = np.random.default_rng([seed, len(name)])
    first, second = _shares(name)
    if "branches" in name:
        way = rng.normal(size=(len(first), 6))
        way *= 2 * np.linspace(1.5, 0.6, len(first))[:, None] / np.linalg.norm(way, axis=1, keepdims=True)
        draw = [_along(way, share, n, rng) for share in (first, second)]
    else:
        center = 1.6 * rng.normal(size=(len(first), 5))
        draw = [_around(center, share, n, rng) for share in (first, second)]
    paired = first == second
    latent, kinds = zip(*(draw[:1] * 2 if paired else draw), strict=True)
    views = {key: _view(z, d, rng) for key, z, d in zip(("a", "b"), latent, (20, 15), strict=True)}
    return Case(f"{name} {seed}", views, dict(zip(("a", "b"), (k.astype(str) for k in kinds), strict=True)), paired)


def _shares(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    even = {
        "3 branches": (0.5, 0.3, 0.2),
        "4 branches": (0.4, 0.3, 0.2, 0.1),
        "5 clusters": (0.32, 0.26, 0.2, 0.14, 0.08),
    }
    share = even[name.removeprefix("shifted ")]
    return share, share[::-1] if name.startswith("shifted") else share


def _along(way, share, n, rng):
    kind = rng.choice(len(share), n, p=share)
    return way[kind] * rng.random((n, 1)), kind


def _around(center, share, n, rng):
    kind = rng.choice(len(share), n, p=share)
    return center[kind] + 0.4 * rng.normal(size=(n, center.shape[1])), kind


def _view(z, d, rng):
    hidden = np.tanh(z @ rng.normal(size=(z.shape[1], 30)) / np.sqrt(z.shape[1]) + 0.5 * rng.normal(size=30))
    x = hidden @ rng.normal(size=(30, d))
    x /= np.sqrt(np.square(x - x.mean(0)).sum(1).mean())
    return (x + 0.05 * rng.normal(size=x.shape)).astype(np.float32)


def scot(x: np.ndarray, y: np.ndarray, k: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of `x`, and images of the rows of `y` in the space of `x`."""
    x, y = normalize(x), normalize(y)
    plan = ot.gromov.entropic_gromov_wasserstein(_hops(x, k), _hops(y, k), loss_fun="square_loss", epsilon=epsilon)
    return x, plan.T @ x / plan.sum(0)[:, None]


def _hops(x: np.ndarray, k: int) -> np.ndarray:
    graph = kneighbors_graph(x, min(k, len(x) - 1), mode="connectivity", metric="correlation", include_self=True)
    steps = dijkstra(graph, directed=False, unweighted=True)
    steps[np.isinf(steps)] = steps[np.isfinite(steps)].max()
    return steps / steps.max()


def scores(z: np.ndarray, w: np.ndarray, first: np.ndarray, second: np.ndarray, paired: bool) -> list[float]:
    """FOSCTTM (NaN without pairs), accuracy of the labels carried from the second to the first, and back."""
    carried = [
        (KNeighborsClassifier(VOTERS).fit(voters, known).predict(asked) == truth).mean()
        for voters, known, asked, truth in ((w, second, z, first), (z, first, w, second))
    ]
    return [foscttm(z, w) if paired else float("nan"), *carried]


def compare(case: Case) -> list[tuple]:
    """Rows (case, pair, method, scores, seconds, what ours says of itself)."""
    start = time.process_time()
    bridge = fit_bridge(case.views)
    placed = {name: cross(bridge, name, x) for name, x in case.views.items()}
    seconds, said, rows = time.process_time() - start, confidence(bridge), []
    for a, b in combinations(case.views, 2):
        kinds = case.kind[a], case.kind[b]
        first, second = sorted((a, b))
        note = ", ".join(f"{key} {said[f'{key} {first}-{second}']:.2f}" for key in ("objective", "stability", "margin"))
        rows.append(
            (case.name, f"{a}, {b}", "muport", scores(placed[a], placed[b], *kinds, case.paired), seconds, note)
        )
        start = time.process_time()
        found = scot(case.views[a].astype(float), case.views[b].astype(float), *PUBLISHED.get(case.name, DEFAULT))
        spent = time.process_time() - start
        rows.append((case.name, f"{a}, {b}", "SCOT", scores(*found, *kinds, case.paired), spent, ""))
    return rows


def main() -> None:
    names = ("3 branches", "4 branches", "5 clusters", "shifted 3 branches", "shifted 5 clusters")
    cases = [*measured(), *(simulated(name, seed) for name in names for seed in range(SEEDS))]
    lines = [
        "# Modalities without shared features or pairs", "", *__doc__.split("\n\n")[2].splitlines(), "",
        f"Accuracy is that of labels carried by {VOTERS} neighbours: of the first modality from the second, and back.",
        "Ours needs one fit for all modalities of a case, SCOT one for each pair.", "",
        f"| {COLUMNS} |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    with threadpool_limits(1):
        for case in cases:
            for name, pair, method, found, seconds, note in compare(case):
                cells = " | ".join("" if np.isnan(one) else f"{one:.3f}" for one in found)
                lines.append(f"| {name} | {pair} | {method} | {cells} | {seconds:.1f} | {note} |")
                print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
