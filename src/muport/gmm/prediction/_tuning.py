"""The choice of options by cross-validation, and a second cross-validation around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import describe_fields
from muport.gmm.prediction._cross_validation import (
    CrossValidation,
    check_number_of_folds,
    cross_validate,
    fit_fold,
    make_folds,
    predict_folds,
    summarize,
)
from muport.gmm.prediction._labeled_cells import LabeledCells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.gmm.metric._metric_settings import MetricSettings
    from muport.gmm.prediction._cross_validation import Fitter


__all__ = ["Tuning", "check_grid", "tune"]

_PREFIX = "fitter__"


@dataclass(frozen=True, eq=False)
class Tuning:
    """Options chosen by nested cross-validation.

    Attributes
    ----------
    best
        Options of the smallest log-loss in a cross-validation of all patients.
    table
        One row per combination of options: their values, and the scores over all patients. The scores of the best
        combination are optimistic.
    outer
        Cross-validation in which each fold chooses its own options: the scores to expect for new patients.
    chosen
        Options that each outer fold chose.
    """

    best: dict[str, Any]
    table: pd.DataFrame
    outer: CrossValidation
    chosen: list[dict[str, Any]]

    __repr__ = describe_fields


def check_grid(grid: Mapping[str, Sequence[Any]], metric_options: Iterable[str], fitter_options: Iterable[str]) -> None:
    """Raise an error unless the grid has lists of values for known options; those of the fitter have a prefix."""
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid is {type(grid).__name__}: pass a dict from the name of a setting to a list of values.")
    if not grid:
        raise ValueError("grid is empty: give at least one setting with its values.")
    names = [*metric_options, *(_PREFIX + name for name in fitter_options)]
    for name, values in grid.items():
        if name not in names:
            raise ValueError(f"grid has the setting {name!r}, which is unknown: use some of {names}.")
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable) or not hasattr(values, "__len__"):
            raise TypeError(f"grid[{name!r}]={values!r} must be a list of values.")


def tune(
    cells: LabeledCells,
    grid: Mapping[str, Sequence[Any]],
    make_fitter: Callable[..., Fitter],
    make_settings: Callable[..., MetricSettings],
    *,
    n_folds: int | None = 5,
    n_inner: int = 5,
    random_state: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Choose options by cross-validation, and score the choice by a second cross-validation around it.

    - `cells`: Cells and conditions of the patients.
    - `grid`: Option -> values; all combinations are evaluated. Options of the fitter have the prefix ``"fitter__"``.
    - `make_fitter`, `make_settings`: Make the fitter of the mixtures and the settings of the metric from options by
      name.
    - `n_folds`: Number of outer folds; ``None`` leaves each group out.
    - `n_inner`: Number of inner folds.
    - `random_state`: Seed of the bootstrap.
    - `report`: Called with what is computed next.

    Raises ValueError if the grid is empty, or as for :func:`cross_validate`.
    """
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not grid or not combinations:
        raise ValueError("grid is empty: give at least one setting with at least one value.")

    def build(options: Mapping[str, Any]) -> tuple[Fitter, MetricSettings]:
        """The fitter and the settings of one combination of options."""
        of_fitter = {name.removeprefix(_PREFIX): options[name] for name in options if name.startswith(_PREFIX)}
        of_metric = {name: options[name] for name in options if not name.startswith(_PREFIX)}
        return make_fitter(**of_fitter), make_settings(**of_metric)

    def choose(part: LabeledCells) -> tuple[dict[str, Any], list[CrossValidation]]:
        """The best combination among some patients, and the cross-validations of all combinations."""
        # a training part has fewer patients than the cohort
        n_folds = min(n_inner, len(np.unique(part.group)))
        results = [
            cross_validate(part, *build(options), n_folds=n_folds, random_state=random_state)
            for options in combinations
        ]  # fmt: skip
        return combinations[int(np.argmin([result.log_loss for result in results]))], results

    check_number_of_folds(cells.group, "the default, 5", n_inner=n_inner)
    folds = make_folds(cells, n_folds)
    p, families, chosen = np.zeros((len(cells), int(cells.condition.max()) + 1)), [], []
    for i, rows in enumerate(folds):
        report(f"options and predictions of fold {i + 1} of {len(folds)}")
        options, _ = choose(_training_part(cells, rows))
        fitter, settings = build(options)
        predicted, weights = predict_folds(
            [fit_fold(cells, rows, fitter)], [rows], [cells.condition], cells, settings
        )  # fmt: skip
        p[rows] = predicted[0, rows]
        families += list(weights[0])
        chosen.append(options)
    report("options of all patients")
    best, results = choose(cells)
    table = pd.DataFrame([
        {**options, "balanced_accuracy": result.balanced_accuracy, "auroc": result.auroc, "log_loss": result.log_loss}
        for options, result in zip(combinations, results, strict=True)
    ])  # fmt: skip
    rng = np.random.default_rng(random_state)
    outer = summarize(p, cells, folds, np.array(families), np.zeros((0, 2)), rng)
    return Tuning(best, table, outer, chosen)


def _training_part(cells: LabeledCells, rows: NDArray[np.int64]) -> LabeledCells:
    """The patients outside a fold, checked again and with groups numbered without gaps."""
    part = cells.subset(np.setdiff1d(np.arange(len(cells)), rows))
    return LabeledCells.check(
        part.x, part.sample, part.condition, part.group, part.weight, cell_type=part.cell_type, n_types=part.n_types,
        columns=part.columns,
    )  # fmt: skip
