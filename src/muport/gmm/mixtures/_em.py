"""Expectation-maximisation of the Gaussian mixtures of all patients at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import parallel_map, serial_map
from muport.gmm.mixtures._em_blocks import (
    EMResult,
    Output,
    Problems,
    Settings,
    SingularityHandling,
    block_budget,
    n_features,
    solve,
)
from muport.gmm.mixtures._mixtures import CovarianceType, Mixtures, log_density, responsibilities
from muport.gmm.mixtures._patient_cells import Clouds, blocks, make_clouds, single_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = ["EMResult", "SingularityHandling", "fit_candidates", "fit_mixtures", "log_density", "responsibilities"]


def fit_mixtures(
    x: ArrayLike,
    sample: ArrayLike | None,
    k: int | NDArray[np.int64],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    n_init: int = 1,
    eps: float = 1e-4,
    prior: Prior | Mapping[int, Prior] | None = None,
    init: Mixtures | None = None,
    singularity_handling: SingularityHandling = "guarded",
    names: Sequence[str] | None = None,
    random_state: int = 0,
    device: str = "cpu",
) -> EMResult:
    """Fit a Gaussian mixture to the cells of every patient, all patients at once.

    Dempster, Laird & Rubin (1977); with a prior the maximum a posteriori of Fraley & Raftery (2007). A patient's
    fit ends when its mean log-likelihood per cell has changed by less than ``tol``, as in scikit-learn. Time is
    O(n K d^2) an iteration, memory O(n d) plus a block of at most half a gigabyte. The same seed gives the same result.

    Parameters
    ----------
    x
        (n, d) cells.
    sample
        (n,) patient of each cell, 0 to P - 1; None for a single one.
    k
        Components of every patient, or (P,) of each. With fewer distinct cells than components the rest is padding.
    weight
        (n,) weights >= 0: a cell of weight 2 counts as two.
    covariance_type
        ``"full"`` or ``"diag"``.
    max_iter
        Most iterations.
    tol
        Change of the mean log-likelihood of a cell, nats, below which a patient's fit ends.
    n_init
        Starts; the fit of highest likelihood is kept.
    eps
        Added to the diagonal of every covariance.
    prior
        Pooled mixture to shrink to and to start from, one for each number of components that ``k`` asks for; None
        for maximum likelihood from a k-means++ start.
    init
        Start of every patient, (P, K, ...) or one for all.
    singularity_handling
        What to do about a component whose covariance is singular without ``eps``: ``"guarded"`` continues, adding to
        the diagonal only where a Cholesky factor fails; ``"robust"`` adds a hundredth of the patient's mean
        variance to it and warns; ``"strict"`` refuses such a fit.
    names
        (P,) names of the patients in messages; their codes by default.
    random_state
        Seed of the starts.
    device
        Where to compute.

    Returns
    -------
    EMResult
        Mixtures, likelihoods and how the iterations ended.

    Raises
    ------
    TypeError, ValueError
        For inputs that do not fit each other, and for a singular component under ``"strict"``.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._em import fit_mixtures
    >>> x = np.array([[0.0], [1.0], [10.0], [11.0], [5.0], [7.0]])
    >>> found = fit_mixtures(x, [0, 0, 0, 0, 1, 1], np.array([2, 1]))
    >>> np.sort(found.mixtures.means[0, :, 0]).round(3).tolist(), found.mixtures.n_components.tolist()
    ([0.5, 10.5], [2, 1])
    """
    settings = Settings(covariance_type, max_iter, tol, n_init, eps, singularity_handling, random_state)
    clouds = make_clouds(x, sample, weight, device)
    number = _numbers(k, len(clouds.size))
    return _fit(clouds, number[:, None], settings, prior, init, names)[0]


def fit_candidates(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    n_init: int = 1,
    eps: float = 1e-4,
    prior: Mapping[int, Prior] | None = None,
    singularity_handling: SingularityHandling = "guarded",
    names: Sequence[str] | None = None,
    random_state: int = 0,
    device: str = "cpu",
) -> tuple[EMResult, ...]:
    """Fit every number of components to every patient; all parameters but ``candidates`` as in `fit_mixtures`.

    Parameters
    ----------
    candidates
        Numbers of components.

    Returns
    -------
    tuple of EMResult
        One for each candidate.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._em import fit_candidates
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> [len(one.mixtures.weights[0]) for one in fit_candidates(x, None, (1, 2))]
    [1, 2]
    """
    settings = Settings(covariance_type, max_iter, tol, n_init, eps, singularity_handling, random_state)
    clouds = make_clouds(x, sample, weight, device)
    number = np.stack([_numbers(k, len(clouds.size)) for k in candidates], axis=1)
    return _fit(clouds, number, settings, prior, None, names)


def _fit(
    clouds: Clouds,
    number: NDArray[np.int64],
    settings: Settings,
    prior: Prior | Mapping[int, Prior] | None,
    init: Mixtures | None,
    names: Sequence[str] | None,
) -> tuple[EMResult, ...]:
    """One result for each column of ``number`` (P, C)."""
    p, c = number.shape
    d = clouds.x.shape[1]
    patient, column, restart = (part.ravel() for part in np.indices((p, c, settings.n_init)))
    problems = Problems(patient, number[patient, column], restart)
    priors = _priors(prior, np.unique(number), d, settings.covariance_type)
    _check_init(init, p, number, d, settings.covariance_type)
    out = Output(len(problems), int(number.max()), d, settings)
    kind = problems.k * 2 + (restart > 0)
    features = n_features(d, settings.covariance_type == "full")
    # two blocks or more, on whatever machine: cores share the work, and the result does not depend on their number
    half = -(-int(clouds.size[patient].sum()) * features // 2)
    budget = min(block_budget(clouds.x.device.type), half)
    with single_thread(int(clouds.size.max()) * features) as alone:
        parts = blocks(clouds.size[patient], kind, np.full(len(problems), features), budget)
        # blocks fill rows of their own, so that their order does not matter
        run = parallel_map if alone and clouds.x.device.type == "cpu" else serial_map
        run(lambda rows: solve(rows, clouds, problems, settings, priors, init, out), parts)
    # The best start of each patient and candidate.
    best = out.likelihood.reshape(p, c, -1).argmax(axis=2) + np.arange(p * c).reshape(p, c) * settings.n_init
    _report(best, out, settings.handling, names)
    return tuple(out.result(best[:, j], int(number[:, j].max())) for j in range(c))


def _report(best: NDArray[np.int64], out: Output, handling: str, names: Sequence[str] | None) -> None:
    """Refuse or tell of singular components among the fits that are kept."""
    found = np.argwhere(out.singular[best])
    if not len(found) or handling == "guarded":
        return
    patient, _, component = found[0]
    first = f"component {component} of sample {patient if names is None else names[patient]!r}"
    if handling == "strict":
        raise ValueError(
            f"The covariance of {first} is singular ({len(found)} such in all): ask for fewer components or "
            "dimensions, or for singularity_handling='guarded' or 'robust'."
        )
    warnings.warn(
        f"{len(found)} singular covariances were stabilised, the first of them that of {first}.",
        RuntimeWarning, stacklevel=4,
    )  # fmt: skip


def _numbers(k: int | NDArray[np.int64], n_patients: int) -> NDArray[np.int64]:
    """(P,) components of each patient."""
    number = np.asarray(k)
    if number.dtype.kind not in "iu":
        raise TypeError(f"k={k!r} must be a whole number of components, or an array of them, one for each patient.")
    if number.ndim and number.shape != (n_patients,):
        raise ValueError(f"k has shape {number.shape}, but there are {n_patients} patients.")
    if number.min() < 1:
        raise ValueError(f"k={number.min()} must be at least 1.")
    return np.broadcast_to(number, n_patients).astype(np.int64)


def _priors(
    prior: Prior | Mapping[int, Prior] | None, numbers: NDArray[np.int64], d: int, covariance_type: str
) -> Mapping[int, Prior]:
    """The prior of each number of components."""
    if prior is None:
        return {}
    found = prior if isinstance(prior, Mapping) else {len(prior.weights): prior}
    for k in numbers.tolist():
        if k not in found or len(found[k].weights) != k:
            raise ValueError(f"There is no prior of {k} components: fit one with pooled_prior for each k.")
        if found[k].means.shape[1] != d or found[k].covariance_type != covariance_type:
            raise ValueError(
                f"The prior of {k} components has {found[k].means.shape[1]} dimensions and "
                f"{found[k].covariance_type} covariances, but {d} and {covariance_type} are to be fitted."
            )
    return found


def _check_init(
    init: Mixtures | None, p: int, number: NDArray[np.int64], d: int, covariance_type: CovarianceType
) -> None:
    if init is None:
        return
    if len(init) not in (1, p) or init.means.shape[1:] != (int(number.max()), d):
        raise ValueError(
            f"init holds {len(init)} mixtures with means {init.means.shape[1:]}: "
            f"it must hold 1 or {p} with {(int(number.max()), d)}."
        )
    if init.covariance_type != covariance_type or (number != number.flat[0]).any():
        raise ValueError("init must have the covariance_type to be fitted, and needs one k for all patients.")
