"""How well conditions of unseen patients are predicted, with everything fitted inside the fold."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.decomposition import PCA

from muport.gmm.metric._kernel_ridge import balanced_loss, inner_folds
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._pooled_prior import pooled_prior
from muport.gmm.prediction._patient_classifier import couplings_of, fit_classifier, predict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import Mixtures
    from muport.gmm.prediction._patient_classifier import Plans

    #: Mixtures of a set of patients: cells (n, d) and their patients 0..P-1.
    Transform = Callable[[NDArray[np.float64], NDArray[np.int64]], Mixtures]
    #: What is fitted to the training cells, and their patients; gives mixtures of these and of any others.
    Fitter = Callable[[NDArray[np.float64], NDArray[np.int64]], Transform]

__all__ = ["CrossValidation", "Tuning", "cross_validate", "mixture_fitter", "scores", "tune"]

_BOOTSTRAP = 1000


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Predictions for patients that no part of the fit has seen.

    Attributes
    ----------
    probabilities
        (P, C) probabilities of the conditions.
    condition
        (P,) true codes.
    fold
        (P,) fold in which each was held out.
    balanced_accuracy, auroc, log_loss
        Scores of all predictions together: mean recall, area under the curve (one against the rest, for more than
        two conditions), and balanced log-loss in nats.
    intervals
        95 % intervals (low, high) of the first two, by the bootstrap over groups.
    families
        (F, 4) shares of the state, spread, composition and unlearnt mixture distances in each fold's prediction.
    null
        (R, 2) balanced accuracy and area under the curve with permuted conditions; (0, 2) without permutations.
    samples, conditions
        Names of the P patients and of the C conditions, where they have names.
    """

    probabilities: NDArray[np.float64]
    condition: NDArray[np.int64]
    fold: NDArray[np.int64]
    balanced_accuracy: float
    auroc: float
    log_loss: float
    intervals: dict[str, tuple[float, float]]
    families: NDArray[np.float64]
    null: NDArray[np.float64]
    samples: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C) counts: rows are the true conditions, columns the predicted ones."""
        classes = self.probabilities.shape[1]
        pair = self.condition * classes + self.probabilities.argmax(axis=1)
        return np.bincount(pair, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class Tuning:
    """Nested search for settings.

    Attributes
    ----------
    best
        Setting of least log-loss in cross-validation of all patients.
    table
        One row for each setting: its values, and scores over all patients. Those of the best are optimistic.
    outer
        Cross-validation in which each fold chooses its own setting: what to expect for new patients.
    chosen
        Setting of each outer fold.
    """

    best: dict[str, Any]
    table: pd.DataFrame
    outer: CrossValidation
    chosen: list[dict[str, Any]]


def mixture_fitter(
    k: int = 8, *, n_pcs: int | None = None, prior: bool = True, random_state: int = 0, **how: Any
) -> Fitter:
    """Make the default fitter: principal components, a pooled prior and a mixture of each patient.

    Parameters
    ----------
    k
        Components.
    n_pcs
        Principal components, fitted to the training cells; ``None`` takes the coordinates as they are.
    prior
        Whether to shrink to the pooled mixture of the training patients.
    random_state
        Seed.
    how
        Other arguments of :func:`muport.gmm.mixtures._em.fit_mixtures`.
    """

    def fit(x: NDArray[np.float64], sample: NDArray[np.int64]) -> Transform:
        pca = None if n_pcs is None else PCA(min(n_pcs, *x.shape), random_state=random_state).fit(x)
        z = x if pca is None else pca.transform(x)
        shared = {name: how[name] for name in ("covariance_type", "max_iter", "tol", "eps") if name in how}
        pooled = pooled_prior(z, sample, [k], random_state=random_state, **shared)[k] if prior else None

        def transform(cells: NDArray[np.float64], code: NDArray[np.int64]) -> Mixtures:
            values = cells if pca is None else pca.transform(cells)
            return fit_mixtures(values, code, k, prior=pooled, random_state=random_state, **how).mixtures

        return transform

    return fit


def cross_validate(
    x: ArrayLike,
    sample: ArrayLike,
    condition: ArrayLike,
    *,
    group: ArrayLike | None = None,
    fitter: Fitter | None = None,
    n_folds: int | None = None,
    n_permutations: int = 0,
    random_state: int = 0,
    **settings: Any,
) -> CrossValidation:
    """Predict every patient from the others: mixtures, metric, its settings and the classifier are fitted without it.

    Parameters
    ----------
    x
        (n, d) cells. A representation that was made from all cells, without conditions, is taken as it is: to refit a
        principal component analysis in each fold give the features, and a fitter with ``n_pcs``.
    sample
        (n,) codes 0..P-1 of the patients' samples.
    condition
        (P,) codes 0..C-1 of the samples.
    group
        (P,) patient of each sample, where one has several: they are held out together.
    fitter
        Makes mixtures; by default :func:`mixture_fitter`.
    n_folds
        Folds with the conditions spread evenly; by default each group is one.
    n_permutations
        Repeats with permuted conditions, whose scores must be those of chance.
    random_state
        Seed of the permutations and of the bootstrap.
    settings
        As for :func:`muport.gmm.metric._ground_metric.fit_metric`.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ValueError
        If there are fewer than two conditions, or a fold leaves none of one.
    """
    cells, code, label, groups = _checked(x, sample, condition, group)
    folds = _outer_folds(label, groups, n_folds)
    make = mixture_fitter() if fitter is None else fitter
    fitted = [_fold_mixtures(cells, code, rows, len(label), make) for rows in folds]
    rng = np.random.default_rng(random_state)
    labels = [label, *(_permuted(label, folds, rng) for _ in range(n_permutations))]
    p, families = _dealt(fitted, folds, labels, groups, settings)
    null = np.array([scores(*one)[:2] for one in zip(p[1:], labels[1:], strict=True)]).reshape(-1, 2)
    return _report(p[0], label, groups, folds, families[0], null, rng)


def tune(
    x: ArrayLike,
    sample: ArrayLike,
    condition: ArrayLike,
    grid: Mapping[str, Sequence[Any]],
    *,
    group: ArrayLike | None = None,
    make_fitter: Callable[..., Fitter] = mixture_fitter,
    n_folds: int | None = 5,
    n_inner: int = 5,
    random_state: int = 0,
) -> Tuning:
    """Choose settings by cross-validation, and say what that choice is worth by a second one around it.

    Parameters
    ----------
    x, sample, condition, group
        As for :func:`cross_validate`.
    grid
        Name -> values to try, in all combinations: settings of the ground metric, and arguments of the fitter, which
        bear the prefix ``"fitter__"`` (``"fitter__k"``).
    make_fitter
        Makes a fitter from those arguments.
    n_folds
        Outer folds; ``None`` leaves each group out.
    n_inner
        Inner folds.
    random_state
        Seed.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        If the grid is empty, or as for :func:`cross_validate`.
    """
    cells, code, label, groups = _checked(x, sample, condition, group)
    names = list(grid)
    options = [dict(zip(names, values, strict=True)) for values in product(*grid.values())]
    if not names or not options:
        raise ValueError("grid is empty: give at least one setting with at least one value.")

    def validated(rows: NDArray[np.int64], option: Mapping[str, Any]) -> CrossValidation:
        """Cross-validation of one setting within some patients."""
        inside = np.isin(code, rows)
        among, settings = np.searchsorted(rows, code[inside]), _settings(option)
        return cross_validate(
            cells[inside], among, label[rows], group=groups[rows], fitter=make_fitter(**_fitter_arguments(option)),
            n_folds=n_inner, random_state=random_state, **settings,
        )  # fmt: skip

    def choose(rows: NDArray[np.int64]) -> tuple[dict[str, Any], list[CrossValidation]]:
        tried = [validated(rows, option) for option in options]
        return options[int(np.argmin([one.log_loss for one in tried]))], tried

    folds = _outer_folds(label, groups, n_folds)
    everyone = np.arange(len(label))
    p, families, chosen = np.zeros((len(label), int(label.max()) + 1)), [], []
    for rows in folds:
        option, _ = choose(np.setdiff1d(everyone, rows))
        fitted = _fold_mixtures(cells, code, rows, len(label), make_fitter(**_fitter_arguments(option)))
        one, share = _predictions([fitted], [rows], label, groups, _settings(option))
        p[rows] = one[rows]
        families += list(share)
        chosen.append(option)
    best, tried = choose(everyone)
    table = pd.DataFrame([
        {**option, "balanced_accuracy": one.balanced_accuracy, "auroc": one.auroc, "log_loss": one.log_loss}
        for option, one in zip(options, tried, strict=True)
    ])  # fmt: skip
    rng = np.random.default_rng(random_state)
    outer = _report(p, label, groups, folds, np.array(families), np.zeros((0, 2)), rng)
    return Tuning(best, table, outer, chosen)


def scores(p: NDArray[np.float64], condition: NDArray[np.int64]) -> tuple[float, float, float]:
    """Balanced accuracy, area under the curve and balanced log-loss of probabilities (P, C).

    Examples
    --------
    >>> import numpy as np
    >>> scores(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 0, 1]))[:2]
    (1.0, 1.0)
    """
    present = np.unique(condition)
    right = p.argmax(axis=1) == condition
    accuracy = float(np.mean([right[condition == one].mean() for one in present]))
    areas = [_area(p[:, one], condition == one) for one in present]
    return accuracy, float(np.mean(areas)), balanced_loss(p, condition)


def _area(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the curve by ranks (Mann-Whitney); ties count half."""
    n = int(positive.sum())
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def _checked(
    x: ArrayLike, sample: ArrayLike, condition: ArrayLike, group: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    cells, code, label = np.asarray(x, dtype=np.float64), np.asarray(sample), np.asarray(condition)
    if cells.ndim != 2 or code.shape != cells.shape[:1]:
        raise ValueError(f"x {cells.shape} and sample {code.shape} need one row per cell.")
    for name, values in (("sample", code), ("condition", label)):
        if values.dtype.kind not in "iu" or set(np.unique(values)) != set(range(int(values.max()) + 1)):
            raise ValueError(f"{name} must hold integer codes from 0 on, none of them without a member.")
    if len(label) != int(code.max()) + 1:
        raise ValueError(f"condition has {len(label)} entries for {int(code.max()) + 1} samples.")
    if label.max() < 1:
        raise ValueError("condition has one value only: a prediction needs patients of at least two conditions.")
    groups = np.arange(len(label)) if group is None else np.unique(np.asarray(group), return_inverse=True)[1]
    if groups.shape != label.shape:
        raise ValueError(f"group has {len(groups)} entries for {len(label)} samples.")
    return cells, code.astype(np.int64), label.astype(np.int64), groups.astype(np.int64)


def _outer_folds(label: NDArray[np.int64], groups: NDArray[np.int64], n_folds: int | None) -> list[NDArray[np.int64]]:
    number = int(groups.max()) + 1
    if n_folds is not None and n_folds < 2:
        raise ValueError(f"n_folds={n_folds} must be at least 2, or None to leave out each group.")
    folds = inner_folds(label, groups, number if n_folds is None else n_folds)
    if sum(map(len, folds)) < len(label):
        raise ValueError(
            "A condition would have no patient left in some fold: each needs patients of at least two groups, and more "
            "folds keep more of them."
        )
    return folds


def _fold_mixtures(
    x: NDArray[np.float64], sample: NDArray[np.int64], rows: NDArray[np.int64], n_samples: int, fitter: Fitter
) -> tuple[Mixtures, Mixtures]:
    """Mixtures of the training and of the held-out patients, the latter by what the former have taught."""
    rest = np.setdiff1d(np.arange(n_samples), rows)
    outside = np.isin(sample, rows)
    among = [np.searchsorted(part, sample[mask]) for part, mask in ((rest, ~outside), (rows, outside))]
    transform = fitter(x[~outside], among[0])
    return transform(x[~outside], among[0]), transform(x[outside], among[1])


def _predictions(
    fitted: Sequence[tuple[Mixtures, Mixtures]],
    folds: Sequence[NDArray[np.int64]],
    label: NDArray[np.int64],
    groups: NDArray[np.int64],
    settings: Mapping[str, Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities (P, C) of held-out patients, and the shares (F, 4) of the families of views."""
    p, families = _dealt(fitted, folds, [label], groups, settings)
    return p[0], families[0]


def _dealt(
    fitted: Sequence[tuple[Mixtures, Mixtures]],
    folds: Sequence[NDArray[np.int64]],
    labels: Sequence[NDArray[np.int64]],
    groups: NDArray[np.int64],
    settings: Mapping[str, Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities (R, P, C) and shares (R, F, 4) under R sets of conditions, for which plans are made once."""
    p = np.zeros((len(labels), len(groups), max(int(label.max()) for label in labels) + 1))
    families = []
    for (train, test), rows in zip(fitted, folds, strict=True):
        rest = np.setdiff1d(np.arange(len(groups)), rows)
        plans: Plans = {}
        couplings, shares = couplings_of(train, settings), []
        for one, label in zip(p, labels, strict=True):
            classifier = fit_classifier(train, label[rest], group=groups[rest], couplings=couplings, **settings)
            one[rows] = predict(classifier, test, plans)
            shares.append(list(classifier.family_weights().values()))
        families.append(shares)
    return p, np.array(families).swapaxes(0, 1)


def _permuted(
    label: NDArray[np.int64], folds: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Permuted conditions that leave every fold with all of them."""
    whole = len(np.unique(label))
    for _ in range(1000):
        drawn = rng.permutation(label)
        if all(len(np.unique(np.delete(drawn, rows))) == whole for rows in folds):
            return drawn
    raise ValueError("No permutation leaves each fold with every condition: use more folds, or no permutations.")


def _report(
    p: NDArray[np.float64],
    label: NDArray[np.int64],
    groups: NDArray[np.int64],
    folds: Sequence[NDArray[np.int64]],
    families: NDArray[np.float64],
    null: NDArray[np.float64],
    rng: np.random.Generator,
) -> CrossValidation:
    fold = np.zeros(len(label), dtype=np.int64)
    for index, rows in enumerate(folds):
        fold[rows] = index
    members = [np.flatnonzero(groups == one) for one in range(int(groups.max()) + 1)]
    drawn = []
    for _ in range(_BOOTSTRAP):
        rows = np.concatenate([members[one] for one in rng.integers(len(members), size=len(members))])
        if len(np.unique(label[rows])) > 1:
            drawn.append(scores(p[rows], label[rows])[:2])
    low, high = (
        np.quantile(np.array(drawn).reshape(-1, 2), [0.025, 0.975], axis=0) if drawn else np.full((2, 2), np.nan)
    )
    accuracy, area, loss = scores(p, label)
    intervals = {
        name: (float(low[i]), float(high[i])) for i, name in enumerate(("balanced_accuracy", "auroc"))
    }  # fmt: skip
    return CrossValidation(p, label, fold, accuracy, area, loss, intervals, families, null)


def _settings(option: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in option.items() if not name.startswith("fitter__")}


def _fitter_arguments(option: Mapping[str, Any]) -> dict[str, Any]:
    start = "fitter__"
    return {name.removeprefix(start): value for name, value in option.items() if name.startswith(start)}
