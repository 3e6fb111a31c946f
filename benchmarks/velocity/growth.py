"""Growth rates of time courses, and populations that follow the field with their growth, beside the truth.

Usage: ``python -m benchmarks.velocity.growth [--quick]``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.velocity.held_out_days import load

from muport import Velocity
from muport.velocity import integrate
from muport.velocity.timecourse._growth import mass_along
from muport.velocity.timecourse._held_out_days import compare_populations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

SEEDS = range(3)
STEPS_PER_DAY = 20
#: Course -> printed W1 and relative mass error of WFR-FM, and of TIGON.
PRINTED = {
    "dyngen_5times": {"WFR-FM (printed)": (0.135, np.nan), "TIGON (printed)": (0.512, np.nan)},
    "gene_circuit_5times": {"WFR-FM (printed)": (0.019, 0.001), "TIGON (printed)": (0.045, 0.014)},
}
PRINTED_CORRELATION = {"WFR-FM (printed)": 0.991, "TIGON (printed)": 0.971}
RATE = 0.5  # true rate of the branch that divides
SEPARATIONS = (12.0, 4.0, 3.0, 2.0)  # distance between the branches, in units in which the noise is .5
NOTE = f"""\
All choices are at their defaults, and all days are in the fit: scores are in sample, as the printed ones are.
*Populations*: all cells of the first day move to each later day with a mass of 1 per cell at the start. W1: exact,
Euclidean, of the particles weighted by their mass to all cells of the day. Mass error: relative error of the total
mass. Means over the later days and {len(SEEDS)} seeds. *paths*: cells follow the paths of coupled cells around them
(`follow_population`). *field and growth*: cells follow the field, and their mass the growth rates. *field alone*: the
same particles with equal masses, and no change of the total. *day before*: its cells as they are; *first day* likewise.
*halves*: one half of a day against the other, which is no lower bound of scores in sample. Printed figures are those of
the papers, not measured here.

*Simulated branches*: four days of 100 to 550 cells in five dimensions with noise .5 move by 2 a day in two parallel
branches, of which one divides at the rate {RATE}. *Simulated fork*: `simulated_dynamics("bifurcation", growth=.3)`:
the fraction of branch A is .35 where the branches part, and .65 at the end, as it grows.
"""


def followed(model: Velocity, seed: int, days: Floats) -> dict[float, tuple[Floats, Floats]]:
    """Positions and masses of the cells of the first day that follow the paths between coupled cells."""
    found = {}
    for day in days[1:]:
        cells = model.follow_population(float(days[0]), float(day), random_state=seed)
        found[float(day)] = cells.obsm["X"].astype(np.float64), cells.obs["mass"].to_numpy()
    return found


def fitted(adata: ad.AnnData, seed: int, **setup: str) -> Velocity:
    """A model with growth rates."""
    Velocity.setup_anndata(adata, use_rep="X", time_key="time", **setup)
    model = Velocity(adata)
    model.train(growth=True, n_bootstrap=2, accelerator="cpu", random_state=seed, progress=False)
    return model


def follow(model: Velocity, adata: ad.AnnData) -> dict[float, tuple[Floats, Floats]]:
    """Positions and masses of the cells of the first day, at each later day."""
    time = adata.obs["time"].to_numpy(np.float64)
    days = np.unique(time)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model.query_velocity(x.numpy(), t.double().numpy()))

    x, mass = adata.obsm["X"][time == days[0]], np.ones(int((time == days[0]).sum()))
    found = {}
    for start, end in zip(days, days[1:], strict=False):
        paths = integrate(field, x, float(start), float(end), n_steps=STEPS_PER_DAY)
        mass = mass * mass_along(model.state_.growth, paths.x, paths.time)[:, -1]
        x = paths.ends
        found[float(end)] = x.astype(np.float64), mass
    return found


def populations(name: str, seed: int) -> tuple[pd.DataFrame, float]:
    """Scores of each prediction of each later day, and the correlation of the growth rates with the truth."""
    adata = load(name)
    model = fitted(adata, seed)
    time, x = adata.obs["time"].to_numpy(np.float64), adata.obsm["X"].astype(np.float64)
    first = x[time == time.min()]
    rng = np.random.default_rng(seed)
    days = np.unique(time)
    along = followed(model, seed, days)
    rows = []
    for day, (points, mass) in follow(model, adata).items():
        cells = x[time == day]
        order = rng.permutation(len(cells))
        halves = cells[order[: len(cells) // 2]], cells[order[len(cells) // 2 :]]
        n, n_first, before = len(cells), len(first), x[time == days[days < day].max()]
        places, masses = along[day]
        rows += [
            ("paths", compare_populations(places, cells, masses)["w1"], abs(masses.sum() - n) / n),
            ("field and growth", compare_populations(points, cells, mass)["w1"], abs(mass.sum() - n) / n),
            ("field alone", compare_populations(points, cells)["w1"], abs(n_first - n) / n),
            ("day before", compare_populations(before, cells)["w1"], abs(len(before) - n) / n),
            ("first day", compare_populations(first, cells)["w1"], abs(n_first - n) / n),
            ("halves", compare_populations(*halves)["w1"], 0.0),
        ]
    truth = np.square(x[:, 1]) / (1 + np.square(x[:, 1]))
    correlation = float(np.corrcoef(truth, model.get_growth())[0, 1]) if name.startswith("gene") else np.nan
    return pd.DataFrame(rows, columns=["prediction", "w1", "mass_error"]), correlation


def branches(separation: float, seed: int) -> tuple[ad.AnnData, NDArray[np.bool_]]:
    """Cells of four days in two branches, of which the first divides, and whether each cell is in it."""
    rng = np.random.default_rng(seed)
    parts, time, first = [], [], []
    for day in range(4):
        own = np.arange(100 + round(100 * np.exp(RATE * day))) >= 100
        cells = rng.normal(0, 0.5, (len(own), 5))
        cells[:, 0] += 2 * day
        cells[:, 1] += np.where(own, separation / 2, -separation / 2)
        parts.append(cells.astype(np.float32))
        time.append(np.full(len(own), float(day)))
        first.append(own)
    obs = pd.DataFrame({"time": np.concatenate(time)})
    obs.index = obs.index.astype(str)
    return ad.AnnData(obs=obs, obsm={"X": np.concatenate(parts)}), np.concatenate(first)


def simulated(separation: float, seed: int) -> tuple[float, float]:
    """Mean rate of the branch that divides, and of the other."""
    adata, first = branches(separation, seed)
    rate = fitted(adata, seed).get_growth()
    return float(rate[first].mean()), float(rate[~first].mean())


def fork_shares(seed: int, n_cells: int) -> tuple[float, float]:
    """Mean fate A of the cells well before the fork, and the true share."""
    from muport.datasets import simulated_dynamics

    growth = 0.3
    adata = simulated_dynamics("bifurcation", n_cells=n_cells, growth=growth, random_state=seed)
    Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time", labels_key="branch")
    model = Velocity(adata)
    model.train(accelerator="cpu", random_state=seed, progress=False)
    fates = model.get_fates(["A", "B"])
    return float(fates["A"][adata.obs["time"] < 0.2].mean()), (1 - growth) / 2


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one course, one seed and one simulation; writes nothing")
    quick = parser.parse_args().quick
    seeds = list(SEEDS)[:1] if quick else list(SEEDS)
    rows, lines = [], []
    for name, printed in list(PRINTED.items())[-1 if quick else 0 :]:
        found = [populations(name, seed) for seed in seeds]
        mean = pd.concat([scores for scores, _ in found]).groupby("prediction", sort=False).mean()
        rows += [
            [name, str(prediction), *values] for prediction, values in zip(mean.index, mean.to_numpy(), strict=True)
        ]
        rows += [[name, who, *values] for who, values in printed.items()]
        w1, error = printed["WFR-FM (printed)"]
        for prediction in ("paths", "field and growth"):
            ours = mean.loc[prediction]
            lines.append(verdict(f"{name}, {prediction}: W1, that of WFR-FM", ours["w1"], w1, at_most=True))
            if np.isfinite(error):
                text = f"{name}, {prediction}: mass error, that of WFR-FM"
                lines.append(verdict(text, ours["mass_error"], error, at_most=True))
        correlation = float(np.mean([value for _, value in found]))
        print(rows[-len(mean) - len(printed) :], correlation, flush=True)
    lines.append(verdict("gene_circuit_5times: correlation of the growth rates with the truth", correlation, 0.97))
    growth = [["muport", correlation], *([who, value] for who, value in PRINTED_CORRELATION.items())]
    rates = []
    for separation in SEPARATIONS[:1] if quick else SEPARATIONS:
        first, other = np.mean([simulated(separation, seed) for seed in seeds], axis=0).tolist()
        rates.append([f"{separation:g}", first, other])
        print(rates[-1], flush=True)
        text = f"simulated branches {separation:g} apart: relative error of the rate"
        lines.append(verdict(text, abs(first - RATE) / RATE, 0.15, at_most=True))
    share, truth = np.mean([fork_shares(seed, 500 if quick else 2000) for seed in seeds], axis=0).tolist()
    text = "simulated fork: error of the root's share of the branch that grows"
    lines.append(verdict(text, abs(share - truth), 0.03, at_most=True))
    page = [
        NOTE,
        setting("torch", "numpy", "pot"),
        "## Targets\n",
        *lines,
        "\n## Populations followed from the first day\n",
        table(["course", "prediction", "W1", "mass error"], rows),
        "\n## Correlation with the true growth rate of the gene circuit, over all cells\n",
        table(["method", "correlation"], growth),
        f"\n## Simulated branches, of which one divides at the rate {RATE}\n",
        table(["distance between the branches", "rate of the branch that divides", "rate of the other"], rates),
        "\n## Simulated fork\n",
        table(["", "share of branch A"], [["fate of the root's cells", share], ["truth", truth]]),
    ]
    report("growth", "Velocity: growth rates", page, write=not quick)


if __name__ == "__main__":
    main()
