"""The hash of everything an object holds, which the tests of the hall define."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse


def _digest(value: object) -> bytes:
    if sparse.issparse(value):
        return b"".join(_digest(part) for part in (value.data, value.indices, value.indptr))
    if isinstance(value, pd.DataFrame):
        return (
            repr(value.dtypes.to_dict()).encode()
            + pd.util.hash_pandas_object(value.astype(object)).to_numpy().tobytes()
        )
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    return repr(value).encode()


@pytest.fixture
def fingerprint() -> Callable[[AnnData], str]:
    """Hash of everything that an AnnData holds."""

    def of(adata: AnnData) -> str:
        parts = [_digest(adata.X), _digest(adata.obs), _digest(adata.var)]
        for name in ("obsm", "varm", "obsp", "layers", "uns"):
            held = getattr(adata, name)
            parts += [f"{name}{key}".encode() + _digest(held[key]) for key in sorted(k for k in held if k)]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    return of
