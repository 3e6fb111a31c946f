"""Several batch variables: the effect of one is removed, that of the other is kept.

Usage: ``python -m benchmarks.integration.batch_variables``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._data import Cells, load_cells, synthetic
from benchmarks.common._scores import kept_within_batches, rms
from benchmarks.common._tables import report, setting, table, verdict

from muport import datasets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STRENGTHS = ((0, 0), (0.5, 0), (1, 0), (0, 0.5), (0, 1), (0.25, 0.25), (1, 1))
MOST = 3000  # cells of kang, sampled at random
NOTE = """\
Two batch variables, A and B. R² of a variable: the sum of squares within cell types that it explains beyond the other
variable (least squares in each type), over the sum of squares within cell types of the *input*. So R² is the measure
of an effect, and removing one variable does not raise that of the other. Kept: the fraction of the 30 nearest
neighbours within each combination of A and B that are kept. Strengths of muport are those of A and of B; from .5 on the
whole displacement is applied, as with one variable. Cell types are used for the scores only.

*crossed*: 3,000 simulated cells of 12 types, A with 4 levels and B with 3. *confounded*: A and B with 2 levels; of each
level of A 90 % are in one level of B. *kang*: donor (A) and stimulation (B), 3 x 2, 3,000 of the cells. *kang,
shifted*: to each donor, a random vector of half the root mean square distance from the mean is added. In all
simulations the levels shift all cells, and each type by .3 of that in addition.

The stimulation shifts the monocytes of kang so far that part of them have no partners by nearness (see "A known
shift"). Of this effect muport and Harmony leave a part; regression and ComBat, which move all types alike, leave less
here, but take a difference in composition for an effect. In no data set is the variable with strength 0 changed.

Baselines: the linear regression of both variables, of which the fit of one is subtracted; scanpy's ComBat with the
variable to remove as batch and the other as covariate; Harmony with the variable to remove alone, and with both.
"""


@dataclass(frozen=True)
class TwoVariables:
    """Cells with levels (n,) of two batch variables."""

    cells: Cells
    a: NDArray[np.str_]
    b: NDArray[np.str_]


def simulated(name: str, n_a: int, n_b: int, confounding: float = 0.0, seed: int = 0) -> TwoVariables:
    """Cells of one batch to which the effects of two variables are added."""
    cells, rng = synthetic(3000, 1, seed=seed), np.random.default_rng(seed + 1)
    a, types = rng.integers(0, n_a, len(cells.X)), np.unique(cells.label, return_inverse=True)[1]
    b = np.where(rng.random(len(a)) < confounding, a % n_b, rng.integers(0, n_b, len(a)))
    x, d = cells.X.copy(), cells.X.shape[1]
    for code, n in ((a, n_a), (b, n_b)):
        shift = rng.normal(size=(n, 1, d)) + 0.3 * rng.normal(size=(n, types.max() + 1, d))
        x += (0.5 * rms(cells.X) / np.sqrt(d) * shift[code, types]).astype(np.float32)
    return named(Cells(name, x, cells.batch, cells.label), a.astype(str), b.astype(str))


def named(cells: Cells, a: NDArray[np.str_], b: NDArray[np.str_]) -> TwoVariables:
    """The cells with the combinations of two variables as batches."""
    batch = np.char.add(np.char.add(a.astype(str), "|"), b.astype(str))
    return TwoVariables(Cells(cells.name, cells.X, batch, cells.label), a.astype(str), b.astype(str))


def kang(shifted: bool = False) -> TwoVariables:
    """The PBMC of three donors, with and without interferon; with a further shift of each donor, or as they are."""
    cells, obs = load_cells("kang"), datasets.load("kang_distinct_3donor").obs
    taken = np.sort(np.random.default_rng(1).permutation(len(obs))[:MOST])
    donor, condition = (obs[key].to_numpy().astype(str)[taken] for key in ("donor", "condition"))
    cells = cells.take(taken)
    x = cells.X
    if shifted:
        levels, code = np.unique(donor, return_inverse=True)
        way = np.random.default_rng(0).normal(size=(len(levels), x.shape[1])) * x.std(axis=0)
        way *= 0.5 * rms(x) / np.linalg.norm(way, axis=1, keepdims=True)
        x = (x + way[code]).astype(np.float32)
    return named(Cells("kang, shifted" if shifted else "kang", x, cells.batch, cells.label), donor, condition)


DATA: dict[str, Callable[[], TwoVariables]] = {
    "crossed": lambda: simulated("crossed", 4, 3),
    "confounded": lambda: simulated("confounded", 2, 2, confounding=0.8),
    "kang": kang,
    "kang, shifted": lambda: kang(shifted=True),
}


def indicators(levels: NDArray[np.str_]) -> NDArray[np.float64]:
    """(n, L) indicators of the levels."""
    return (levels[:, None] == np.unique(levels)).astype(float)


def rest(y: NDArray[np.float64], *columns: NDArray[np.float64]) -> float:
    """Sum of squares that columns and a constant leave."""
    design = np.concatenate([np.ones((len(y), 1)), *columns], axis=1)
    return float(np.square(y - design @ np.linalg.lstsq(design, y, rcond=None)[0]).sum())


def r2(data: TwoVariables, z: NDArray[np.float32]) -> tuple[float, float]:
    """R² of A and of B within types, over the sum of squares of the input."""
    of_a = of_b = total = 0.0
    for label in np.unique(data.cells.label):
        rows = data.cells.label == label
        y, a, b = z[rows].astype(float), indicators(data.a[rows]), indicators(data.b[rows])
        both = rest(y, a, b)
        of_a, of_b = of_a + rest(y, b) - both, of_b + rest(y, a) - both
        total += rest(data.cells.X[rows].astype(float))
    return of_a / total, of_b / total


def regressed(data: TwoVariables, removed: str) -> NDArray[np.float32]:
    """The coordinates minus the fit of one variable, in a linear regression on both."""
    a, b = indicators(data.a), indicators(data.b)
    design = np.concatenate([np.ones((len(a), 1)), a - a.mean(axis=0), b - b.mean(axis=0)], axis=1)
    fit = np.linalg.lstsq(design, data.cells.X, rcond=None)[0]
    columns = slice(1, 1 + a.shape[1]) if removed == "A" else slice(1 + a.shape[1], None)
    return (data.cells.X - design[:, columns] @ fit[columns]).astype(np.float32)


def combat(data: TwoVariables, removed: str) -> NDArray[np.float32]:
    """scanpy's ComBat with the other variable as covariate."""
    import anndata
    import scanpy as sc

    batch, other = (data.a, data.b) if removed == "A" else (data.b, data.a)
    # numbers, without the first level: with a column of text the design of scanpy is singular
    covariates = {f"level {i}": column for i, column in enumerate(indicators(other).T[1:])}
    adata = anndata.AnnData(data.cells.X.copy(), obs={"batch": batch} | covariates)
    sc.pp.combat(adata, key="batch", covariates=list(covariates))
    return np.asarray(adata.X, np.float32)


def harmony(data: TwoVariables, variables: list[str]) -> NDArray[np.float32]:
    """harmonypy with one or both variables."""
    import harmonypy
    import pandas as pd

    meta = pd.DataFrame({"A": data.a, "B": data.b})
    out = np.asarray(harmonypy.run_harmony(data.cells.X, meta, variables, verbose=False).Z_corr)
    return out if out.shape == data.cells.X.shape else out.T


def muport(data: TwoVariables, a: float, b: float) -> NDArray[np.float32]:
    """Our integration with a strength for each variable."""
    import anndata

    from muport.integration import Integration

    adata = anndata.AnnData(np.zeros((len(data.a), 1), np.float32), obs={"A": data.a, "B": data.b})
    adata.obsm["X_pca"] = data.cells.X
    Integration.setup_anndata(adata, use_rep="X_pca", batch_key=["A", "B"])
    model = Integration(adata, strength={"A": a, "B": b})
    model.train(progress=False)
    return model.get_latent_representation()


def methods() -> dict[str, Callable[[TwoVariables], NDArray[np.float32]]]:
    """The rows of the table."""
    found: dict[str, Callable[[TwoVariables], NDArray[np.float32]]] = {"input": lambda data: data.cells.X}
    for name in "AB":
        found[f"regression of {name}"] = lambda data, name=name: regressed(data, name)
        found[f"ComBat of {name}"] = lambda data, name=name: combat(data, name)
        found[f"Harmony of {name}"] = lambda data, name=name: harmony(data, [name])
    found["Harmony of A and B"] = lambda data: harmony(data, ["A", "B"])
    for a, b in STRENGTHS:
        found[f"muport {a:g} {b:g}"] = lambda data, a=a, b=b: muport(data, a, b)
    return found


def measure(data: TwoVariables) -> list[list[object]]:
    """A row for each method: R² of A and of B, and neighbours kept."""
    rows: list[list[object]] = []
    for name, method in methods().items():
        try:
            z = method(data)
            rows.append([data.cells.name, name, *r2(data, z), kept_within_batches(data.cells, z)])
        except Exception as error:  # noqa: BLE001
            print(f"{name} on {data.cells.name} failed: {error!r}", flush=True)
            rows.append([data.cells.name, name, np.nan, np.nan, np.nan])
        print(*rows[-1], flush=True)
    return rows


def main() -> None:
    """Run, print, and write the page when no data set was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATA, default=list(DATA))
    names = parser.parse_args().datasets
    rows = [row for name in names for row in measure(DATA[name]())]
    before = {row[0]: row for row in rows if row[1] == "input"}

    def worst(at: float, change: bool) -> float:
        """The largest R² at a strength, or its largest change."""
        found = []
        for row in rows:
            method, *strengths = str(row[1]).split()
            if method == "muport":
                for column, strength in zip((2, 3), map(float, strengths), strict=True):
                    if strength == at:
                        found.append(abs(row[column] - before[row[0]][column]) if change else row[column])
        return max(found)

    lines = [
        verdict("largest R² of a variable with strength 1", worst(1, False), 0.02, at_most=True),
        verdict("largest R² of a variable with strength .5", worst(0.5, False), 0.02, at_most=True),
        verdict("largest change of R² of a variable with strength 0", worst(0, True), 0.02, at_most=True),
    ]
    parts = [NOTE, setting("harmonypy", "numpy", "scanpy"), "## Targets\n", *lines, "\n## Two batch variables\n"]
    parts.append(table(["data set", "method", "R² of A", "R² of B", "kept"], rows))
    report("batch_variables", "Several batch variables", parts, write=set(names) == set(DATA))


if __name__ == "__main__":
    main()
