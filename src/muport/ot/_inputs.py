"""Conversion of arguments (arrays, batches, lists) to one padded and checked batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Array", "Arrays", "Batch", "make_batch", "to_tensor"]

type Array = Tensor | np.ndarray
type Arrays = Array | Sequence[Array]


@dataclass(frozen=True)
class Batch:
    """Costs (B, n, m) and masses (B, n), (B, m) of a batch, and the shape of the input.

    ``single`` is True for one problem without a leading axis; ``sizes`` are the unpadded (n, m) of a list.
    """

    cost: Tensor
    a: Tensor
    b: Tensor
    single: bool
    sizes: tuple[tuple[int, int], ...] | None


def to_tensor(
    value: Array, name: str, ndims: Sequence[int], like: Tensor | None = None, forbids: bool = False
) -> Tensor:
    """Convert to a finite float tensor of ``ndims`` axes (any of them), with the type and device of ``like``.

    With ``forbids`` an entry may be infinite, which forbids the pair.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # torch takes neither read-only arrays, nor those of another byte order, nor those of negative strides
        native = np.require(value, value.dtype.newbyteorder("="), ["A", "W"])
        value = torch.from_numpy(native if min(native.strides, default=0) >= 0 else native.copy())
    if not isinstance(value, Tensor) or value.is_complex():
        what = f"an array of {value.dtype}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be a torch tensor or a NumPy array of real numbers, not {what}.")
    tensor = value.detach()
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    if like is not None:
        tensor = tensor.to(like)
    if tensor.ndim not in ndims or 0 in tensor.shape:
        allowed = " or ".join(f"{k}" for k in ndims)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it needs {allowed} axes, none of them empty.")
    _check_finite(tensor, name, forbids)
    return tensor


def _check_finite(tensor: Tensor, name: str, forbids: bool) -> None:
    bad = tensor.isnan() | tensor.isneginf() if forbids else ~tensor.isfinite()
    if bool(bad.any()):
        position = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(
            f"{name} has a NaN or infinite entry at {position} ({int(bad.sum())} in all): remove or impute it."
        )


def _check_mass(mass: Tensor, name: str) -> None:
    bad = mass < 0
    if bool(bad.any()):
        position = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(f"{name} has a negative entry at {position}: {float(mass[position]):g}. Masses must be >= 0.")
    if bool((mass.sum(-1) == 0).any()):
        raise ValueError(f"{name} has no mass: at least one entry of each problem must be positive.")
    if bool(mass.sum(-1).isinf().any()):
        raise ValueError(f"The sum of {name} is too large for {mass.dtype}: divide the masses, or pass float64.")


def _mass(mass: Array | None, name: str, cost: Tensor, axis: int) -> Tensor:
    """Masses (..., n) that fit an array of costs; by default uniform with sum 1."""
    shape = cost.shape[:-2] + cost.shape[axis : axis + 1 or None]
    if mass is None:
        return torch.full(shape, 1 / shape[-1], dtype=cost.dtype, device=cost.device)
    tensor = to_tensor(mass, name, range(1, cost.ndim), like=cost)
    if tensor.shape[-1] != shape[-1] or tensor.ndim > 1 and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but the cost needs {tuple(shape)}.")
    _check_mass(tensor, name)
    return tensor.expand(shape)


def _pad(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of different shapes, padded with zeros at the end."""
    shape = [max(tensor.shape[k] for tensor in tensors) for k in range(tensors[0].ndim)]
    out = tensors[0].new_zeros((len(tensors), *shape))
    for row, tensor in zip(out, tensors, strict=True):
        row[tuple(slice(k) for k in tensor.shape)] = tensor
    return out


def make_batch(
    make_cost: Callable[..., Tensor], arrays: dict[str, Arrays | None], a: Arrays | None, b: Arrays | None
) -> Batch:
    """Compute the costs and masses of one problem, a batch or a list, padded with zero mass.

    ``make_cost`` takes the named arrays of one problem (or of one batch) and checks them.
    """
    lists = {name: value for name, value in arrays.items() if isinstance(value, (list, tuple))}
    if not lists:
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            raise TypeError("a and b must be arrays where the points or the cost are arrays, not lists.")
        cost = make_cost(**arrays)
        mass = _mass(_item(a, 0), "a", cost, -2), _mass(_item(b, 0), "b", cost, -1)
        if cost.ndim == 2:
            return Batch(cost[None], mass[0][None], mass[1][None], True, None)
        return Batch(cost, *mass, False, None)
    count = _common_length({**lists, "a": a, "b": b})
    costs = [make_cost(**{name: _item(value, i) for name, value in arrays.items()}) for i in range(count)]
    rows = [_mass(_item(a, i), f"a[{i}]", cost, -2) for i, cost in enumerate(costs)]
    columns = [_mass(_item(b, i), f"b[{i}]", cost, -1) for i, cost in enumerate(costs)]
    sizes = tuple((cost.shape[0], cost.shape[1]) for cost in costs)
    return Batch(_pad(costs), _pad(rows), _pad(columns), False, sizes)


def _common_length(arrays: dict[str, object]) -> int:
    lengths = {name: len(value) for name, value in arrays.items() if isinstance(value, (list, tuple))}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"Lists of problems need one common length of at least 1, not {lengths}.")
    return next(iter(lengths.values()))


def _item(value: Arrays | None, index: int) -> Array | None:
    """Array of problem ``index``; an array that is not a list is shared by all problems."""
    return value[index] if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]
