"""Training of the dual-view VAE on integrated cells: arrays in, a network of plain arrays out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport._arrays import canonical_order
from muport.integration.prototypes._standardized_cells import order_by_group
from muport.integration.vae._trained_network import (
    NetworkCells,
    TrainedNetwork,
    check_codes,
    compute_linear_parts,
    compute_views,
)
from muport.integration.vae._vae_options import TrainingOptions, VAEOptions
from muport.integration.vae._views import fit_statistics, standardize_view
from muport.neighbors import as_points, kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NetworkFit", "fit_network"]

_CELLS_PER_PROTOTYPE = 30
_N_LATENT = 20
_STEPS, _EPOCHS = 300, (20, 60)  # optimizer steps wanted, and bounds of the number of epochs
_MINIBATCHES, _BATCH_SIZE = 8, (64, 1024)  # minibatches wanted in an epoch, and bounds of their size
_HELD_OUT, _MIN_CELLS_HELD_OUT = 0.1, 100  # fraction of the cells that is held out, if there are as many cells
_RIDGE = 1e-3  # penalty of the regression of latent coordinates on the second modality
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class NetworkFit:
    """A trained network and its history: name of a loss or metric -> its value in each epoch."""

    network: TrainedNetwork
    history: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def fit_network(
    y: Any,
    batch: Any,
    n_batches: int,
    *,
    label: Any | None = None,
    second: Any | None = None,
    options: VAEOptions = VAEOptions(),
    training: TrainingOptions = TrainingOptions(),
) -> NetworkFit:
    """Train the dual-view VAE on integrated cells (VAE Eqs 1-11).

    View 1 of a cell is its normal scores, view 2 its robust z-scores within the batch; with `second`, they are the
    normal scores of the two modalities. The mean of each posterior is a linear map of the cell plus a network of its
    view that starts at 0. Each latent is decoded into the cell, given its batch.

    - `y`: (n, d) cells, in any order.
    - `batch`: (n,) batch of each, from 0. The order of the batches has an effect, unlike that of the labels.
    - `label`: (n,) label of each, -1 where it is not known.
    - `second`: (n, d2) coordinates of the same cells in a second modality.
    - `options`: The network and its loss.
    - `training`: How it is trained.

    Raises TypeError or ValueError if the shapes do not fit each other, an entry is not finite, or an option is out of
    range.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.integration.vae._network_fit import fit_network
    >>> from muport.integration.vae._trained_network import refine
    >>> from muport.integration.vae._vae_options import TrainingOptions
    >>> y = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    >>> batch = np.arange(200) % 2
    >>> fit = fit_network(y, batch, 2, training=TrainingOptions(max_epochs=1, accelerator="cpu"))
    >>> refine(fit.network, y, batch).shape
    (200, 5)
    """
    cells = _sort_cells(_check_cells(y, batch, n_batches, label, second))
    n, d = cells.y.shape
    if options.n_latent is not None and options.n_latent > d:
        raise ValueError(f"n_latent={options.n_latent} must not be above the {d} coordinates of y.")
    # scvi-tools is slow to import, and only training needs it
    from muport.integration.vae._vae_module import DualViewVAE
    from muport.integration.vae._vae_training import ArraySplitter, seed_generators, train

    seed = training.random_state
    network = _prepare_network(cells, n_batches, replace(options, n_latent=options.n_latent or min(_N_LATENT, d)), seed)
    size = training.batch_size or int(np.clip(n // _MINIBATCHES, *_BATCH_SIZE))
    epochs = training.max_epochs or int(np.clip(_STEPS * size // n, *_EPOCHS))
    centers, prior = _start_prototypes(network, cells, seed)
    with seed_generators(seed):
        module = DualViewVAE(
            network.widths, network.n_latent, n_batches, len(centers), options.encoder, options.objective
        )
        decoders = [torch.from_numpy(np.linalg.pinv(linear).T) for linear in network.linear]
        module.start(torch.from_numpy(centers), torch.from_numpy(prior), decoders)
        held_out = _HELD_OUT if n >= _MIN_CELLS_HELD_OUT else 0.0
        data = ArraySplitter(_make_tensors(network, cells), size, seed, held_out)
        history = train(module, data, replace(training, max_epochs=epochs))
    weights = {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}
    broken = sorted(name for name, value in weights.items() if not np.isfinite(value).all())
    if broken:
        raise ValueError(f"training ended in weights that are not finite ({broken[0]}): lower lr={training.lr:g}.")
    return NetworkFit(replace(network, weights=weights), history)


def _check_cells(y: Any, batch: Any, n_batches: int, label: Any | None, second: Any | None) -> NetworkCells:
    points = as_points(y, "y")
    n = len(points)
    codes = check_codes(batch, "batch", n)
    if n_batches < 1 or codes.min() < 0 or codes.max() >= n_batches:
        raise ValueError(f"batch has codes {codes.min()}..{codes.max()}, but n_batches={n_batches}.")
    second_points = None if second is None else as_points(second, "second")
    if second_points is not None and len(second_points) != n:
        raise ValueError(f"second has {len(second_points)} rows, but y has {n}.")
    labels = np.full(n, -1) if label is None else check_codes(label, "label", n)
    return NetworkCells(points, codes, np.maximum(labels, -1), second_points)


def _sort_cells(cells: NetworkCells) -> NetworkCells:
    """Sort cells by batch and coordinates, and number labels by their cells.

    So minibatches, held-out cells and the first prototypes depend neither on the order of the cells nor on the names of
    the labels.
    """
    x = cells.y if cells.second is None else np.concatenate([cells.y, cells.second], axis=1)
    order = canonical_order(x, cells.batch)
    label = cells.label.copy()
    known = np.flatnonzero(label >= 0)
    ranked = order_by_group(x[known], label[known], int(label.max(initial=-1)) + 1)[1] if len(known) else label[:0]
    rank = np.empty(int(label.max(initial=-1)) + 1, np.int64)
    rank[ranked] = np.arange(len(ranked))
    label[known] = rank[label[known]]
    second = None if cells.second is None else cells.second[order]
    return NetworkCells(cells.y[order], cells.batch[order], label[order], second)


def _prepare_network(cells: NetworkCells, n_batches: int, options: VAEOptions, seed: int) -> TrainedNetwork:
    """Compute the statistics and the linear parts, without weights.

    The linear part of the first view is its leading principal axes, or the coordinates themselves if there are as many
    latent dimensions.
    """
    assert options.n_latent is not None  # for mypy; fit_network sets it  # nosec B101
    n_latent = options.n_latent
    statistics = fit_statistics(cells.y, cells.batch, n_batches, seed)
    x = standardize_view(cells.y, statistics)
    d = x.shape[1]
    linear = np.eye(d, dtype=np.float32)
    if n_latent < d:
        linear = np.linalg.eigh(np.cov(x, rowvar=False))[1][:, : -n_latent - 1 : -1].astype(np.float32)
    second_statistics, second_linear = None, linear
    if cells.second is not None:
        second_statistics = fit_statistics(cells.second, cells.batch, n_batches, seed)
        second_linear = _regress_latent(standardize_view(cells.second, second_statistics), x @ linear)
    return TrainedNetwork(
        {}, statistics, second_statistics, (linear, second_linear), statistics.scale, options.encoder, options.objective
    )


def _regress_latent(x: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit the coefficients (d2, n_latent) of the ridge regression of latent coordinates on the second modality."""
    gram = x.T.astype(np.float64) @ x
    gram += _RIDGE * len(x) * np.eye(len(gram))
    coef: NDArray[np.float32] = np.linalg.solve(gram, x.T @ z).astype(np.float32)
    return coef


def _make_tensors(network: TrainedNetwork, cells: NetworkCells) -> dict[str, torch.Tensor]:
    """Collect what a minibatch consists of: (n, ...) tensors by name."""
    target = standardize_view(cells.y, network.statistics)
    second_target = target
    if network.second_statistics is not None and cells.second is not None:
        second_target = standardize_view(cells.second, network.second_statistics)
    views, linear = compute_views(network, cells), compute_linear_parts(network, cells)
    arrays: dict[str, NDArray[Any]] = {
        "view_0": views[0],
        "view_1": views[1],
        "linear_0": linear[0],
        "linear_1": linear[1],
        "target_0": target,
        "target_1": second_target,
        "batch": cells.batch,
        "label": cells.label,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _start_prototypes(
    network: TrainedNetwork, cells: NetworkCells, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the directions (K, n_latent) at which prototypes start, and the variance (n_latent,) of the prior.

    Those of the labels come first: the mean direction of the cells with the label. The others are k-means centers.
    """
    first, second = compute_linear_parts(network, cells)
    z = (first + second) / 2
    prior = np.maximum(z.var(axis=0), _TINY).astype(np.float32)
    directions = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _TINY)
    weight = 1 / np.bincount(cells.batch)[cells.batch]
    n_labels = int(cells.label.max(initial=-1)) + 1
    n_prototypes = max(1, min(network.objective.n_prototypes, len(z) // _CELLS_PER_PROTOTYPE), n_labels)
    centers = kmeans(directions, n_prototypes, weights=weight, random_state=seed).centers
    # duplicate cells make fewer centers than asked for: the missing ones start at random
    shape = (n_prototypes - len(centers), directions.shape[1])
    centers = np.concatenate([centers, np.random.default_rng(seed).normal(size=shape).astype(np.float32)])
    for code in range(n_labels):
        rows = cells.label == code
        if rows.any():
            centers[code] = directions[rows].mean(axis=0)
    return centers, prior
