"""Results that are written to the user's AnnData or MuData: all of them, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muport.data._data_argument import check_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import anndata
    import mudata

    #: ``"obs"``, ``"obsm"``, ``"obsp"`` or ``"uns"`` -> name -> what is written there, in the order of the cells.
    type Results = Mapping[str, Mapping[str, Any]]

_ABSENT = object()


def check_writable(data: anndata.AnnData | mudata.MuData) -> None:
    """Raise a ValueError if `data` is a view, and a TypeError if it is neither an AnnData nor a MuData."""
    check_cells(data)
    if getattr(data, "is_view", False):
        raise ValueError(f"data is a view, which cannot be written to: pass {type(data).__name__.lower()}.copy().")


def check_names_free(
    data: anndata.AnnData | mudata.MuData, names: Mapping[str, Iterable[str]], overwrite: bool, advice: str
) -> None:
    """Raise a ValueError if a name is taken and `overwrite` is False, or if it is the mask of a modality.

    - `names`: ``"obs"``, ``"obsm"``, ``"obsp"`` or ``"uns"`` -> names to write there.
    - `advice`: What to do beside overwriting, at the end of the message.
    """
    for key in names.get("obsm", ()):
        if key in getattr(data, "mod", {}):
            raise ValueError(f"obsm[{key!r}] holds which cells are in the modality {key!r}: choose another name.")
    taken = [f"{where}[{key!r}]" for where, keys in names.items() for key in keys if key in getattr(data, where)]
    if taken and not overwrite:
        raise ValueError(f"{', '.join(taken)} would be overwritten: pass overwrite=True, or {advice}.")


def write_results(data: anndata.AnnData | mudata.MuData, results: Results) -> None:
    """Write all results; if one cannot be written, `data` is as before."""
    before: list[tuple[str, str, Any]] = []
    try:
        for where, values in results.items():
            for key, value in values.items():
                held = getattr(data, where)
                before.append((where, key, held[key] if key in held else _ABSENT))
                held[key] = value
    except BaseException:
        for where, key, value in reversed(before):
            _restore(getattr(data, where), key, value)
        raise


def _restore(held: Any, key: str, value: Any) -> None:
    if value is not _ABSENT:
        held[key] = value
    elif key in held:
        del held[key]
