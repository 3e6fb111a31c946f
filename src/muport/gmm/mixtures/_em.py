"""Expectation-maximization of the Gaussian mixtures of all patients at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import parallel_map, serial_map
from muport.gmm.mixtures._em_blocks import EMProblems, EMResult, ResultArrays, block_budget, fit_block, n_features
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._patient_cells import iterate_blocks, single_thread_if_small, sort_by_patient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import Mixtures
    from muport.gmm.mixtures._patient_cells import PatientCells
    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = ["EMResult", "fit_mixture_candidates", "fit_mixtures"]


def fit_mixtures(
    x: ArrayLike,
    sample: ArrayLike | None,
    k: int | NDArray[np.int64],
    settings: EMSettings = EMSettings(),
    *,
    weight: ArrayLike | None = None,
    prior: Prior | Mapping[int, Prior] | None = None,
    init: Mixtures | None = None,
    names: Sequence[str] | None = None,
) -> EMResult:
    """Fit a Gaussian mixture to the cells of every patient, all patients at once.

    Dempster, Laird & Rubin (1977); with a prior the maximum a posteriori of Fraley & Raftery (2007). The fit of a
    patient ends when its mean log-likelihood per cell changes by less than ``tol``, as in scikit-learn. An iteration
    takes O(n K d^2) time; memory is O(n d) plus a block of at most 0.5 GB. The same seed gives the same result.

    - `x`: (n, d) cells.
    - `sample`: (n,) patient of each cell, 0 to P - 1; None for a single patient.
    - `k`: Number of components of every patient, or (P,) of each. Components beyond the number of distinct cells are
      padding.
    - `settings`: Options of EM.
    - `weight`: (n,) weights >= 0: a cell of weight 2 counts as two cells.
    - `prior`: Pooled mixture to shrink to and to start from, one for each number of components in ``k``; None for
      maximum likelihood from a k-means++ start.
    - `init`: Start of every patient, (P, K, ...), or one for all.
    - `names`: (P,) names of the patients in messages; their codes by default.

    Returns mixtures, likelihoods and convergence. Raises TypeError or ValueError for inputs that do not fit each other,
    and for a singular component under ``"strict"``.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [10.0], [11.0], [5.0], [7.0]])
    >>> fit = fit_mixtures(x, [0, 0, 0, 0, 1, 1], np.array([2, 1]))
    >>> np.sort(fit.mixtures.means[0, :, 0]).round(3).tolist(), fit.mixtures.n_components.tolist()
    ([0.5, 10.5], [2, 1])
    """
    cells = sort_by_patient(x, sample, weight, settings.device)
    number = _component_numbers(k, len(cells.size))
    return _fit(cells, number[:, None], settings, prior, init, names)[0]


def fit_mixture_candidates(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    settings: EMSettings = EMSettings(),
    *,
    weight: ArrayLike | None = None,
    prior: Mapping[int, Prior] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[EMResult, ...]:
    """Fit every number of components to every patient; parameters other than ``candidates`` as in `fit_mixtures`.

    - `candidates`: Numbers of components.

    Returns one for each candidate.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> [len(fit.mixtures.weights[0]) for fit in fit_mixture_candidates(x, None, (1, 2))]
    [1, 2]
    """
    cells = sort_by_patient(x, sample, weight, settings.device)
    number = np.stack([_component_numbers(k, len(cells.size)) for k in candidates], axis=1)
    return _fit(cells, number, settings, prior, None, names)


def _fit(
    cells: PatientCells,
    number: NDArray[np.int64],
    settings: EMSettings,
    prior: Prior | Mapping[int, Prior] | None,
    init: Mixtures | None,
    names: Sequence[str] | None,
) -> tuple[EMResult, ...]:
    """One result for each column of ``number`` (P, C)."""
    p, c = number.shape
    d = cells.x.shape[1]
    patient, column, restart = (index.ravel() for index in np.indices((p, c, settings.n_init)))
    priors = _check_priors(prior, np.unique(number), d, settings.covariance_type)
    _check_init(init, number, d, settings.covariance_type)
    problems = EMProblems(cells, patient, number[patient, column], restart, settings, priors, init)
    out = ResultArrays(len(problems), int(number.max()), d, settings)
    # problems of a block have one number of components, and a prior is the start of the first start only
    group = problems.k * 2 + (restart > 0)
    features = n_features(d, settings.full)
    # at least two blocks on every machine, so that the result does not depend on the number of cores
    half = -(-int(cells.size[patient].sum()) * features // 2)
    budget = min(block_budget(cells.x.device.type), half)
    with single_thread_if_small(int(cells.size.max()) * features) as limited:
        blocks = iterate_blocks(cells.size[patient], group, np.full(len(problems), features), budget)
        # each block fills its own rows, so the order of the blocks does not matter
        run = parallel_map if limited and cells.x.device.type == "cpu" else serial_map
        run(lambda rows: fit_block(rows, problems, out), blocks)
    # the best start of each patient and candidate
    best = out.likelihood.reshape(p, c, -1).argmax(axis=2) + np.arange(p * c).reshape(p, c) * settings.n_init
    _report_singular(best, out, settings.singularity_handling, names)
    return tuple(out.result(best[:, j], int(number[:, j].max())) for j in range(c))


def _report_singular(best: NDArray[np.int64], out: ResultArrays, handling: str, names: Sequence[str] | None) -> None:
    """Raise an error or warn if the fits that are kept have singular components."""
    singular = np.argwhere(out.singular[best])
    if not len(singular) or handling == "guarded":
        return
    patient, _, component = singular[0]
    first = f"component {component} of sample {patient if names is None else names[patient]!r}"
    if handling == "strict":
        raise ValueError(
            f"The covariance of {first} is singular ({len(singular)} such in all): ask for fewer components or "
            "dimensions, or for singularity_handling='guarded' or 'robust'."
        )
    warnings.warn(
        f"{len(singular)} singular covariances were stabilized, the first of them that of {first}.",
        RuntimeWarning, stacklevel=4,
    )  # fmt: skip


def _component_numbers(k: int | NDArray[np.int64], n_patients: int) -> NDArray[np.int64]:
    """(P,) number of components of each patient."""
    number = np.asarray(k)
    if number.dtype.kind not in "iu":
        raise TypeError(f"k={k!r} must be an integer number of components, or an array with one for each patient.")
    if number.ndim and number.shape != (n_patients,):
        raise ValueError(f"k has shape {number.shape}, but there are {n_patients} patients.")
    if number.min() < 1:
        raise ValueError(f"k={number.min()} must be at least 1.")
    return np.broadcast_to(number, n_patients).astype(np.int64)


def _check_priors(
    prior: Prior | Mapping[int, Prior] | None, numbers: NDArray[np.int64], d: int, covariance_type: str
) -> Mapping[int, Prior]:
    """The prior of each number of components."""
    if prior is None:
        return {}
    priors = prior if isinstance(prior, Mapping) else {len(prior.weights): prior}
    for k in numbers.tolist():
        if k not in priors or len(priors[k].weights) != k:
            raise ValueError(f"There is no prior of {k} components: fit one with fit_pooled_priors for each k.")
        if priors[k].means.shape[1] != d or priors[k].covariance_type != covariance_type:
            raise ValueError(
                f"The prior of {k} components has {priors[k].means.shape[1]} dimensions and "
                f"{priors[k].covariance_type} covariances, but the fit has {d} dimensions and {covariance_type} "
                "covariances."
            )
    return priors


def _check_init(init: Mixtures | None, number: NDArray[np.int64], d: int, covariance_type: str) -> None:
    """Raise a ValueError if the start does not fit the (P, C) numbers of components, dimensions and covariances."""
    if init is None:
        return
    p, k = len(number), int(number.max())
    if len(init) not in (1, p) or init.means.shape[1:] != (k, d):
        raise ValueError(
            f"init has {len(init)} mixtures with means {init.means.shape[1:]}: it must have 1 or {p} with {(k, d)}."
        )
    if init.covariance_type != covariance_type or (number != number.flat[0]).any():
        raise ValueError("init must have the covariance_type of the fit, and needs one k for all patients.")
