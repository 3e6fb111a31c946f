"""The dual-view VAE after optimal transport, term by term.

Usage: ``python -m benchmarks.integration.refine [--rows ...]``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from benchmarks.common._data import BATCH_FILES, Cells, load_cells
from benchmarks.common._methods import muport
from benchmarks.common._scores import scib
from benchmarks.common._tables import report, setting, table, verdict

from muport.integration.vae._losses import Objective
from muport.integration.vae._network_fit import fit_network
from muport.integration.vae._trained_network import refine
from muport.integration.vae._vae_options import TrainingOptions, VAEOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHOSEN_ON = ("cellbench_5cl", "pancreas_wang_xin", "mesc", "asap")
CELLS = 1_000
SPEED_CELLS = 40_960
SCORES = {"Total": "total", "Bio conservation": "bio", "Batch correction": "batch"}
NOTE = f"""OT: `Integration` at its defaults on all cells of a set. Every other row is `fit_network` and `refine` on \
at most {CELLS:,} random cells of its output, where all rows are scored by scib-metrics' `Benchmarker`, not min-max \
scaled. Settings were chosen on {", ".join(CHOSEN_ON)}; the others confirm them. "untrained" is the network before \
its first step: 20 principal axes and the read-out. "VAE alone" has no prototype term, "VAE + x" adds one at its \
published weight, "published" has all of them, "labels" knows the types of every second cell, or of all."""

PUBLISHED = Objective(
    n_prototypes=64, beta=1e-3, lam_clust=1.0, lam_center=1.0, lam_repulse=1.0, lam_margin=1.5, lam_cons=1.5
)
TERMS = ("clust", "center", "repulse", "margin", "cons")
CPU = TrainingOptions(accelerator="cpu")
ALONE = replace(Objective(), **{f"lam_{name}": 0.0 for name in TERMS}, proto_ema_m=1.0)


def rows_of(cells: Cells) -> dict[str, dict[str, Any]]:
    """Row of the table -> arguments of ``fit_network``."""
    code = np.unique(cells.label, return_inverse=True)[1]
    half = np.where(np.arange(len(code)) % 2 == 0, code, -1)
    added = {
        f"VAE + {name}": replace(ALONE, **{f"lam_{name}": getattr(PUBLISHED, f"lam_{name}")}, proto_ema_m=0.95)
        for name in TERMS
    }
    return {
        "untrained": {"options": VAEOptions(objective=ALONE), "training": replace(CPU, lr=1e-12, max_epochs=1)},
        "refine": {},
        "published": {"options": VAEOptions(objective=PUBLISHED)},
        "VAE alone": {"options": VAEOptions(objective=ALONE)},
        **{row: {"options": VAEOptions(objective=objective)} for row, objective in added.items()},
        "refine, transformer": {"options": VAEOptions(encoder="transformer")},
        "refine, half the labels": {"label": half},
        "refine, all labels": {"label": code},
    }


ROWS = ("OT", *rows_of(Cells("", np.empty((0, 1)), np.empty(0, str), np.empty(0, str))))


def score(name: str, rows: Sequence[str]) -> pd.DataFrame:
    """Scores of every row on one data set."""
    whole = load_cells(name)
    transported = muport(whole.X, whole.batch)
    chosen = np.random.default_rng(0).permutation(len(whole.X))[:CELLS]
    chosen.sort()
    cells, y = whole.take(chosen), transported[chosen]
    batch = np.unique(cells.batch, return_inverse=True)[1]
    embeddings: dict[str, NDArray[np.float32]] = {"OT": y}
    for row, arguments in rows_of(cells).items():
        if row in rows:
            network = fit_network(y, batch, int(batch.max()) + 1, **{"training": CPU} | arguments).network
            embeddings[row] = refine(network, y, batch)
    scores = scib(cells, {row: embeddings[row] for row in rows if row in embeddings})
    print(name, scores["Total"].round(4).to_dict(), flush=True)
    return scores


def speed() -> float:
    """Cells a second and epoch of the default network, by processor time of one thread."""
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(SPEED_CELLS, 50)) * np.linspace(3, 0.5, 50)).astype(np.float32)
    batch = np.arange(len(y)) % 4
    fit_network(y[:200], batch[:200], 4, training=replace(CPU, max_epochs=1))
    spent = []
    for epochs in (1, 3):
        start = time.process_time()
        fit_network(y, batch, 4, training=replace(CPU, max_epochs=epochs))
        spent.append(time.process_time() - start)
    return 2 * len(y) / (spent[1] - spent[0])


def page(scores: pd.DataFrame, cells_per_second: float) -> list[str]:
    """The parts of the report."""
    total = scores["Total"].unstack("row")
    gain = total.sub(total["OT"], axis=0)
    confirm = [name for name in gain.index if name not in CHOSEN_ON]
    mean = scores.groupby(level="row").mean().reindex(scores.index.unique("row"))
    rows = [
        [
            row,
            *(float(mean.loc[row, key]) for key in SCORES),
            float(gain[row].mean()),
            float(gain.loc[[n for n in gain.index if n in CHOSEN_ON], row].mean()),
            float(gain.loc[confirm, row].mean()),
        ]
        for row in mean.index
    ]
    trained = gain["refine"] - gain["untrained"]
    return [
        NOTE + "\n",
        setting("scib-metrics", "scvi-tools", "torch", "numpy"),
        f"## Targets ({len(gain)} data sets)\n",
        verdict("mean total over OT alone's", float(gain["refine"].mean()), 0.01),
        verdict("the same on the sets that confirm", float(gain.loc[confirm, "refine"].mean()), 0.01),
        verdict("mean total over the untrained network's", float(trained.mean()), 0.0),
        verdict("cells a second and epoch, one thread", cells_per_second, 20_000, digits=0),
        "\n## Mean over data sets\n",
        table(["row", *SCORES.values(), "gain", "gain, chosen on", "gain, confirm"], rows),
        "## Gain of the total over OT, each data set\n",
        table(["data set", *total.columns], [[name, *map(float, gain.loc[name])] for name in gain.index]),
    ]


def main() -> None:
    """Run, print, and write the page when nothing was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(BATCH_FILES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    cells_per_second = speed()
    print(f"{cells_per_second:.0f} cells a second", flush=True)
    scores = pd.concat({name: score(name, args.rows) for name in args.datasets}, names=["data set", "row"])
    report("refine", "The dual-view VAE after optimal transport", page(scores, cells_per_second),
           write=set(args.datasets) == set(BATCH_FILES) and set(args.rows) == set(ROWS))  # fmt: skip


if __name__ == "__main__":
    main()
