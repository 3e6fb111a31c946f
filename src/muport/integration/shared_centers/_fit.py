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
    finish,
    move,
    transform,
    type_probabilities,
)
from muport.integration.labels._type_separation import fit_types, spread_types
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import batch_evidence
from muport.integration.shared_centers._coupling import Coupling, couple, start_centers
from muport.integration.shared_centers._diagnostics import diagnose, mixing_of
from muport.integration.shared_centers._displacement import (
    bures_map,
    clusters_of,
    group_covariances,
    hard_anchor,
    shrunk,
    translation,
    trust_of,
)
from muport.integration.shared_centers._label_penalty import label_penalty, prototype_types
from muport.integration.shared_centers._mnn_refinement import residual_shift
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Knobs
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import Cells
    from muport.integration.shared_centers._displacement import Clusters

__all__ = ["Fit", "Options", "Solved", "fit", "group_maps", "rms", "theta_at"]

_ANNEAL = 6  # iterations over which theta falls to 0
_CENTERS = 100
_CELLS_PER_CENTER = 30
_SAMPLE = 1_500  # cells of the diagnostics and of the landmarks
_KEEP = 0.99  # share of the mixing without a refinement that must be left with it
_SPREAD_CELLS = 10_000  # that say how far apart types lie
_SHARP_POINTS = 32  # cells a sharpening centre is fitted on


@dataclass(frozen=True)
class Options:
    """How to fit, beyond the knobs.

    Attributes
    ----------
    max_iter
        Most outer iterations.
    approximate
        Stop the inner transport early: at most 10 sweeps instead of 200.
    reference
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
    reference: tuple[int, ...] = ()
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
class Fit:
    """A fitted state, its scores and its history: rows of (theta, mean move, change of it)."""

    state: IntegrationState
    metrics: dict[str, float]
    history: tuple[tuple[float, float, float], ...]


def fit(cells: Cells, knobs: Knobs, options: Options, progress: Callable[[str], None] = lambda _: None) -> Fit:
    """Fit the default algorithm, ``"shared"``: transport of all groups onto shared centres.

    Parameters
    ----------
    cells
        Standardised cells in canonical order.
    knobs
        The user's knobs.
    options
        How to fit.
    progress
        Called with the name of each stage, and once per outer iteration.
    """
    progress("evidence")
    evidence = batch_evidence(cells.x, cells.group, len(cells.names), options.seed)
    caution = knobs.caution(evidence)
    progress("prototypes")
    prototypes, nearest = fit_prototypes(cells.x, cells.start, knobs.resolution, options.seed)
    step = knobs.step * caution
    task = _Task(cells, prototypes, nearest, knobs, step, options, progress)
    mapped, types = _mapped(task), None
    if cells.label is not None and (cells.label >= 0).any() and knobs.supervision * step > 0:
        progress("labels")
        mapped, types = _taught(task, mapped)
    progress("centres")
    reference = replace(mapped.reference, image=np.concatenate([move(one.position, one) for one in mapped.maps]))
    state = IntegrationState(
        center=cells.center, scale=cells.scale, groups=cells.names, member=tuple(range(len(mapped.maps))),
        maps=mapped.maps, sharp=reference.landmarks, sharpness=knobs.pull * step, reference=reference,
        evidence=evidence, types=types,
    )  # fmt: skip
    state = _spread(_sharpened(state, cells, options), task, mapped.weight)
    progress("diagnostics")
    return Fit(state, _metrics(state, cells, mapped.solved, options), mapped.solved.history)


@dataclass(frozen=True, eq=False)
class Solved:
    """The last coupling, what its centres hold, and the displacement (P, d) of every prototype."""

    coupling: Coupling
    clusters: Clusters
    shift: NDArray[np.float32]
    history: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, eq=False)
class _Task:
    """What is fitted, and how."""

    cells: Cells
    prototypes: Prototypes
    nearest: NDArray[np.int64]
    knobs: Knobs
    step: float
    options: Options
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
    prototypes, cells, knobs, options = task.prototypes, task.cells, task.knobs, task.options
    solved = _anneal(prototypes, cells, known, knobs, options, task.progress)
    maps, covariance = _maps(prototypes, task.nearest, cells, solved, knobs, task.step, options.reference)
    task.progress("refinement")
    maps, shaped, refined = _chosen(maps, prototypes, cells, knobs.meeting * task.step, options)
    none = np.empty((0, cells.x.shape[1]), np.float32)
    reference = Reference(
        solved.coupling.centers, solved.coupling.weight, solved.clusters.target, solved.clusters.usual, covariance,
        none, none, shaped, refined,
    )  # fmt: skip
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
    known = prototype_types(p, task.nearest, len(task.prototypes.mass)) * weight.astype(np.float32)
    mapped = _mapped(task, known)
    types, weight, _ = _learnt(task, mapped.maps)
    return replace(mapped, weight=weight), types


def _learnt(task: _Task, maps: tuple[GroupMap, ...]) -> tuple[Types, NDArray[np.float64], NDArray[np.float32]]:
    """Types, how predictable each is, and (N, C) probabilities of the types of all cells."""
    assert task.cells.label is not None
    z = _moved(maps, task.cells, np.arange(len(task.cells.x)), task.options.search_device)
    types, weight = fit_types(z, task.cells.label, task.options.seed)
    return types, weight, type_probabilities(z, types)


def _spread(state: IntegrationState, task: _Task, weight: NDArray[np.float64]) -> IntegrationState:
    """Set the types apart, which is decided on sharpened cells; not where groups stay in place."""
    if state.types is None or task.options.reference:
        return replace(state, types=None)
    device = task.options.search_device
    rows = _sample(task.cells, _SPREAD_CELLS, task.options.seed)
    z = _moved(state.maps, task.cells, rows, device)
    y = finish(z, replace(state, types=None), device)
    shift = spread_types(y, type_probabilities(z, state.types), weight, task.knobs.supervision)
    return replace(state, types=replace(state.types, shift=np.float32(task.step) * shift))


def _anneal(
    prototypes: Prototypes,
    cells: Cells,
    known: NDArray[np.float32] | None,
    knobs: Knobs,
    options: Options,
    progress: Callable[[str], None],
) -> Solved:
    """Alternate transport and displacement while theta falls to 0, which lets go of types dragged along early."""
    number = round(min(_CENTERS, max(2.0, len(cells.x) / _CELLS_PER_CENTER)) * knobs.resolution)
    number = int(np.clip(number, 1, len(prototypes.mass)))
    centers = start_centers(prototypes, number, options.seed)
    weight = np.full(len(centers), 1 / len(centers), np.float32)
    coupling = Coupling(
        centers, np.empty((0, 0), np.float32), weight, np.zeros((len(cells.names), len(centers)), np.float32), True
    )
    penalty, shift = None, np.zeros_like(prototypes.position)
    history: list[tuple[float, float, float]] = []
    for iteration in range(options.max_iter):
        progress("transport")
        theta = theta_at(iteration, knobs, options)
        coupling = couple(
            prototypes.position - shift, prototypes, coupling, theta, penalty=penalty, max_iter=options.sweeps,
            device=options.device,
        )  # fmt: skip
        if known is not None:
            penalty = label_penalty(known, prototypes, coupling, knobs.supervision)
        clusters = clusters_of(prototypes, coupling, options.reference)
        # displacements start from the original prototypes each time, so that errors do not add up
        new = translation(prototypes, coupling, clusters, knobs.agreement)
        change = rms(new - shift, prototypes.mass)
        shift = new
        history.append((theta, rms(shift, prototypes.mass), change))
        if theta == 0 and change < options.tol:
            break
    return Solved(coupling, clusters, shift, tuple(history))


def theta_at(iteration: int, knobs: Knobs, options: Options) -> float:
    """Marginal relaxation over regularisation in an outer iteration: falls linearly to 0, and the last one is at 0."""
    last = min(_ANNEAL, options.max_iter) - 1
    return knobs.theta * (1 - iteration / last) if iteration < last else 0.0


def rms(move: NDArray[np.float32], mass: NDArray[np.float32]) -> float:
    """Root mean square length of the displacements (P, d) of prototypes of some mass."""
    return float(np.sqrt(mass @ np.square(move).sum(axis=1) / mass.sum()))


def _maps(
    prototypes: Prototypes,
    nearest: NDArray[np.int64],
    cells: Cells,
    solved: Solved,
    knobs: Knobs,
    step: float,
    reference: tuple[int, ...],
) -> tuple[tuple[GroupMap, ...], NDArray[np.float64]]:
    anchor, weight = hard_anchor(prototypes, solved.coupling, solved.clusters)
    covariance, total = group_covariances(cells.x, cells.start, nearest, anchor, weight)
    target = covariance[list(reference) or slice(None)].mean(axis=0)
    shape = knobs.shape * step * bures_map(shrunk(covariance, total, target), target)
    shift = step * solved.shift
    for group in reference:
        shift[prototypes.of(group)] = 0
        shape[group] = 0
    trust = trust_of(prototypes, solved.coupling, solved.clusters, knobs.agreement)
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
    maps: tuple[GroupMap, ...], prototypes: Prototypes, cells: Cells, share: float, options: Options
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


def _residual(maps: tuple[GroupMap, ...], prototypes: Prototypes, options: Options) -> NDArray[np.float32]:
    image = np.concatenate([move(one.position, one) for one in maps])
    residual = np.concatenate([one.trust for one in maps])[:, None] * residual_shift(prototypes, image)
    if options.reference:
        # what stays leaves the whole way to the others
        residual *= 2
    for group in options.reference:
        residual[prototypes.of(group)] = 0
    return residual


def _shifted(maps: tuple[GroupMap, ...], prototypes: Prototypes, residual: NDArray[np.float32]) -> tuple[GroupMap, ...]:
    parts = map(prototypes.of, range(prototypes.n_groups))
    return tuple(
        replace(one, shift=(one.shift - residual[part]).astype(np.float32))
        for one, part in zip(maps, parts, strict=True)
    )


def _mixing(maps: tuple[GroupMap, ...], cells: Cells, rows: NDArray[np.int64], options: Options) -> float:
    moved = _moved(maps, cells, rows, options.search_device)
    group = np.searchsorted(cells.start, rows, side="right") - 1
    return mixing_of(moved, group, len(maps))


def _sample(cells: Cells, number: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    if number >= len(cells.x):
        return np.arange(len(cells.x))
    return np.sort(rng.choice(len(cells.x), number, replace=False))


def _moved(
    maps: tuple[GroupMap, ...], cells: Cells, rows: NDArray[np.int64], device: str | None
) -> NDArray[np.float32]:
    """Map standardised cells, without sharpening; rows must be sorted."""
    cut = np.searchsorted(rows, cells.start)
    parts = [
        move(cells.x[rows[low:high]], one, device)
        for one, low, high in zip(maps, cut[:-1], cut[1:], strict=True)
        if high > low
    ]
    return np.concatenate(parts)


def _sharpened(state: IntegrationState, cells: Cells, options: Options) -> IntegrationState:
    """Add the centres of the sharpening, every group counting the same, and the landmarks."""
    number = int(np.clip(2 * np.sqrt(len(cells.x)), 16, 1000))
    rows = _sample(cells, max(_SHARP_POINTS * number if state.sharpness > 0 else 0, _SAMPLE), options.seed)
    moved = _moved(state.maps, cells, rows, options.search_device)
    group = np.searchsorted(cells.start, rows, side="right") - 1
    landmarks = moved[_evenly(len(moved), _SAMPLE)]
    reference = replace(state.reference, landmarks=landmarks)
    if state.sharpness == 0:
        return replace(state, reference=reference)
    weights = 1 / np.bincount(group, minlength=len(cells.names))[group]
    sharp = kmeans(moved, number, weights=weights, n_iter=10, random_state=options.seed).centers
    return replace(state, reference=reference, sharp=sharp)


def _evenly(total: int, number: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, min(number, total)).astype(np.int64))


def _metrics(state: IntegrationState, cells: Cells, solved: Solved, options: Options) -> dict[str, float]:
    rows = _sample(cells, _SAMPLE, options.seed + 1)
    group = cells.group[rows]
    before = cells.x[rows]
    unscaled = replace(state, center=np.zeros_like(state.center), scale=1.0)
    after = transform(before, group, unscaled, device=options.search_device)
    found = diagnose(before, after, group, len(cells.names))
    part = solved.clusters.part
    meeting = np.minimum(part, solved.clusters.usual).sum(axis=1)
    return {
        "mix": found.mix,
        "mix_input": found.mix_input,
        "overlap": found.overlap,
        "strain": found.strain,
        "trustworthiness": found.trustworthiness,
        "objective": found.objective(),
        "evidence": state.evidence,
        "iteration": float(len(solved.history)),
        "transported_mass": float(meeting.mean()),
        "move": float(np.linalg.norm(after - before, axis=1).mean()),
        "converged": float(solved.coupling.converged),
        "shape_kept": state.reference.shaped,
        "projector_kept": state.reference.refined,
    }
