"""The fitted state, and the one map that every cell goes through: in memory, new, or a chunk of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import parallel_map

# states are rebuilt by class, so the classes of their parts are imported at run time
from muport.integration.gromov._gromov_space import GromovSpace  # noqa: TC001
from muport.integration.prototypes._prototypes import NEIGHBORS, soft_assign
from muport.integration.spaces._joint_space import JointSpace  # noqa: TC001
from muport.integration.spaces._shared_space import SharedSpace  # noqa: TC001
from muport.integration.vae._trained_network import TrainedNetwork  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "GroupMap",
    "IntegrationState",
    "Labels",
    "Reference",
    "Types",
    "sharpen_and_separate",
    "transform_cells",
    "predict_type_probabilities",
]

_BLOCK = 2**14  # cells mapped together


@dataclass(frozen=True, eq=False)
class GroupMap:
    """Map of one group, in standardised coordinates.

    Attributes
    ----------
    position
        (P, d) prototypes.
    shift
        (P, d) displacement of each.
    anchor
        (P, d) point about which the shape changes near each.
    trust
        (P,) share of the change of shape that is applied near each.
    shape
        (d, d) change of a residual about its anchor, A - I of the Bures map.
    """

    position: NDArray[np.float32]
    shift: NDArray[np.float32]
    anchor: NDArray[np.float32]
    trust: NDArray[np.float32]
    shape: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a new group is transported onto, in standardised coordinates.

    Attributes
    ----------
    centers
        (K, d) unit vectors of the shared centres.
    weight
        (K,) their masses.
    target
        (K, d) where the cells of each meet.
    mean_proportions
        (K,) mean share of a group's cells.
    covariance
        (d, d) shape of the residuals.
    image
        (P, d) fitted prototypes where the map puts them.
    landmarks
        (L, d) a sample of mapped cells, before sharpening.
    shape_kept, refinement_kept
        Share of the change of shape, and of the projector's shift, that was kept.
    """

    centers: NDArray[np.float32]
    weight: NDArray[np.float32]
    target: NDArray[np.float32]
    mean_proportions: NDArray[np.float32]
    covariance: NDArray[np.float64]
    image: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    shape_kept: float = 1.0
    refinement_kept: float = 1.0


@dataclass(frozen=True, eq=False)
class Types:
    """Types that labels have taught: a function of a cell's place alone, so new cells are spread as the fitted ones.

    Attributes
    ----------
    weights
        (d + 1, C) log probabilities of the types of standardised cells after the group's map, up to a constant of the
        cell; the last row are the intercepts.
    shift
        (C, d) displacement of each type.
    """

    weights: NDArray[np.float32]
    shift: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled cells that vote, and how their votes become probabilities.

    Attributes
    ----------
    names
        Labels, in the order of the codes.
    position
        (L, d) where the integration puts them.
    code
        (L,) their labels.
    weight
        (L,) how many cells each stands for.
    temperature
        Modality -> power to which likelihoods are raised; fitted by leave-one-out on the labelled cells.
    reach
        Distance beyond which a cell is farther from the labelled cells than 99 % of themselves are from each other.
    own
        Modality -> (d_m + 1, C) weights of a linear classifier in its own representation, the last row the intercepts;
        they hold log probabilities beyond the label frequencies.
    starts
        Columns of `position` from which on it is a space of its own: 0, and in a joint space with shared coordinates
        beside, the first of those.
    linear
        (d - start + 1, C) weights of a linear classifier in each of those spaces, the last row the intercepts; they
        hold log probabilities. Empty where no modality has a representation of its own, or no cell is in two.
    """

    names: tuple[str, ...]
    position: NDArray[np.float32]
    code: NDArray[np.int64]
    weight: NDArray[np.float32]
    temperature: dict[str, float]
    reach: float
    own: dict[str, NDArray[np.float32]]
    starts: tuple[int, ...] = ()
    linear: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True, eq=False)
class IntegrationState:
    """Everything a fitted integration knows; its size does not grow with the cells.

    Attributes
    ----------
    center
        (d,) mean that is taken off first.
    scale
        Root mean square distance to it, by which coordinates are divided.
    groups
        Names of the groups.
    map_of_group
        Position in `maps` of each group's map: groups that nothing sets apart share one.
    maps
        The maps.
    sharpening_centers
        (S, d) centres of the sharpening; empty if it is off.
    sharpening
        Share of the way to them.
    reference
        What new groups are transported onto.
    batch_effect
        Evidence for a batch effect, 0..1.
    labels
        Voting cells; None without labels.
    space
        How modalities that share no representation come into one space; None where they do, or there is but one.
    batches
        Names of the batches, in the order of their codes.
    network
        Refinement of the integrated coordinates; None without.
    neighbors
        Prototypes that carry a cell.
    types
        What spreads the types; None without labels, or if they say nothing.
    """

    center: NDArray[np.float32]
    scale: float
    groups: tuple[str, ...]
    map_of_group: tuple[int, ...]
    maps: tuple[GroupMap, ...]
    sharpening_centers: NDArray[np.float32]
    sharpening: float
    reference: Reference
    batch_effect: float
    labels: Labels | None = None
    space: JointSpace | SharedSpace | GromovSpace | None = None
    batches: tuple[str, ...] = ()
    network: TrainedNetwork | None = None
    neighbors: int = NEIGHBORS
    types: Types | None = None


def standardize(x: NDArray[np.float32], center: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Coordinates relative to `center`, in units of `scale`."""
    out: NDArray[np.float32] = x - center
    out /= np.float32(scale)
    return out


def apply_map(
    x: NDArray[np.float32], group: GroupMap, device: str | None = None, n_neighbors: int = NEIGHBORS
) -> NDArray[np.float32]:
    """Map standardised cells (n, d) of one group, without sharpening (Eqs 7 and 16)."""
    near, weight = soft_assign(x, group.position, n_neighbors, device)
    y: NDArray[np.float32] = np.matmul(x - group.anchor[near[:, 0]], group.shape.T)
    y *= group.trust[near[:, 0], None]
    y += x
    # one neighbour at a time: the (n, 4, d) block of all displacements would be the largest array of the method
    for rank in range(near.shape[1]):
        y -= weight[:, rank, None] * group.shift[near[:, rank]]
    return y


def sharpen(
    y: NDArray[np.float32], centers: NDArray[np.float32], sharpening: float, device: str | None = None
) -> NDArray[np.float32]:
    """Pull standardised cells toward the kernel mean of the nearest centres (a smooth form of Eqs 10-12)."""
    if sharpening == 0 or len(centers) == 0:
        return y
    near, weight = soft_assign(y, centers, n_neighbors=5, device=device)
    out = (1 - np.float32(sharpening)) * y
    for rank in range(near.shape[1]):
        out += np.float32(sharpening) * weight[:, rank, None] * centers[near[:, rank]]
    return out


def predict_type_probabilities(y: NDArray[np.float32], types: Types) -> NDArray[np.float32]:
    """Probabilities (n, C) of the types of standardised cells after their group's map."""
    p: NDArray[np.float32] = y @ types.weights[:-1] + types.weights[-1]
    p = np.exp(p - p.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def sharpen_and_separate(
    y: NDArray[np.float32], state: IntegrationState, device: str | None = None
) -> NDArray[np.float32]:
    """Sharpen standardised cells after their group's map, and move each as its type is moved."""
    z = sharpen(y, state.sharpening_centers, state.sharpening, device)
    if state.types is None:
        return z
    out: NDArray[np.float32] = z + predict_type_probabilities(y, state.types) @ state.types.shift
    return out


def transform_cells(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    state: IntegrationState,
    *,
    maps: tuple[GroupMap, ...] | None = None,
    device: str | None = None,
) -> NDArray[np.float32]:
    """Map cells: a function of each cell's coordinates, its group and the fitted state, and of nothing else.

    Parameters
    ----------
    x
        (n, d) float32 cells in the coordinates of the input.
    group
        (n,) codes into `maps`.
    state
        The fitted state.
    maps
        Maps of the groups; the fitted ones by default.
    device
        Torch device of the neighbour search; faiss on the CPU by default.

    Returns
    -------
    (n, d) float32 cells in the coordinates of the input.
    """
    chosen = state.maps if maps is None else maps
    out = np.empty_like(x)

    def map_block(task: tuple[int, NDArray[np.int64]]) -> None:
        code, rows = task
        if _is_identity(chosen[code]) and state.sharpening == 0 and state.types is None:
            out[rows] = x[rows]
            return
        y = apply_map(standardize(x[rows], state.center, state.scale), chosen[code], device, state.neighbors)
        out[rows] = sharpen_and_separate(y, state, device) * np.float32(state.scale) + state.center

    parallel_map(map_block, _blocks(group, len(chosen)), len(x))
    return out


def _blocks(group: NDArray[np.int64], n_groups: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows of each group, a block at a time: memory does not grow with the group."""
    for code in range(n_groups):
        rows = np.flatnonzero(group == code)
        for low in range(0, len(rows), _BLOCK):
            yield code, rows[low : low + _BLOCK]


def _is_identity(one: GroupMap) -> bool:
    return not one.shift.any() and not one.shape.any()
