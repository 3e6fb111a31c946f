"""How counts become the coordinates of a representation: a recipe that new cells can follow."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from scipy import sparse

from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data._state_checks import check_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

__all__ = ["PROJECTIONS_KEY", "ProjectionRecipe", "find_recipe", "store_recipe"]

#: Key of ``uns`` with the recipes of an AnnData: key of ``obsm`` -> recipe.
PROJECTIONS_KEY = "projections"
_TRANSFORMS = ("log", "tfidf", "clr")


def _no_integers() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_numbers() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class ProjectionRecipe:
    """Steps from the counts of a cell to its coordinates.

    Counts of `features` are summed by the links, if there are any. Values are transformed, and those in `used` columns
    are multiplied by `scale`, limited to `largest`, reduced by `mean`, and multiplied by `loadings`.

    - `transform`: ``"log"``: log(1 + target count / depth), where depth is the sum over all columns. ``"tfidf"``:
      TF-IDF of the used columns, with the weights `scale` and `target` counts per cell. ``"clr"``: centered log-ratios.
    - `features`: Names of the features that counts are read of.
    - `used`: (G,) columns with loadings, among the features or, if they are linked, among what they are linked to.
    - `scale`, `mean`: (G,) factors and means.
    - `loadings`: (G, k).
    - `offset`: (k,) subtracted from the coordinates.
    - `target`: Counts of a cell after depth normalization.
    - `largest`: Largest scaled value.
    - `unit_values`, `unit_coordinates`: Whether the values, and the coordinates, of a cell are scaled to length 1.
    - `log_tf`, `log_tfidf`: Where TF-IDF takes the logarithm.
    - `link_weight`, `link_column`, `link_start`: (F x H) links in CSR form; empty if there are none.
    - `source`: Modality that holds the features, if it is another one than that of the representation.
    """

    transform: str
    features: Annotated[tuple[str, ...], "F"]
    used: Annotated[NDArray[np.int64], "G", "0.."]
    scale: Annotated[NDArray[np.float64], "G"]
    mean: Annotated[NDArray[np.float64], "G"]
    loadings: Annotated[NDArray[np.float32], "G k"]
    offset: Annotated[NDArray[np.float64], "k"]
    target: Annotated[float, "0.."] = 1.0
    largest: Annotated[float, "0..", "any"] = float("inf")
    unit_values: bool = False
    unit_coordinates: bool = False
    log_tf: bool = True
    log_tfidf: bool = False
    link_weight: Annotated[NDArray[np.float64], "L"] = field(default_factory=_no_numbers)
    link_column: Annotated[NDArray[np.int64], "L", "0.."] = field(default_factory=_no_integers)
    link_start: Annotated[NDArray[np.int64], "*", "0.."] = field(default_factory=_no_integers)
    source: str = ""

    def check_consistency(self) -> None:
        """Raise a ValueError unless the columns exist."""
        if self.transform not in _TRANSFORMS:
            raise ValueError(f"transform={self.transform!r} must be one of {list(_TRANSFORMS)}.")
        starts = self.link_start
        if len(starts) and (len(starts) != len(self.features) + 1 or starts[0] or (np.diff(starts) < 0).any()):
            raise ValueError("link_start does not divide the links among the features.")
        if len(starts) and starts[-1] != len(self.link_weight):
            raise ValueError(f"link_start ends at {starts[-1]}, but there are {len(self.link_weight)} links.")
        if not len(starts) and self.used.max(initial=-1) >= len(self.features):
            raise ValueError(f"used names column {self.used.max()}, but there are {len(self.features)} features.")

    @property
    def links(self) -> sparse.csr_matrix | None:
        """(F, H) weights of the features; None if they are not linked to anything."""
        if not len(self.link_start):
            return None
        width = int(max(self.link_column.max(initial=-1), self.used.max(initial=-1))) + 1
        parts = (self.link_weight, self.link_column, self.link_start)
        return sparse.csr_matrix(parts, shape=(len(self.features), width))

    def loadings_of(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(m, k) change of the coordinates by one unit of the transformed value of each feature.

        Raises KeyError if a feature has no loading, and ValueError if coordinates are no linear function of features.
        """
        if self.unit_values or self.unit_coordinates or self.log_tfidf or len(self.link_start):
            raise ValueError("the coordinates are no linear function of the features: pass loadings, or coordinates.")
        rows = {self.features[column]: row for row, column in enumerate(self.used.tolist())}
        if missing := [name for name in names if name not in rows]:
            raise KeyError(
                f"features {missing} have no loading: the representation was computed from {len(rows)} features, "
                f"such as {list(rows)[:3]}."
            )
        order = [rows[name] for name in names]
        change: NDArray[np.float64] = self.scale[order, None] * self.loadings[order].astype(np.float64)
        return change

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all fields: equal for representations in one space."""
        digest = hashlib.sha256()
        for name, value in self.to_dict().items():
            digest.update(name.encode())
            if isinstance(value, np.ndarray) and value.dtype.kind != "O":
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                digest.update("\0".join(map(str, np.atleast_1d(value))).encode())
        return digest.hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return arrays, numbers and texts, which an h5ad file can hold."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"schema_version": SCHEMA_VERSION, **fields, "features": np.array(self.features, dtype=object)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> ProjectionRecipe:
        """Undo :meth:`to_dict`.

        - `where`: How the message calls the values.

        Raises ValueError if they are not what :meth:`to_dict` returns.
        """
        try:
            check_schema_version(values.get("schema_version"), where)
            fields = {name: _convert(name, values[name]) for name in (f.name for f in dataclasses.fields(cls))}
            recipe = cls(**fields)
            check_state(recipe, where)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where} is no recipe of a projection ({error}): prepare the data again with muport.pp.prepare."
            ) from error
        return recipe


_NUMBERS = {"target": float, "largest": float, "unit_values": bool, "unit_coordinates": bool, "log_tf": bool,
            "log_tfidf": bool, "transform": str, "source": str}  # fmt: skip
_DTYPES = {"used": np.int64, "link_column": np.int64, "link_start": np.int64, "loadings": np.float32}


def _convert(name: str, value: Any) -> Any:
    """Return a field in its type; a file may have changed it."""
    if name == "features":
        return tuple(str(feature) for feature in value)
    if name in _NUMBERS:
        return _NUMBERS[name](value)
    return np.asarray(value, _DTYPES.get(name, np.float64))


def store_recipe(adata: anndata.AnnData, key: str, recipe: ProjectionRecipe) -> None:
    """Store the recipe of a representation in ``uns``."""
    adata.uns[PROJECTIONS_KEY] = {**adata.uns.get(PROJECTIONS_KEY, {}), key: recipe.to_dict()}


def find_recipe(adata: anndata.AnnData, key: str) -> ProjectionRecipe | None:
    """Return the recipe of a representation, or None if there is none."""
    stored = adata.uns.get(PROJECTIONS_KEY, {})
    if not hasattr(stored, "get") or stored.get(key) is None:
        return None
    return ProjectionRecipe.from_dict(stored[key], f"uns[{PROJECTIONS_KEY!r}][{key!r}]")
