"""The fitted state, and the one map of every cell: in memory, new, or in a chunk of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.special import softmax

from muport._parallel import parallel_map

# Saved states are rebuilt by class, so the classes of their parts are imported at run time.
from muport.integration.batch_variables._covariates import CovariateEffects  # noqa: TC001
from muport.integration.batch_variables._variable_effects import VariableEffects  # noqa: TC001
from muport.integration.gromov._gromov_space import GromovSpace  # noqa: TC001
from muport.integration.prototypes._prototypes import NEIGHBORS, soft_assign
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._joint_space import JointSpace  # noqa: TC001
from muport.integration.spaces._shared_space import SharedSpace  # noqa: TC001
from muport.integration.vae._trained_network import TrainedNetwork  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "GroupMap",
    "IntegrationState",
    "LabelModel",
    "Reference",
    "Types",
    "sharpen_and_separate",
    "transform_cells",
    "predict_type_probabilities",
]

_BLOCK = 2**14  # number of cells that are mapped together
_SHARPENING_NEIGHBORS = 5  # nearest centers of the sharpening, whose kernel mean a cell is pulled toward


@dataclass(frozen=True, eq=False)
class GroupMap:
    """Map of one group, in standardized coordinates.

    - `position`: (P, d) prototypes.
    - `shift`: (P, d) displacement of each prototype, to be subtracted.
    - `anchor`: (P, d) point about which the shape changes near each prototype.
    - `agreement`: (P,) fraction of the change of shape that is applied near each prototype.
    - `shape`: (d, d) change of a residual about its anchor, A - I.
    """

    position: Annotated[NDArray[np.float32], "P d"]
    shift: Annotated[NDArray[np.float32], "P d"]
    anchor: Annotated[NDArray[np.float32], "P d"]
    agreement: Annotated[NDArray[np.float32], "P"]
    shape: Annotated[NDArray[np.float32], "d d"]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a new group is transported onto, in standardized coordinates.

    - `centers`: (K, d) unit vectors of the shared centers.
    - `weight`: (K,) masses of the centers.
    - `target`: (K, d) point to which the cells at each center are moved.
    - `mean_proportions`: (K,) mean over the fitted groups of the proportion of their cells at each center.
    - `covariance`: (d, d) covariance onto which the residuals of every group are mapped.
    - `mapped_prototypes`: (P, d) fitted prototypes after the map.
    - `landmarks`: (L, d) sample of the mapped cells, before sharpening.
    - `shape_kept`, `refinement_kept`: Fraction (0..1) of the change of shape, and of the MNN refinement, that was kept.
    """

    centers: Annotated[NDArray[np.float32], "K d"]
    weight: Annotated[NDArray[np.float32], "K", "0.."]
    target: Annotated[NDArray[np.float32], "K d"]
    mean_proportions: Annotated[NDArray[np.float32], "K", "0.."]
    covariance: Annotated[NDArray[np.float64], "d d"]
    mapped_prototypes: Annotated[NDArray[np.float32], "* d"]
    landmarks: Annotated[NDArray[np.float32], "* d"]
    shape_kept: Annotated[float, "0..1"] = 1.0
    refinement_kept: Annotated[float, "0..1"] = 1.0


@dataclass(frozen=True, eq=False)
class Types:
    """Types predicted from labels. They are a function of the coordinates, so new cells are separated like fitted ones.

    - `weights`: (d + 1, C) weights of a linear classifier of standardized cells after the map of their group; the last
      row are the intercepts.
    - `shift`: (C, d) displacement of each type.
    """

    weights: Annotated[NDArray[np.float32], "d+1 C"]
    shift: Annotated[NDArray[np.float32], "C d"]


@dataclass(frozen=True, eq=False)
class LabelModel:
    """Labeled rows that vote, linear classifiers, and how both become probabilities.

    The last row of the weights of a classifier are the intercepts.

    - `names`: Labels, in the order of the codes.
    - `position`: (L, d) integrated coordinates of the voters.
    - `code`: (L,) their labels.
    - `weight`: (L,) number of rows that each stands for.
    - `inverse_temperature`: Modality -> factor of the logits, fitted to held-out labels; 1 if it is missing.
    - `reach`: 99th percentile of the distance of a voter to the nearest other one. A cell farther away is unlike all.
    - `modality_classifiers`: Modality -> (d_m + 1, C) weights in its own representation h; they give log p(h | c) up to
      a term that is the same for all labels.
    - `subspace_starts`: Each start s stands for the sub-space position[:, s:]; 0 is the whole space. Only models of
      older versions have a second start, of the shared coordinates of a joint space.
    - `joint_classifiers`: (d - s + 1, C) weights in each of these sub-spaces; they give log probabilities. Empty if the
      integrated space is not made of own representations.
    """

    names: Annotated[tuple[str, ...], "C"]
    position: Annotated[NDArray[np.float32], "L e"]
    code: Annotated[NDArray[np.int64], "L", "0..<names"]
    weight: Annotated[NDArray[np.float32], "L", "0.."]
    inverse_temperature: dict[str, Annotated[float, "0.."]] = field(default_factory=dict)
    reach: Annotated[float, "0..", "any"] = float("inf")
    modality_classifiers: dict[str, Annotated[NDArray[np.float32], "* C"]] = field(default_factory=dict)
    subspace_starts: Annotated[tuple[int, ...], "*", "0.."] = ()
    joint_classifiers: tuple[Annotated[NDArray[np.float32], "* C"], ...] = ()

    def check_consistency(self) -> None:
        """Raise a ValueError unless each sub-space has its classifier."""
        widths = [self.position.shape[1] - start + 1 for start in self.subspace_starts]
        if self.joint_classifiers and [len(weights) for weights in self.joint_classifiers] != widths:
            raise ValueError(f"the joint classifiers need {widths} rows of weights.")


@dataclass(frozen=True, eq=False)
class IntegrationState:
    """The fitted integration. Its size does not grow with the number of cells.

    - `center`: (d,) mean of the cells, which is subtracted first.
    - `scale`: Root mean square distance to the mean, by which the coordinates are divided.
    - `groups`: Names of the groups.
    - `map_of_group`: Position in `maps` of the map of each group; merged groups share one map.
    - `maps`: One map per group, or per merged groups.
    - `sharpening_centers`: (S, d) cluster centers that cells are pulled toward; empty without sharpening.
    - `sharpening`: Fraction of the way to the centers that cells move.
    - `reference`: What new groups are transported onto.
    - `batch_effect`: Evidence of a batch effect, 0 to 1.
    - `labels`: Model that predicts labels; None without labels.
    - `space`: Common space of modalities without a shared representation; None if they share one, or for a single
      modality.
    - `batches`: Names of the batches, in the order of their codes.
    - `network`: Refinement of the integrated coordinates; None without.
    - `neighbors`: Number of nearest prototypes from which a cell gets its displacement.
    - `types`: Types that are separated; None without labels, or if the types cannot be predicted.
    - `variables`: Effects of the levels of several batch variables; None with one.
    - `covariates`: Effects of continuous covariates, which are removed before the maps are applied; None without.
    - `cells`: Batch -> code of its cells, by which changed data are recognized; empty in models of earlier versions.
    """

    center: Annotated[NDArray[np.float32], "d"]
    scale: Annotated[float, "0.."]
    groups: Annotated[tuple[str, ...], "G"]
    map_of_group: Annotated[tuple[int, ...], "G", "0..<maps"]
    maps: tuple[GroupMap, ...]
    sharpening_centers: Annotated[NDArray[np.float32], "* d"]
    sharpening: Annotated[float, "0..1"]
    reference: Reference
    batch_effect: Annotated[float, "0..1"]
    labels: LabelModel | None = None
    space: JointSpace | SharedSpace | GromovSpace | None = None
    batches: tuple[str, ...] = ()
    network: TrainedNetwork | None = None
    neighbors: Annotated[int, "1.."] = NEIGHBORS
    types: Types | None = None
    variables: VariableEffects | None = None
    covariates: CovariateEffects | None = None
    cells: dict[str, str] = field(default_factory=dict)

    def check_cells(self, codes: dict[str, str]) -> None:
        """Raise a ValueError unless these are the cells of the fit: batch -> code, from :func:`code_cells`."""
        names = sorted({*codes, *self.cells})
        changed = [name for name in names if self.cells and codes.get(name) != self.cells.get(name)]
        if changed:
            raise ValueError(
                f"the cells of batches {changed[:3]} ({len(changed)} of {len(names)}) are not those of the fit, from "
                "which values are taken: the data of the model were subset or are others, or use_rep, batch_key or "
                "the covariates have changed. Give the model the data of the fit, and pass other cells as mdata."
            )

    def check_consistency(self) -> None:
        """Raise a ValueError unless the labels have the coordinates of the integration."""
        width = len(self.center)
        if self.labels is not None and self.labels.position.shape[1] != width:
            raise ValueError(f"the labels have {self.labels.position.shape[1]} coordinates, the integration {width}.")


def apply_map(
    x: NDArray[np.float32], group_map: GroupMap, device: str | None = None, n_neighbors: int = NEIGHBORS
) -> NDArray[np.float32]:
    """Map standardized cells (n, d) of one group, without sharpening (Eqs 7 and 16)."""
    return apply_assigned_map(x, group_map, *soft_assign(x, group_map.position, n_neighbors, device))


def apply_assigned_map(
    x: NDArray[np.float32], group_map: GroupMap, near: NDArray[np.int64], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Map standardized cells (n, d) of one group, whose nearest prototypes (n, q) and weights (n, q) are known."""
    y: NDArray[np.float32] = np.matmul(x - group_map.anchor[near[:, 0]], group_map.shape.T)
    y *= group_map.agreement[near[:, 0], None]
    y += x
    # One neighbor at a time: the (n, 4, d) block of all displacements would be the largest array of the method.
    for rank in range(near.shape[1]):
        y -= weight[:, rank, None] * group_map.shift[near[:, rank]]
    return y


def sharpen(
    y: NDArray[np.float32], centers: NDArray[np.float32], sharpening: float, device: str | None = None
) -> NDArray[np.float32]:
    """Pull standardized cells toward the kernel mean of the nearest centers (a smooth form of Eqs 10-12)."""
    if sharpening == 0 or len(centers) == 0:
        return y
    near, weight = soft_assign(y, centers, _SHARPENING_NEIGHBORS, device)
    sharpened = (1 - np.float32(sharpening)) * y
    for rank in range(near.shape[1]):
        sharpened += np.float32(sharpening) * weight[:, rank, None] * centers[near[:, rank]]
    return sharpened


def predict_type_probabilities(y: NDArray[np.float32], types: Types) -> NDArray[np.float32]:
    """Predict the probabilities (n, C) of the types of standardized cells after the map of their group."""
    probabilities: NDArray[np.float32] = softmax(y @ types.weights[:-1] + types.weights[-1], axis=1)
    return probabilities


def sharpen_and_separate(
    y: NDArray[np.float32], state: IntegrationState, device: str | None = None
) -> NDArray[np.float32]:
    """Sharpen standardized cells after the map of their group, and add the displacement of their types."""
    sharpened = sharpen(y, state.sharpening_centers, state.sharpening, device)
    if state.types is None:
        return sharpened
    separated: NDArray[np.float32] = sharpened + predict_type_probabilities(y, state.types) @ state.types.shift
    return separated


def transform_cells(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    state: IntegrationState,
    *,
    maps: tuple[GroupMap, ...] | None = None,
    device: str | None = None,
) -> NDArray[np.float32]:
    """Map cells: a function of the coordinates of each cell, its group and the fitted state only.

    - `x`: (n, d) float32 cells in the coordinates of the input.
    - `group`: (n,) codes into `maps`.
    - `maps`: Maps of the groups; the fitted ones by default.
    - `device`: Torch device of the neighbor search; faiss on the CPU by default.

    Returns (n, d) float32 cells in the coordinates of the input.
    """
    group_maps = state.maps if maps is None else maps
    mapped = np.empty_like(x)

    def map_block(block: tuple[int, NDArray[np.int64]]) -> None:
        code, rows = block
        # Cells that do not move keep their bits, which the standardization would round.
        if _is_identity(group_maps[code]) and state.sharpening == 0 and state.types is None:
            mapped[rows] = x[rows]
            return
        y = apply_map(standardize(x[rows], state.center, state.scale), group_maps[code], device, state.neighbors)
        mapped[rows] = sharpen_and_separate(y, state, device) * np.float32(state.scale) + state.center

    parallel_map(map_block, _split_into_blocks(group, len(group_maps)), len(x))
    return mapped


def _split_into_blocks(group: NDArray[np.int64], n_groups: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows of each group in blocks, so that memory does not grow with the group."""
    for code in range(n_groups):
        rows = np.flatnonzero(group == code)
        for low in range(0, len(rows), _BLOCK):
            yield code, rows[low : low + _BLOCK]


def _is_identity(group_map: GroupMap) -> bool:
    return not group_map.shift.any() and not group_map.shape.any()
