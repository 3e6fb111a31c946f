"""From what users give (arrays, batches, lists) to one padded, checked batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["Array", "Arrays", "Batch", "make_batch", "to_tensor"]

type Array = Tensor | np.ndarray
type Arrays = Array | Sequence[Array]


@dataclass(frozen=True)
class Batch:
    """Costs (B, n, m) and masses (B, n), (B, m) of a batch, with what is needed to give results in the user's shape."""

    cost: Tensor
    a: Tensor
    b: Tensor
    single: bool
    sizes: tuple[tuple[int, int], ...] | None


def to_tensor(value: Array, name: str, ndims: Sequence[int], like: Tensor | None = None) -> Tensor:
    """Return a finite float tensor of an allowed number of axes, of the type and device of ``like``."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a torch tensor or a numeric NumPy array, not {type(value).__name__}."
        ) from error
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    if like is not None:
        tensor = tensor.to(like)
    if tensor.ndim not in ndims or 0 in tensor.shape:
        wanted = " or ".join(f"{k}" for k in ndims)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it needs {wanted} axes, none of them empty.")
    _check_finite(tensor, name)
    return tensor


def _check_finite(tensor: Tensor, name: str) -> None:
    bad = ~tensor.isfinite()
    if bool(bad.any()):
        where = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(
            f"{name} has a NaN or infinite entry at {where} ({int(bad.sum())} in all): remove or impute it."
        )


def _check_mass(mass: Tensor, name: str) -> None:
    bad = mass < 0
    if bool(bad.any()):
        where = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(f"{name} has a negative entry at {where}: {float(mass[where]):g}. Masses must be >= 0.")
    if bool((mass.sum(-1) == 0).any()):
        raise ValueError(f"{name} has no mass: at least one entry of each problem must be positive.")


def _mass(mass: Array | None, name: str, cost: Tensor, axis: int) -> Tensor:
    """Masses (..., n) of one array of costs; uniform and summing to 1 when not given."""
    shape = cost.shape[:-2] + cost.shape[axis : axis + 1 or None]
    if mass is None:
        return torch.full(shape, 1 / shape[-1], dtype=cost.dtype, device=cost.device)
    tensor = to_tensor(mass, name, range(1, cost.ndim), like=cost)
    if tensor.shape[-1] != shape[-1] or tensor.ndim > 1 and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but the cost asks for {tuple(shape)}.")
    _check_mass(tensor, name)
    return tensor.expand(shape)


def _pad(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors of different shapes, filling with zeros at the end."""
    shape = [max(part.shape[k] for part in parts) for k in range(parts[0].ndim)]
    out = parts[0].new_zeros((len(parts), *shape))
    for row, part in zip(out, parts, strict=True):
        row[tuple(slice(k) for k in part.shape)] = part
    return out


def make_batch(
    make_cost: Callable[..., Tensor], arrays: dict[str, Arrays | None], a: Arrays | None, b: Arrays | None
) -> Batch:
    """Costs and masses of one problem, a batch or a list, padded with zero mass.

    ``make_cost`` takes the named arrays of one problem (or of one stacked batch) and checks them.
    """
    lists = {name: value for name, value in arrays.items() if isinstance(value, (list, tuple))}
    if not lists:
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            raise TypeError("a and b must be arrays where the points or the cost are arrays, not lists.")
        cost = make_cost(**arrays)
        mass = _mass(cast("Array | None", a), "a", cost, -2), _mass(cast("Array | None", b), "b", cost, -1)
        if cost.ndim == 2:
            return Batch(cost[None], mass[0][None], mass[1][None], True, None)
        return Batch(cost, *mass, False, None)
    count = _common_length({**lists, "a": a, "b": b})
    one = [{name: _item(value, i, count) for name, value in arrays.items()} for i in range(count)]
    costs = [make_cost(**part) for part in one]
    a_parts = [_mass(_item(a, i, count), f"a[{i}]", cost, -2) for i, cost in enumerate(costs)]
    b_parts = [_mass(_item(b, i, count), f"b[{i}]", cost, -1) for i, cost in enumerate(costs)]
    sizes = tuple((cost.shape[0], cost.shape[1]) for cost in costs)
    return Batch(_pad(costs), _pad(a_parts), _pad(b_parts), False, sizes)


def _common_length(arrays: dict[str, object]) -> int:
    lengths = {name: len(value) for name, value in arrays.items() if isinstance(value, (list, tuple))}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"Lists of problems need one common length of at least 1, not {lengths}.")
    return next(iter(lengths.values()))


def _item(value: Arrays | None, index: int, count: int) -> Array | None:
    """Problem ``index`` of a list; an array that is not a list is shared by all problems."""
    return value[index] if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]
