"""Refinement of integrated coordinates by the dual-view VAE: arrays in, a network of plain arrays out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport._parallel import single_threaded_torch
from muport.integration.vae._losses import Objective
from muport.integration.vae._networks import ENCODERS, Encoder, Posterior
from muport.integration.vae._views import Views, batch_view, fit_views, quantile_view, standard_view
from muport.neighbors import as_points, kmeans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Network", "Refined", "fit_network", "refine"]

_CELLS_PER_PROTOTYPE = 30
_BLOCK = 2**14  # cells evaluated together
_LATENT = 20
_STEPS, _EPOCHS = 300, (20, 60)  # optimiser steps wanted, and the bounds of the epochs they make
_BATCHES, _BATCH = 8, (64, 1024)  # minibatches of an epoch wanted, and the bounds of their size
_LEAST_VALIDATED = 100  # cells from which a tenth is held out
_RIDGE = 1e-3
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network and what its inputs go through: all that a new cell needs.

    Attributes
    ----------
    weights
        Tensors of the module by name.
    views
        Statistics of the coordinates.
    second
        Statistics of the second view's coordinates; None if both views are made of the same.
    linear
        (d, n_latent) linear part of the first view's mean, and (d2, n_latent) of the second's.
    scale
        Factor that gives latent coordinates the scale of the input.
    encoder
        ``"mlp"`` or ``"transformer"``.
    objective
        What it was trained for.
    """

    weights: dict[str, NDArray[np.float32]]
    views: Views
    second: Views | None
    linear: tuple[NDArray[np.float32], NDArray[np.float32]]
    scale: float
    encoder: str
    objective: Objective

    @property
    def n_latent(self) -> int:
        """Width of the latent."""
        return int(self.linear[0].shape[1])


@dataclass(frozen=True, eq=False)
class Refined:
    """A trained network and its history: name of a figure -> its value in each epoch."""

    network: Network
    history: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def fit_network(
    y: Any,
    batch: Any,
    n_batches: int,
    *,
    label: Any | None = None,
    second: Any | None = None,
    objective: Objective = Objective(),
    encoder: Encoder = "mlp",
    n_latent: int | None = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    early_stopping: bool = True,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    random_state: int = 0,
    progress: bool = False,
    plan_kwargs: Mapping[str, Any] | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> Refined:
    """Train the dual-view VAE on integrated cells (VAE Eqs 1-11).

    View 1 is the cells' normal scores, view 2 their robust z-scores within the batch; or, with ``second``, the normal
    scores of either. Either posterior's mean is a linear map of the cell plus a network of its view that starts at 0.
    Either latent is decoded into the cell, given its batch.

    Parameters
    ----------
    y
        (n, d) cells.
    batch
        (n,) batch of each, from 0.
    n_batches
        Number of batches.
    label
        (n,) label of each, -1 where it is not known.
    second
        (n, d2) coordinates of the same cells in a second modality.
    objective
        Weights and constants of the loss.
    encoder
        ``"mlp"``, or ``"transformer"``: a token per feature, as published.
    n_latent
        Width of the latent; 20 by default, or that of the cells if it is less.
    max_epochs
        Most epochs; by default as many as make 300 steps, 20 to 60.
    batch_size
        Cells of a minibatch; by default an eighth of all, 64 to 1,024.
    lr
        Largest learning rate.
    early_stopping
        Stop when the loss of the held-out tenth of the cells no longer falls.
    accelerator, devices
        As Lightning's trainer.
    random_state
        Seed of weights, samples and order.
    progress
        Whether to show a progress bar.
    plan_kwargs
        Further arguments of the training plan: ``weight_decay``.
    trainer_kwargs
        Further arguments of scvi-tools' trainer: ``callbacks``, ``logger``, ``enable_checkpointing`` (go back to the
        best epoch) and so on.

    Raises
    ------
    TypeError, ValueError
        For arrays that do not fit, or options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.integration.vae._network_fit import fit_network, refine
    >>> y = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    >>> batch = np.arange(200) % 2
    >>> found = fit_network(y, batch, 2, max_epochs=1, accelerator="cpu")
    >>> refine(found.network, y, batch).shape
    (200, 5)
    """
    cells = _checked(y, batch, n_batches, label, second)
    _check_options(encoder, n_latent, max_epochs, batch_size, lr, cells)
    from muport.integration.vae._vae_module import DualViewVAE
    from muport.integration.vae._vae_training import ArraySplitter, own_generators, train

    n, d = cells.y.shape
    network = _untrained(cells, n_batches, n_latent or min(_LATENT, d), objective, encoder, random_state)
    size = batch_size or int(np.clip(n // _BATCHES, *_BATCH))
    epochs = max_epochs or int(np.clip(_STEPS * size // n, *_EPOCHS))
    centers, prior = _prototypes(network, cells, random_state)
    with own_generators(random_state):
        module = DualViewVAE(
            _widths(network), network.n_latent, n_batches, len(centers), encoder, objective
        )  # fmt: skip
        decoders = [torch.from_numpy(np.linalg.pinv(one).T) for one in network.linear]
        module.start(torch.from_numpy(centers), torch.from_numpy(prior), decoders)
        data = ArraySplitter(_tensors(network, cells), size, random_state, held_out=_held_out(n))
        history = train(
            module, data, max_epochs=epochs, early_stopping=early_stopping, accelerator=accelerator, devices=devices,
            plan_kwargs={"lr": lr} | dict(plan_kwargs or {}),
            trainer_kwargs={"enable_progress_bar": progress} | dict(trainer_kwargs or {}),
        )  # fmt: skip
    weights = {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}
    broken = sorted(name for name, value in weights.items() if not np.isfinite(value).all())
    if broken:
        raise ValueError(f"training ended in weights that are not finite ({broken[0]}): lower lr={lr:g}.")
    return Refined(replace(network, weights=weights), history)


@dataclass(frozen=True, eq=False)
class _Cells:
    y: NDArray[np.float32]
    batch: NDArray[np.int64]
    label: NDArray[np.int64]
    second: NDArray[np.float32] | None


def _checked(y: Any, batch: Any, n_batches: int, label: Any | None, second: Any | None) -> _Cells:
    points = as_points(y, "y")
    n = len(points)
    codes = _codes(batch, "batch", n)
    if n_batches < 1 or codes.min() < 0 or codes.max() >= n_batches:
        raise ValueError(f"batch has codes {codes.min()}..{codes.max()}, but n_batches={n_batches}.")
    other = None if second is None else as_points(second, "second")
    if other is not None and len(other) != n:
        raise ValueError(f"second has {len(other)} rows, but y has {n}.")
    known = np.full(n, -1) if label is None else _codes(label, "label", n)
    return _Cells(points, codes, np.maximum(known, -1), other)


def _codes(values: Any, name: str, n: int) -> NDArray[np.int64]:
    codes = np.asarray(values)
    if codes.shape != (n,) or codes.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {codes.shape} and dtype {codes.dtype}: it must be {n} integer codes.")
    return codes.astype(np.int64)


def _check_options(
    encoder: str, n_latent: int | None, max_epochs: int | None, batch_size: int | None, lr: float, cells: _Cells
) -> None:
    if encoder not in ENCODERS:
        raise ValueError(f"encoder={encoder!r} must be one of {sorted(ENCODERS)}.")
    for name, value in (("n_latent", n_latent), ("max_epochs", max_epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if n_latent is not None and n_latent > cells.y.shape[1]:
        raise ValueError(f"n_latent={n_latent} must not be above the {cells.y.shape[1]} coordinates of y.")
    if not lr > 0:
        raise ValueError(f"lr={lr} must be above 0.")


def _held_out(n: int) -> float:
    return 0.1 if n >= _LEAST_VALIDATED else 0.0


def _untrained(cells: _Cells, n_batches: int, n_latent: int, objective: Objective, encoder: str, seed: int) -> Network:
    """Statistics and linear parts: the leading principal axes, or the coordinates themselves if all are kept."""
    views = fit_views(cells.y, cells.batch, n_batches, seed)
    x = standard_view(cells.y, views)
    d = x.shape[1]
    first = np.eye(d, dtype=np.float32)
    if n_latent < d:
        first = np.linalg.eigh(np.cov(x, rowvar=False))[1][:, : -n_latent - 1 : -1].astype(np.float32)
    second, other = None, first
    if cells.second is not None:
        second = fit_views(cells.second, cells.batch, n_batches, seed)
        other = _regress(standard_view(cells.second, second), x @ first)
    return Network({}, views, second, (first, other), views.scale, encoder, objective)


def _regress(x: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(d2, n_latent) ridge regression of latent coordinates on the second modality."""
    gram = x.T.astype(np.float64) @ x
    gram += _RIDGE * len(x) * np.eye(len(gram))
    out: NDArray[np.float32] = np.linalg.solve(gram, x.T @ z).astype(np.float32)
    return out


def _linear(network: Network, cells: _Cells) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first = standard_view(cells.y, network.views)
    if network.second is None or cells.second is None:
        return (first @ network.linear[0],) * 2
    return first @ network.linear[0], standard_view(cells.second, network.second) @ network.linear[1]


def _inputs(network: Network, cells: _Cells) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first = quantile_view(cells.y, network.views)
    if network.second is None or cells.second is None:
        return first, batch_view(cells.y, cells.batch, network.views)
    return first, quantile_view(cells.second, network.second)


def _widths(network: Network) -> tuple[int, int]:
    return len(network.linear[0]), len(network.linear[1])


def _tensors(network: Network, cells: _Cells) -> dict[str, torch.Tensor]:
    second = network.second
    target = standard_view(cells.y, network.views)
    other = target if second is None or cells.second is None else standard_view(cells.second, second)
    views, linear = _inputs(network, cells), _linear(network, cells)
    arrays: dict[str, NDArray[Any]] = {
        "view_0": views[0],
        "view_1": views[1],
        "linear_0": linear[0],
        "linear_1": linear[1],
    }
    arrays |= {"target_0": target, "target_1": other, "batch": cells.batch, "label": cells.label}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _prototypes(network: Network, cells: _Cells, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(K, n_latent) directions to start from, those of the labels first, and the variance of the prior."""
    first, second = _linear(network, cells)
    z = (first + second) / 2
    prior = np.maximum(z.var(axis=0), _TINY).astype(np.float32)
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _TINY)
    weight = 1 / np.bincount(cells.batch)[cells.batch]
    n_labels = int(cells.label.max(initial=-1)) + 1
    number = max(1, min(network.objective.n_prototypes, len(z) // _CELLS_PER_PROTOTYPE), n_labels)
    centers = kmeans(unit, number, weights=weight, random_state=seed).centers
    # duplicate cells make fewer centres; those missing start at random
    lacking = np.random.default_rng(seed).normal(size=(number - len(centers), unit.shape[1])).astype(np.float32)
    centers = np.concatenate([centers, lacking])
    for code in range(n_labels):
        rows = cells.label == code
        if rows.any():
            centers[code] = unit[rows].mean(axis=0)
    return centers, prior


def refine(network: Network, y: Any, batch: Any, *, second: Any | None = None) -> NDArray[np.float32]:
    """Latent coordinates of cells, each a function of the cell, its batch and the network alone.

    The mean z of the product of both views' posteriors, which is their means weighted by their precisions; then
    z (r / |z|)^(1/2), with r the root mean square length of the training cells. Nothing is drawn.

    Parameters
    ----------
    network
        Trained network.
    y
        (n, d) cells, in the coordinates it was trained on.
    batch
        (n,) batches; -1 for one it was not trained on, which is given the statistics of all.
    second
        (n, d2) second modality, if it was trained with one.

    Returns
    -------
    (n, n_latent) float32, in the scale of `y`.

    Raises
    ------
    TypeError, ValueError
        For arrays that do not fit.
    """
    points, other = as_points(y, "y"), None if second is None else as_points(second, "second")
    codes = _codes(batch, "batch", len(points))
    width = len(network.linear[0])
    if points.shape[1] != width:
        raise ValueError(f"y has {points.shape[1]} coordinates; the network was trained on {width}.")
    if (other is None) != (network.second is None):
        without = "without" if network.second is None else "with"
        raise ValueError(f"the network was trained {without} a second modality: pass second= as in training.")
    if other is not None and other.shape != (len(points), len(network.linear[1])):
        raise ValueError(f"second has shape {other.shape}, expected {(len(points), len(network.linear[1]))}.")
    cells = _Cells(points, codes, codes, other)
    posteriors = _posteriors(network)
    out = np.empty((len(points), network.n_latent), np.float32)
    for low in range(0, len(points), _BLOCK):
        out[low : low + _BLOCK] = _read(network, posteriors, _rows(cells, slice(low, low + _BLOCK)))
    return out


def _rows(cells: _Cells, rows: slice) -> _Cells:
    second = None if cells.second is None else cells.second[rows]
    return _Cells(cells.y[rows], cells.batch[rows], cells.label[rows], second)


def _posteriors(network: Network) -> torch.nn.ModuleList:
    """Both encoders; made under a fork of the generator, from which layers draw what is overwritten here."""
    with torch.random.fork_rng(devices=[]):
        out = torch.nn.ModuleList([Posterior(network.encoder, n, network.n_latent) for n in _widths(network)])
    prefix = "posteriors."
    own = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in network.weights.items() if k.startswith(prefix)}
    out.load_state_dict(own)
    return out.eval()


@torch.no_grad()
def _read(network: Network, posteriors: torch.nn.ModuleList, cells: _Cells) -> NDArray[np.float32]:
    inputs, linear = _inputs(network, cells), _linear(network, cells)
    mean, precision = [], []
    with single_threaded_torch():
        for posterior, view, part in zip(posteriors, inputs, linear, strict=True):
            mu, logvar = posterior(torch.from_numpy(view), torch.from_numpy(part))
            mean.append(mu)
            precision.append((-logvar).exp())
    product = (mean[0] * precision[0] + mean[1] * precision[1]) / (precision[0] + precision[1])
    out: NDArray[np.float32] = _compressed(product.numpy(), network)
    return out


def _compressed(z: NDArray[np.float32], network: Network) -> NDArray[np.float32]:
    """Latents in the scale of the input, a cell's distance from the origin entering by its square root.

    Assignments see directions alone (Eq. 2), so between two cells of one prototype only the length is left, most of
    which is how deeply they were measured.
    """
    usual = np.sqrt(network.weights["prior"].sum())
    length = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _TINY)
    out: NDArray[np.float32] = (network.scale * np.sqrt(usual / length)).astype(np.float32) * z
    return out
