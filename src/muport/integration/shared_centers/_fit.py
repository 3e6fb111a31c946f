"""The fit: cells and groups in, fitted state out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import (
    GroupMap,
    IntegrationState,
    Reference,
    Types,
    apply_map,
    predict_type_probabilities,
    sharpen_and_separate,
    transform_cells,
)
from muport.integration.labels._type_separation import fit_types, separate_types
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import Coupling, fit_coupling, initialize_centers
from muport.integration.shared_centers._diagnostics import diagnose, measure_mixing
from muport.integration.shared_centers._displacement import (
    compute_anchors,
    compute_bures_maps,
    compute_residual_covariances,
    estimate_translation,
    estimate_trust,
    shrink_covariances,
    summarize_centers,
)
from muport.integration.shared_centers._label_penalty import average_over_prototypes, compute_label_penalty
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._displacement import CenterSummary

__all__ = ["IntegrationFit", "FitOptions", "Solved", "fit_shared_centers", "group_maps", "rms", "theta_at"]

_ANNEAL = 6  # iterations over which theta falls to 0
_CENTERS = 100
_CELLS_PER_CENTER = 30
_SAMPLE = 1_500  # cells of the diagnostics and of the landmarks
_KEEP = 0.99  # share of the mixing without a refinement that must be left with it
_SPREAD_CELLS = 10_000  # that say how far apart types lie
_SHARP_POINTS = 32  # cells a sharpening centre is fitted on


@dataclass(frozen=True)
class FitOptions:
    """How to fit, beyond the hyperparameters.

    Attributes
    ----------
    max_iter
        Most outer iterations.
    approximate
        Stop the inner transport early: at most 10 sweeps instead of 200.
    fixed_groups
        Groups that stay in place; none to let all meet half-way.
    seed
        Seed of every draw.
    device
        Torch device.
    tol
        Root mean square change of the displacements, in units of the data's, at which the outer iterations stop.
    """

    max_iter: int = 15
    approximate: bool = False
    fixed_groups: tuple[int, ...] = ()
    seed: int = 0
    device: str = "cpu"
    tol: float = 5e-3

    @property
    def sweeps(self) -> int:
        """Most sweeps of one transport."""
        return 10 if self.approximate else 200

    @property
    def search_device(self) -> str | None:
        """Device of the neighbour search: faiss serves the CPU."""
        return None if self.device == "cpu" else self.device


@dataclass(frozen=True, eq=False)
class IntegrationFit:
    """A fitted state, its scores and its history: rows of (theta, mean move, change of it)."""

    state: IntegrationState
    metrics: dict[str, float]
    history: tuple[tuple[float, float, float], ...]


def fit_shared_centers(
    cells: StandardizedCells,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit the default algorithm, ``"shared"``: transport of all groups onto shared centres.

    Parameters
    ----------
    cells
        Standardised cells in canonical order.
    hyperparameters
        The user's hyperparameters.
    options
        How to fit.
    progress
        Called with the name of each stage, and once per outer iteration.
    """
    progress("evidence")
    evidence = measure_batch_effect(cells.x, cells.group, len(cells.names), options.seed)
    caution = hyperparameters.caution(evidence)
    progress("prototypes")
    prototypes, nearest = fit_prototypes(cells.x, cells.start, hyperparameters.resolution, options.seed)
    step = hyperparameters.step * caution
    task = _Task(cells, prototypes, nearest, hyperparameters, step, options, progress)
    mapped, types = _mapped(task), None
    if cells.label is not None and (cells.label >= 0).any() and hyperparameters.supervision * step > 0:
        progress("labels")
        mapped, types = _taught(task, mapped)
    progress("centres")
    reference = replace(mapped.reference, image=np.concatenate([apply_map(one.position, one) for one in mapped.maps]))
    state = IntegrationState(
        center=cells.center,
        scale=cells.scale,
        groups=cells.names,
        map_of_group=tuple(range(len(mapped.maps))),
        maps=mapped.maps,
        sharpening_centers=reference.landmarks,
        sharpening=hyperparameters.pull * step,
        reference=reference,
        batch_effect=evidence,
        types=types,
    )
    state = _spread(_sharpened(state, cells, options), task, mapped.weight)
    progress("diagnostics")
    return IntegrationFit(state, _metrics(state, cells, mapped.solved, options), mapped.solved.history)


@dataclass(frozen=True, eq=False)
class Solved:
    """The last coupling, what its centres hold, and the displacement (P, d) of every prototype."""

    coupling: Coupling
    clusters: CenterSummary
    shift: NDArray[np.float32]
    history: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, eq=False)
class _Task:
    """What is fitted, and how."""

    cells: StandardizedCells
    prototypes: Prototypes
    nearest: NDArray[np.int64]
    hyperparameters: Hyperparameters
    step: float
    options: FitOptions
    progress: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Mapped:
    """A transport, the maps it gives, and (C,) how predictable each type is."""

    solved: Solved
    maps: tuple[GroupMap, ...]
    reference: Reference
    weight: NDArray[np.float64]


def _mapped(task: _Task, known: NDArray[np.float32] | None = None) -> _Mapped:
    """Transport, maps and refinement; with `known` (P, C) probabilities of the prototypes' types in the cost."""
    prototypes, cells, hyperparameters, options = task.prototypes, task.cells, task.hyperparameters, task.options
    solved = _anneal(prototypes, cells, known, hyperparameters, options, task.progress)
    maps, covariance = _maps(prototypes, task.nearest, cells, solved, hyperparameters, task.step, options.fixed_groups)
    task.progress("refinement")
    maps, shaped, refined = _chosen(maps, prototypes, cells, hyperparameters.meeting * task.step, options)
    none = np.empty((0, cells.x.shape[1]), np.float32)
    reference = Reference(
        solved.coupling.centers,
        solved.coupling.weight,
        solved.clusters.target,
        solved.clusters.mean_proportions,
        covariance,
        none,
        none,
        shaped,
        refined,
    )
    return _Mapped(solved, maps, reference, np.zeros(0))


def _taught(task: _Task, plain: _Mapped) -> tuple[_Mapped, Types | None]:
    """Transport once more, with the types that labelled cells teach all others where the first transport puts them.

    Labels that the cells do not bear out teach nothing, and leave the first transport as it is.
    """
    types, weight, p = _learnt(task, plain.maps)
    if (weight > 0).sum() < 2:
        return plain, None
    cells = task.cells
    # labels of one group alone cannot say whether another's cells belong where the first transport puts them
    if cells.label is None or len(np.unique(cells.group[cells.label >= 0])) < 2:
        return replace(plain, weight=weight), types
    known = average_over_prototypes(p, task.nearest, len(task.prototypes.mass)) * weight.astype(np.float32)
    mapped = _mapped(task, known)
    types, weight, _ = _learnt(task, mapped.maps)
    return replace(mapped, weight=weight), types


def _learnt(task: _Task, maps: tuple[GroupMap, ...]) -> tuple[Types, NDArray[np.float64], NDArray[np.float32]]:
    """Types, how predictable each is, and (N, C) probabilities of the types of all cells."""
    assert task.cells.label is not None
    z = _moved(maps, task.cells, np.arange(len(task.cells.x)), task.options.search_device)
    types, weight = fit_types(z, task.cells.label, task.options.seed)
    return types, weight, predict_type_probabilities(z, types)


def _spread(state: IntegrationState, task: _Task, weight: NDArray[np.float64]) -> IntegrationState:
    """Set the types apart, which is decided on sharpened cells; not where groups stay in place."""
    if state.types is None or task.options.fixed_groups:
        return replace(state, types=None)
    device = task.options.search_device
    rows = _sample(task.cells, _SPREAD_CELLS, task.options.seed)
    z = _moved(state.maps, task.cells, rows, device)
    y = sharpen_and_separate(z, replace(state, types=None), device)
    shift = separate_types(y, predict_type_probabilities(z, state.types), weight, task.hyperparameters.supervision)
    return replace(state, types=replace(state.types, shift=np.float32(task.step) * shift))


def _anneal(
    prototypes: Prototypes,
    cells: StandardizedCells,
    known: NDArray[np.float32] | None,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None],
) -> Solved:
    """Alternate transport and displacement while theta falls to 0, which lets go of types dragged along early."""
    number = round(min(_CENTERS, max(2.0, len(cells.x) / _CELLS_PER_CENTER)) * hyperparameters.resolution)
    number = int(np.clip(number, 1, len(prototypes.mass)))
    centers = initialize_centers(prototypes, number, options.seed)
    weight = np.full(len(centers), 1 / len(centers), np.float32)
    coupling = Coupling(
        centers, np.empty((0, 0), np.float32), weight, np.zeros((len(cells.names), len(centers)), np.float32), True
    )
    penalty, shift = None, np.zeros_like(prototypes.position)
    history: list[tuple[float, float, float]] = []
    for iteration in range(options.max_iter):
        progress("transport")
        theta = theta_at(iteration, hyperparameters, options)
        coupling = fit_coupling(
            prototypes.position - shift, prototypes, coupling, theta, penalty=penalty, max_iter=options.sweeps,
            device=options.device,
        )  # fmt: skip
        if known is not None:
            penalty = compute_label_penalty(known, prototypes, coupling, hyperparameters.supervision)
        clusters = summarize_centers(prototypes, coupling, options.fixed_groups)
        # displacements start from the original prototypes each time, so that errors do not add up
        new = estimate_translation(prototypes, coupling, clusters, hyperparameters.agreement)
        change = rms(new - shift, prototypes.mass)
        shift = new
        history.append((theta, rms(shift, prototypes.mass), change))
        if theta == 0 and change < options.tol:
            break
    return Solved(coupling, clusters, shift, tuple(history))


def theta_at(iteration: int, hyperparameters: Hyperparameters, options: FitOptions) -> float:
    """Marginal relaxation over regularisation in an outer iteration: falls linearly to 0, and the last one is at 0."""
    last = min(_ANNEAL, options.max_iter) - 1
    return hyperparameters.theta * (1 - iteration / last) if iteration < last else 0.0


def rms(move: NDArray[np.float32], mass: NDArray[np.float32]) -> float:
    """Root mean square length of the displacements (P, d) of prototypes of some mass."""
    return float(np.sqrt(mass @ np.square(move).sum(axis=1) / mass.sum()))


def _maps(
    prototypes: Prototypes,
    nearest: NDArray[np.int64],
    cells: StandardizedCells,
    solved: Solved,
    hyperparameters: Hyperparameters,
    step: float,
    reference: tuple[int, ...],
) -> tuple[tuple[GroupMap, ...], NDArray[np.float64]]:
    anchor, weight = compute_anchors(prototypes, solved.coupling, solved.clusters)
    covariance, total = compute_residual_covariances(cells.x, cells.start, nearest, anchor, weight)
    target = covariance[list(reference) or slice(None)].mean(axis=0)
    shape = hyperparameters.shape * step * compute_bures_maps(shrink_covariances(covariance, total, target), target)
    shift = step * solved.shift
    for group in reference:
        shift[prototypes.of(group)] = 0
        shape[group] = 0
    trust = estimate_trust(prototypes, solved.coupling, solved.clusters, hyperparameters.agreement)
    return group_maps(prototypes, shift, anchor, trust, shape), target


def group_maps(
    prototypes: Prototypes,
    shift: NDArray[np.float32],
    anchor: NDArray[np.float32],
    trust: NDArray[np.float32],
    shape: NDArray[np.float32],
) -> tuple[GroupMap, ...]:
    """Cut arrays over all prototypes into one map per group."""
    parts = map(prototypes.of, range(prototypes.n_groups))
    return tuple(
        GroupMap(
            prototypes.position[rows], shift[rows].astype(np.float32), anchor[rows], trust[rows], one.astype(np.float32)
        )
        for rows, one in zip(parts, shape, strict=True)
    )


def _chosen(
    maps: tuple[GroupMap, ...], prototypes: Prototypes, cells: StandardizedCells, share: float, options: FitOptions
) -> tuple[tuple[GroupMap, ...], float, float]:
    """Keep the change of shape, and then the refinement, as far as groups mix no less with it (Eq. 17) than without.

    Returns the maps, and which share of either was kept.
    """
    if len(maps) < 2:
        return maps, 1.0, 1.0
    rows = _sample(cells, _SAMPLE, options.seed + 2)
    plain = tuple(replace(one, shape=np.zeros_like(one.shape)) for one in maps)
    without, mixing = _mixing(plain, cells, rows, options), _mixing(maps, cells, rows, options)
    shaped = float(mixing >= _KEEP * without)
    if not shaped:
        maps, mixing = plain, without
    if share == 0:
        return maps, shaped, 1.0
    residual = _residual(maps, prototypes, options)
    for kept in (1.0, 0.5, 0.25):
        finer = _shifted(maps, prototypes, kept * share * residual)
        if _mixing(finer, cells, rows, options) >= _KEEP * mixing:
            return finer, shaped, kept
    return maps, shaped, 0.0


def _residual(maps: tuple[GroupMap, ...], prototypes: Prototypes, options: FitOptions) -> NDArray[np.float32]:
    image = np.concatenate([apply_map(one.position, one) for one in maps])
    residual = np.concatenate([one.trust for one in maps])[:, None] * estimate_mnn_shift(prototypes, image)
    if options.fixed_groups:
        # what stays leaves the whole way to the others
        residual *= 2
    for group in options.fixed_groups:
        residual[prototypes.of(group)] = 0
    return residual


def _shifted(maps: tuple[GroupMap, ...], prototypes: Prototypes, residual: NDArray[np.float32]) -> tuple[GroupMap, ...]:
    parts = map(prototypes.of, range(prototypes.n_groups))
    return tuple(
        replace(one, shift=(one.shift - residual[part]).astype(np.float32))
        for one, part in zip(maps, parts, strict=True)
    )


def _mixing(
    maps: tuple[GroupMap, ...], cells: StandardizedCells, rows: NDArray[np.int64], options: FitOptions
) -> float:
    moved = _moved(maps, cells, rows, options.search_device)
    group = np.searchsorted(cells.start, rows, side="right") - 1
    return measure_mixing(moved, group, len(maps))


def _sample(cells: StandardizedCells, number: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    if number >= len(cells.x):
        return np.arange(len(cells.x))
    return np.sort(rng.choice(len(cells.x), number, replace=False))


def _moved(
    maps: tuple[GroupMap, ...], cells: StandardizedCells, rows: NDArray[np.int64], device: str | None
) -> NDArray[np.float32]:
    """Map standardised cells, without sharpening; rows must be sorted."""
    cut = np.searchsorted(rows, cells.start)
    parts = [
        apply_map(cells.x[rows[low:high]], one, device)
        for one, low, high in zip(maps, cut[:-1], cut[1:], strict=True)
        if high > low
    ]
    return np.concatenate(parts)


def _sharpened(state: IntegrationState, cells: StandardizedCells, options: FitOptions) -> IntegrationState:
    """Add the centres of the sharpening, every group counting the same, and the landmarks."""
    number = int(np.clip(2 * np.sqrt(len(cells.x)), 16, 1000))
    rows = _sample(cells, max(_SHARP_POINTS * number if state.sharpening > 0 else 0, _SAMPLE), options.seed)
    moved = _moved(state.maps, cells, rows, options.search_device)
    group = np.searchsorted(cells.start, rows, side="right") - 1
    landmarks = moved[_evenly(len(moved), _SAMPLE)]
    reference = replace(state.reference, landmarks=landmarks)
    if state.sharpening == 0:
        return replace(state, reference=reference)
    weights = 1 / np.bincount(group, minlength=len(cells.names))[group]
    sharp = kmeans(moved, number, weights=weights, n_iter=10, random_state=options.seed).centers
    return replace(state, reference=reference, sharpening_centers=sharp)


def _evenly(total: int, number: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, min(number, total)).astype(np.int64))


def _metrics(
    state: IntegrationState, cells: StandardizedCells, solved: Solved, options: FitOptions
) -> dict[str, float]:
    rows = _sample(cells, _SAMPLE, options.seed + 1)
    group = cells.group[rows]
    before = cells.x[rows]
    unscaled = replace(state, center=np.zeros_like(state.center), scale=1.0)
    after = transform_cells(before, group, unscaled, device=options.search_device)
    found = diagnose(before, after, group, len(cells.names))
    part = solved.clusters.proportions
    meeting = np.minimum(part, solved.clusters.mean_proportions).sum(axis=1)
    return {
        "mix": found.mix,
        "mix_input": found.mix_input,
        "overlap": found.overlap,
        "strain": found.strain,
        "trustworthiness": found.trustworthiness,
        "objective": found.objective(),
        "evidence": state.batch_effect,
        "iteration": float(len(solved.history)),
        "transported_mass": float(meeting.mean()),
        "move": float(np.linalg.norm(after - before, axis=1).mean()),
        "converged": float(solved.coupling.converged),
        "shape_kept": state.reference.shape_kept,
        "projector_kept": state.reference.refinement_kept,
    }
