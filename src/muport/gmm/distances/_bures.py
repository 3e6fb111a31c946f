"""Squared Bures distances between covariances, batched over all pairs, with one square root per covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from muport._parallel import parallel_map

__all__ = ["bures_squared", "fidelities", "roots"]

_BLOCK = 2**21  # matrix entries of the pairs that are decomposed at once, 16 MiB


def roots(covariance: Tensor) -> Tensor:
    """Symmetric square roots of covariances, one eigendecomposition each.

    - `covariance`: (..., d, d) symmetric matrices; eigenvalues below 0 count as 0.

    Returns (..., d, d).

    Examples
    --------
    >>> roots(torch.diag(torch.tensor([4.0, 9.0])))
    tensor([[2., 0.],
            [0., 3.]])
    """
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT
    return root


def bures_squared(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Compute squared Bures distances tr S + tr T - 2 tr (S^1/2 T S^1/2)^1/2 between all covariances of two lists.

    - `a`: (A, d, d) covariances, or (A, d) diagonals.
    - `b`: (B, d, d) or (B, d); by default `a`, and then only the upper triangle is computed.

    Returns (A, B), at least 0; exactly symmetric with a diagonal of 0 if `b` is not given.

    Examples
    --------
    >>> bures_squared(torch.eye(2)[None], 9 * torch.eye(2)[None])
    tensor([[8.]])
    """
    other = a if b is None else b
    if a.ndim == 2:
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(a.sqrt(), other.sqrt(), compute_mode=exact) ** 2
    if b is None:
        rows, columns = torch.triu_indices(len(a), len(a), 1, device=a.device)
    else:
        rows, columns = torch.cartesian_prod(*(torch.arange(len(x), device=a.device) for x in (a, b))).unbind(1)
    cross = fidelities(roots(a), other, rows, columns)
    trace = [x.diagonal(dim1=-2, dim2=-1).sum(-1) for x in (a, other)]
    values = (trace[0][rows] + trace[1][columns] - 2 * cross).clamp(min=0)
    out = a.new_zeros(len(a), len(other))
    out[rows, columns] = values
    if b is None:
        out[columns, rows] = values
    return out


def fidelities(root: Tensor, covariance: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute tr (R S R)^1/2 of the listed pairs of a root R and a covariance S, in blocks of bounded memory."""
    if not len(rows):
        return root.new_zeros(0)
    size = max(1, _BLOCK // root[0].numel())
    # results go into one array: small ones allocated by threads would fragment the memory of the blocks
    out = root.new_empty(len(rows))

    def fill(low: int) -> None:
        part = slice(low, low + size)
        factor = root[rows[part]]
        values = torch.linalg.eigvalsh(factor.mT @ covariance[columns[part]] @ factor)
        # a smaller eigenvalue is a rounding error, whose root would add 1e-8 to the distance
        smallest = torch.finfo(values.dtype).eps * values[..., -1:].clamp(min=0)
        kept = values > smallest
        out[part] = torch.where(kept, torch.where(kept, values, torch.ones_like(values)).sqrt(), 0.0).sum(-1)

    parallel_map(fill, range(0, len(rows), size))
    return out
