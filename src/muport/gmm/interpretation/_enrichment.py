"""Enrichment of sets of features, such as gene sets, on axes and in components, with decoupler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["enrichment"]


def enrichment(
    scores: ArrayLike,
    features: Sequence[str],
    sets: Mapping[str, Iterable[str]] | pd.DataFrame,
    names: Sequence[str] | None = None,
    *,
    method: str = "ulm",
    min_features: int = 5,
) -> pd.DataFrame:
    """Test which sets of features have high or low scores, with a method of decoupler; nothing is downloaded.

    - `scores`: (g, r) scores of g features on r axes or components, see :func:`axis_loadings`.
    - `features`: (g,) names of the features.
    - `sets`: Name of a set -> its features; or a table with the columns ``source`` (set), ``target`` (feature) and,
      optionally, ``weight``.
    - `names`: (r,) names of the columns of `scores`; 0, 1, ... by default.
    - `method`: A method of ``decoupler.mt``: ``"ulm"`` (t statistic of a linear model), ``"gsea"``, ``"ora"``,
      ``"zscore"`` ...
    - `min_features`: Minimum number of these features in a set; smaller sets are left out.

    Returns one row for each column of `scores` and each set: ``item``, ``set``, ``score``, ``padj`` (Benjamini and
    Hochberg over the sets of an item; 1 if the method has no test) and ``n_features``. Items keep their order, and the
    sets of an item are sorted by decreasing |score|. The sign of a learned axis is a convention, so the sign of a score
    is relative to it. Raises ImportError if decoupler is not installed; ValueError if shapes do not fit, a name occurs
    twice, a weight is not a finite number, the method is unknown, or no set has enough features; TypeError if the sets
    are neither lists by name nor a table.
    """
    decoupler = _import_decoupler()
    check_integers(min_features=min_features)
    matrix = np.atleast_2d(np.asarray(scores, dtype=np.float64).T)
    columns = [str(feature) for feature in features]
    items = [str(i) for i in range(len(matrix))] if names is None else [str(name) for name in names]
    if matrix.shape != (len(items), len(columns)) or not np.isfinite(matrix).all():
        raise ValueError(
            f"scores must be finite and of shape ({len(columns)} features, {len(items)} names), not {matrix.T.shape}."
        )
    if len(set(columns)) < len(columns):
        index = pd.Index(columns)
        raise ValueError(f"features: {index[index.duplicated()][0]!r} occurs twice; make the names unique first.")
    if not isinstance(method, str) or not callable(getattr(decoupler.mt, method, None)) or method.startswith("_"):
        raise ValueError(f"method={method!r} is not a method of decoupler.mt; try 'ulm', 'gsea', 'ora' or 'zscore'.")
    net, sizes = _make_network(sets, columns, min_features)
    # an item whose scores are all 0 cannot be tested
    nonzero = (matrix != 0).any(axis=1)
    table = pd.DataFrame(matrix, index=items, columns=columns)[nonzero]
    if table.empty:
        raise ValueError("scores are all 0: nothing can be tested.")
    score, padj = getattr(decoupler.mt, method)(table, net, tmin=min_features, empty=False)
    return _to_long_table(score, padj, sizes)


def _import_decoupler() -> Any:
    try:
        import decoupler
    except ImportError as error:
        raise ImportError("enrichment needs decoupler: pip install 'muport[enrich]'") from error
    return decoupler


def _make_network(
    sets: Mapping[str, Iterable[str]] | pd.DataFrame, columns: list[str], least: int
) -> tuple[pd.DataFrame, pd.Series]:
    """Pairs of a set and a feature in the format of decoupler, and the sizes of the sets that are large enough."""
    net = _read_table(sets) if isinstance(sets, pd.DataFrame) else _read_mapping(sets)
    net = net.drop_duplicates(["source", "target"])
    sizes = net[net["target"].isin(columns)].groupby("source").size()
    kept = sizes[sizes >= least]
    if kept.empty:
        raise ValueError(
            f"sets: none of {net['source'].nunique()} has min_features={least} of the {len(columns)} features "
            f"({columns[0]!r}, ...); check that both use the same names."
        )
    return net[net["source"].isin(kept.index)], kept


def _read_table(sets: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a table, with names as text, and their weights if it has any."""
    if not {"source", "target"} <= set(sets.columns):
        raise ValueError(f"sets: the table needs columns 'source' and 'target', it has {list(sets.columns)}.")
    net = sets[[name for name in ("source", "target", "weight") if name in sets.columns]]
    if (missing := net.isna().any(axis=1)).any():
        raise ValueError(f"sets: {int(missing.sum())} rows of the table lack a value (NaN): leave them out.")
    names = {name: net[name].astype(str) for name in ("source", "target")}
    if "weight" not in net:
        return pd.DataFrame(names)
    weight = pd.to_numeric(net["weight"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(weight).all():
        bad = net["weight"].tolist()[int(np.flatnonzero(~np.isfinite(weight))[0])]
        raise ValueError(f"sets: the weight {bad!r} is not a finite number: correct it, or drop the column.")
    return pd.DataFrame(names | {"weight": weight})


def _read_mapping(sets: Any) -> pd.DataFrame:
    """The pairs of sets by name."""
    if not isinstance(sets, Mapping):
        raise TypeError(
            f"sets is {type(sets).__name__}: pass a dict from the name of a set to its features, or a table with the "
            "columns 'source' and 'target'."
        )
    for name, members in sets.items():
        # the letters of one name would be features
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise TypeError(f"sets[{name!r}]={members!r} must be a list of features.")
    pairs = [(str(name), str(feature)) for name, members in sets.items() for feature in members]
    return pd.DataFrame(pairs, columns=["source", "target"])


def _to_long_table(score: pd.DataFrame, padj: pd.DataFrame | None, sizes: pd.Series) -> pd.DataFrame:
    """One row per item and set, from tables of items by sets."""
    items, sets = score.shape
    p_adjusted = np.ones(score.size) if padj is None else padj.fillna(1.0).to_numpy().ravel()
    table = pd.DataFrame(
        {
            "item": np.repeat(score.index.to_numpy(), sets),
            "set": np.tile(score.columns.to_numpy(), items),
            "score": score.fillna(0.0).to_numpy().ravel(),
            "padj": p_adjusted,
            "n_features": np.tile(sizes.reindex(score.columns).to_numpy(), items),
        }
    )
    item = np.repeat(np.arange(items), sets)
    return table.iloc[np.lexsort((-table["score"].abs(), item))].reset_index(drop=True)
