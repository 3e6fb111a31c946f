"""A trained network as plain arrays, and the latent coordinates that it gives cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from muport._global_state import preserve_generators
from muport._parallel import single_threaded_torch

# states are rebuilt by class, so the classes of their fields are imported at run time
from muport.integration.vae._losses import Objective  # noqa: TC001
from muport.integration.vae._networks import Posterior
from muport.integration.vae._views import ViewStatistics, compute_batch_view, compute_quantile_view, standardize_view
from muport.neighbors import as_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NetworkCells", "TrainedNetwork", "check_codes", "compute_linear_parts", "compute_views", "refine"]

_BLOCK = 2**14  # cells evaluated together: bounds the memory
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and the statistics that prepare its inputs: all that a new cell needs.

    - `weights`: Tensors of the module by name.
    - `statistics`: Statistics of the cells' coordinates.
    - `second_statistics`: Statistics of the coordinates in the second modality; None if both views are made from the
      same coordinates.
    - `linear`: (d, n_latent) linear part of the mean of the first posterior, and (d2, n_latent) of the second.
    - `scale`: Factor that gives latent coordinates the scale of the input.
    - `encoder`: ``"mlp"`` or ``"transformer"``.
    - `objective`: Weights and constants of the loss.
    """

    weights: dict[str, NDArray[np.float32]]
    statistics: ViewStatistics
    second_statistics: ViewStatistics | None
    linear: tuple[Annotated[NDArray[np.float32], "* l"], Annotated[NDArray[np.float32], "* l"]]
    scale: Annotated[float, "0.."]
    encoder: str
    objective: Objective

    def check_consistency(self) -> None:
        """Raise an error unless the weights are those of the network, and the statistics have its coordinates."""
        _load_posteriors(self)
        prior, prototypes = self.weights["prior"], self.weights["prototypes"]
        if prior.shape != (self.n_latent,) or prototypes.shape != (len(prototypes), self.n_latent):
            raise ValueError(f"the prior has shape {prior.shape}, the prototypes {prototypes.shape}.")
        second = self.statistics if self.second_statistics is None else self.second_statistics
        if (len(self.statistics.center), len(second.center)) != self.widths:
            raise ValueError(f"the statistics have other coordinates than the {self.widths} of the network.")

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return int(self.linear[0].shape[1])

    @property
    def widths(self) -> tuple[int, int]:
        """Number of coordinates of the first and of the second view."""
        return len(self.linear[0]), len(self.linear[1])


@dataclass(frozen=True, eq=False)
class NetworkCells:
    """Cells as the network takes them: coordinates (n, d), batches (n,), labels (n,), and a second modality (n, d2)."""

    y: NDArray[np.float32]
    batch: NDArray[np.int64]
    label: NDArray[np.int64]
    second: NDArray[np.float32] | None

    def __getitem__(self, rows: slice) -> NetworkCells:
        second = None if self.second is None else self.second[rows]
        return NetworkCells(self.y[rows], self.batch[rows], self.label[rows], second)


def check_codes(values: Any, name: str, n: int) -> NDArray[np.int64]:
    """Return n integer codes as an array."""
    codes = np.asarray(values)
    if codes.shape != (n,) or codes.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {codes.shape} and dtype {codes.dtype}: it must be {n} integer codes.")
    return codes.astype(np.int64)


def compute_views(network: TrainedNetwork, cells: NetworkCells) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the two views (n, d) and (n, d2) of cells."""
    first = compute_quantile_view(cells.y, network.statistics)
    if network.second_statistics is None or cells.second is None:
        return first, compute_batch_view(cells.y, cells.batch, network.statistics)
    return first, compute_quantile_view(cells.second, network.second_statistics)


def compute_linear_parts(
    network: TrainedNetwork, cells: NetworkCells
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the linear parts (n, n_latent) of the means of both posteriors."""
    first = standardize_view(cells.y, network.statistics)
    if network.second_statistics is None or cells.second is None:
        return (first @ network.linear[0],) * 2
    second = standardize_view(cells.second, network.second_statistics)
    return first @ network.linear[0], second @ network.linear[1]


def refine(network: TrainedNetwork, y: Any, batch: Any, *, second: Any | None = None) -> NDArray[np.float32]:
    """Compute the latent coordinates of cells, each a function of the cell, its batch and the network alone.

    Let z be the mean of the product of both posteriors: their means, weighted by their precisions. The latent
    coordinates are z (r / |z|)^(1/2), where r is the root mean square length of the training cells. There is no
    sampling.

    - `y`: (n, d) cells, in the coordinates on which the network was trained.
    - `batch`: (n,) batches; -1 for a batch on which it was not trained: then the statistics of all cells are used.
    - `second`: (n, d2) cells in the second modality, if the network was trained with one.

    Returns (n, n_latent) float32, in the scale of `y`.

    Raises TypeError or ValueError if the shapes do not fit each other or the network, or an entry is not finite.
    """
    cells = _check_cells(network, y, batch, second)
    posteriors = _load_posteriors(network)
    out = np.empty((len(cells.y), network.n_latent), np.float32)
    for low in range(0, len(out), _BLOCK):
        rows = slice(low, low + _BLOCK)
        out[rows] = _rescale(_combine_posteriors(network, posteriors, cells[rows]), network)
    return out


def _check_cells(network: TrainedNetwork, y: Any, batch: Any, second: Any | None) -> NetworkCells:
    points, second_points = as_points(y, "y"), None if second is None else as_points(second, "second")
    codes = check_codes(batch, "batch", len(points))
    width, second_width = network.widths
    if points.shape[1] != width:
        raise ValueError(f"y has {points.shape[1]} coordinates; the network was trained on {width}.")
    if (second_points is None) != (network.second_statistics is None):
        without = "without" if network.second_statistics is None else "with"
        raise ValueError(f"the network was trained {without} a second modality: pass second= as in training.")
    if second_points is not None and second_points.shape != (len(points), second_width):
        raise ValueError(f"second has shape {second_points.shape}, expected {(len(points), second_width)}.")
    return NetworkCells(points, codes, codes, second_points)


def _load_posteriors(network: TrainedNetwork) -> torch.nn.ModuleList:
    """Make both encoders and load their weights."""
    # new layers draw random weights
    with preserve_generators():
        posteriors = torch.nn.ModuleList([Posterior(network.encoder, n, network.n_latent) for n in network.widths])
    prefix = "posteriors."
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in network.weights.items() if k.startswith(prefix)}
    posteriors.load_state_dict(weights)
    return posteriors.eval()


@torch.no_grad()
def _combine_posteriors(
    network: TrainedNetwork, posteriors: torch.nn.ModuleList, cells: NetworkCells
) -> NDArray[np.float32]:
    """Compute the mean (n, n_latent) of the product of both posteriors."""
    views, linear_parts = compute_views(network, cells), compute_linear_parts(network, cells)
    mean, precision = [], []
    with single_threaded_torch():
        for posterior, view, linear in zip(posteriors, views, linear_parts, strict=True):
            mu, logvar = posterior(torch.from_numpy(view), torch.from_numpy(linear))
            mean.append(mu)
            precision.append((-logvar).exp())
    product = (mean[0] * precision[0] + mean[1] * precision[1]) / (precision[0] + precision[1])
    z: NDArray[np.float32] = product.numpy()
    return z


def _rescale(z: NDArray[np.float32], network: TrainedNetwork) -> NDArray[np.float32]:
    """Scale latents as the input, with the square root of each cell's distance from the origin.

    The assignments depend on directions alone (Eq. 2), so between two cells of one prototype only the length differs,
    which mostly reflects how deeply they were sequenced.
    """
    typical = np.sqrt(network.weights["prior"].sum())
    length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _TINY)
    out: NDArray[np.float32] = (network.scale * np.sqrt(typical / length)).astype(np.float32) * z
    return out
