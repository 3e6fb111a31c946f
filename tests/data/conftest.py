"""A hash of everything a user's object holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse


def _digest(value: object) -> bytes:
    if sparse.issparse(value):
        return b"".join(_digest(part) for part in (value.data, value.indices, value.indptr))
    if isinstance(value, pd.DataFrame):
        kinds = repr([(str(c), str(d)) for c, d in value.dtypes.items()]).encode()
        return kinds + pd.util.hash_pandas_object(value.astype(object), index=True).to_numpy().tobytes()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.flags.f_contiguous}".encode() + np.ascontiguousarray(value).tobytes()
    return repr(value).encode()


def _feed(digest: hashlib._Hash, data: AnnData | MuData) -> None:
    digest.update(f"{type(data).__name__}{data.is_view}".encode())
    digest.update(_digest(pd.DataFrame(data.obs)))
    digest.update(repr(list(data.obs_names)).encode())
    for name in ("obsm", "obsp", "varm", "uns"):
        for key in sorted(getattr(data, name).keys()):
            digest.update(key.encode() + _digest(getattr(data, name)[key]))
    if isinstance(data, MuData):
        for name, adata in data.mod.items():
            digest.update(name.encode())
            _feed(digest, adata)
    else:
        digest.update(_digest(data.X))


@pytest.fixture
def fingerprint() -> Callable[[AnnData | MuData], str]:
    def of(data: AnnData | MuData) -> str:
        digest = hashlib.sha256()
        _feed(digest, data)
        return digest.hexdigest()

    return of
