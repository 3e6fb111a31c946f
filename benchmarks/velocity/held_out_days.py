"""Measured days predicted without their cells, beside the neighboring days and McCann's interpolation.

Usage: ``python -m benchmarks.velocity.held_out_days [--quick]``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.common._tables import report, setting, table, verdict

from muport import Velocity, datasets

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Course -> column with the time.
COURSES = {
    "dyngen_5times": "time",
    "gene_circuit_5times": "time",
    "mesc_pre_5times_scode": "time",
    "mef_neuron_5times_scode": "time",
    "larry_cospar_781": "day",
    "mouse_hematopoiesis_2d_3times": "time",
}
SEEDS = range(3)
MAX_CELLS = 1000
ORDER = ("predicted", "forecast", "mccann", "day before", "day after", "halves")
NOTE = f"""\
Each inner day is left out, the other days are coupled again, and the day is predicted (`Velocity.validate_held_out`,
all choices at their defaults, which were set on simulated courses, but with some of these courses in view: they are no
blind test). Figures are means over the inner days and
{len(SEEDS)} seeds, against all cells of the day (days above {MAX_CELLS:,} cells, in mouse_hematopoiesis only, are
sampled). Coordinates are those of the file (`X_feat`), or the principal components of `muport.datasets.load` (at most
50), the same for every row. W1 and W2: exact, Euclidean. MMD: Gaussian kernel. Mass error: relative error of the
number of cells. *predicted*: from the days on both sides. *forecast*: from the earlier days alone, for days with two
of these.
*mccann*: the straight interpolation of the exact plan between the two neighbors. *halves*: one half of the day against
the other. It is no lower bound: cells between two days average the noise of two cells, and a half has half as many
cells.
"""


def load(name: str) -> ad.AnnData:
    """The cells of a course, with coordinates and time only."""
    adata = datasets.load(name)
    x = np.asarray(adata.obsm["X_feat" if "X_feat" in adata.obsm else "X_pca"])
    obs = pd.DataFrame({"time": adata.obs[COURSES[name]].to_numpy(np.float64)}, index=adata.obs_names.astype(str))
    return ad.AnnData(obs=obs, obsm={"X": x.astype(np.float32)})


def measure(name: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Scores of every prediction of every inner day."""
    adata = load(name)
    Velocity.setup_anndata(adata, use_rep="X", time_key="time")
    model = Velocity(adata)
    model.train(n_steps=20, n_bootstrap=0, progress=False)
    found = [model.validate_held_out(max_cells=MAX_CELLS, random_state=seed).assign(seed=seed) for seed in seeds]
    return pd.concat(found).assign(course=name)


def verdicts(days: pd.DataFrame) -> list[str]:
    """Whether the predictions are below McCann's interpolation on the mean of each course, and the day before."""
    lines = []
    for course, part in days.groupby("course", sort=False):
        w1 = part.groupby("prediction")["w1"].mean()
        lines.append(verdict(f"{course}: W1, that of McCann", w1["predicted"], w1["mccann"], at_most=True))
        lines.append(verdict(f"{course}: W1, the day before", w1["predicted"], w1["day before"], at_most=True))
        if "forecast" in w1:
            later = part[part["time"].isin(part.loc[part["prediction"] == "forecast", "time"])]
            same = later.groupby("prediction")["w1"].mean()
            text = f"{course}: W1 from earlier days alone, the day before"
            lines.append(verdict(text, same["forecast"], same["day before"], at_most=True))
    return lines


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small course and one seed; writes nothing")
    args = parser.parse_args()
    names, seeds = (["dyngen_5times"], [0]) if args.quick else (list(COURSES), list(SEEDS))
    parts = []
    for name in names:
        parts.append(measure(name, seeds))
        print(parts[-1].groupby("prediction")[["w1", "w2", "mmd", "mass_error"]].mean(), flush=True)
    days = pd.concat(parts)
    measures = ["w1", "w2", "mmd", "mass_error"]
    mean = days.groupby(["course", "prediction"], sort=False)[measures].mean()
    rows = [[c, p, *mean.loc[(c, p)]] for c in names for p in ORDER if (c, p) in mean.index]
    wide = days.pivot_table(index=["course", "time"], columns="prediction", values="w1", sort=False)
    each = [[*index, *values] for index, values in zip(wide.index, wide.reindex(columns=ORDER).to_numpy(), strict=True)]
    page = [
        NOTE,
        setting("torch", "numpy", "pot"),
        "## Targets\n",
        *verdicts(days),
        "\n## Means over the inner days\n",
        table(["course", "prediction", "W1", "W2", "MMD", "mass error"], rows),
        "\n## W1 of each day\n",
        table(["course", "time", *ORDER], each),
    ]
    report("held_out_days", "Velocity: days that were left out", page, write=not args.quick)


if __name__ == "__main__":
    main()
