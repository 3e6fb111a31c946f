"""Where genes and peaks lie: annotations in GTF, BED or a table, and the names of peaks."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    from numpy.typing import NDArray

_PEAK = r"^(.+?)[:_-](\d+)[-_](\d+)$"
#: Names that a column may have, in lower case.
_COLUMNS = {
    "chrom": ("chrom", "chr", "chromosome", "seqname", "seqnames", "seqid"),
    "start": ("start", "chromstart", "chrom_start", "txstart"),
    "end": ("end", "chromend", "chrom_end", "txend", "stop"),
    "strand": ("strand",),
    "gene": ("gene", "gene_name", "name", "gene_symbol", "symbol", "gene_id"),
    "biotype": ("gene_type", "gene_biotype", "biotype"),
}
#: Lines of a GTF read together.
_LINES = 200_000


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals [start, end), counted from 0, on chromosomes named as given."""

    chrom: NDArray[np.str_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Genes:
    """Genes: their intervals, names, and whether they are read toward higher positions."""

    where: Intervals
    name: NDArray[np.str_]
    forward: NDArray[np.bool_]


def peaks_of(part: anndata.AnnData) -> Intervals:
    """Read where peaks lie from ``var`` columns (chrom, start, end) or from their names.

    Raises
    ------
    ValueError
        If there are no such columns and names are not like ``chr1:100-200``, ``chr1-100-200`` or ``chr1_100_200``.
    """
    var: Any = part.var
    columns = _find(var, ("chrom", "start", "end"))
    if len(columns) == 3:
        return _intervals(var[list(columns.values())].set_axis(list(columns), axis=1), "var")
    found = part.var_names.to_series().astype(str).str.extract(_PEAK)
    wrong = np.flatnonzero(found.isna().any(axis=1).to_numpy())
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {part.n_vars} features are not named like 'chr1:100-200', for example "
            f"{part.var_names[int(wrong[0])]!r}: rename them, or give var the columns chrom, start and end."
        )
    return _intervals(found.set_axis(["chrom", "start", "end"], axis=1), "var_names")


def named_like_peaks(names: Sequence[str]) -> bool:
    """Tell whether nine in ten of the first names have the form of a peak."""
    first = [str(name) for name in names[:200]]
    return bool(first) and sum(re.match(_PEAK, name) is not None for name in first) >= 0.9 * len(first)


def genes_of(annotation: str | Path | pd.DataFrame, biotypes: Sequence[str] | None) -> Genes:
    """Read genes from a GTF or BED file (also gzipped) or a table.

    Parameters
    ----------
    annotation
        Path that ends in ``.gtf`` or ``.bed``, before a possible ``.gz``; or a table with columns for chromosome, start
        (counted from 0), end, strand and gene.
    biotypes
        Kinds of genes that are kept, where the annotation tells kinds. None: all.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    KeyError
        If the table lacks a column.
    TypeError
        If `annotation` is of another kind.
    ValueError
        If the file is of another format, or holds no gene of those kinds with a strand.
    """
    if isinstance(annotation, pd.DataFrame):
        table, source = _from_table(annotation), "annotation"
    elif isinstance(annotation, str | Path):
        table, source = _from_file(Path(annotation)), str(annotation)
    else:
        raise TypeError(
            f"annotation is a {type(annotation).__name__}: pass a path of a GTF or BED file, or a DataFrame."
        )
    held = sorted(set(table["biotype"].dropna())) if "biotype" in table else []
    if biotypes is not None and held:
        if isinstance(biotypes, str):
            raise TypeError(f"biotypes={biotypes!r} must be a list of strings.")
        table = table[table["biotype"].isin(list(biotypes))]
    table = table[table["strand"].isin(["+", "-"]) & table["gene"].notna()]
    if not len(table):
        raise ValueError(
            f"{source} holds no gene with a name, a strand (+ or -) and a biotype among {biotypes}; its biotypes are "
            f"{held}."
        )
    forward = (table["strand"] == "+").to_numpy()
    return Genes(_intervals(table, source), table["gene"].astype(str).to_numpy(dtype=str), forward)


def _find(table: pd.DataFrame, wanted: Sequence[str]) -> dict[str, Any]:
    lower = {str(column).lower(): column for column in table.columns[::-1]}
    found = {key: next((lower[name] for name in _COLUMNS[key] if name in lower), None) for key in wanted}
    return {key: column for key, column in found.items() if column is not None}


def _from_table(annotation: pd.DataFrame) -> pd.DataFrame:
    columns = _find(annotation, tuple(_COLUMNS))
    table = pd.DataFrame({key: annotation[column] for key, column in columns.items()})
    if "gene" not in table:
        table["gene"] = annotation.index.astype(str)
    missing = [key for key in ("chrom", "start", "end", "strand") if key not in table]
    if missing:
        raise KeyError(f"annotation has no column {missing}; it has {list(annotation.columns)}.")
    return table


def _from_file(path: Path) -> pd.DataFrame:
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in (".gtf", ".bed"):
        raise ValueError(f"annotation={str(path)!r} must end in .gtf or .bed, or either with .gz.")
    if not path.is_file():
        raise FileNotFoundError(f"annotation={str(path)!r} does not exist.")
    try:
        return _read_gtf(path) if kind == ".gtf" else _read_bed(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"annotation={str(path)!r} cannot be read as {kind[1:].upper()}: {error}") from error


def _read_gtf(path: Path) -> pd.DataFrame:
    """Lines of genes; a GTF counts from 1 and includes the end, which is [start - 1, end)."""
    names = ["chrom", "feature", "start", "end", "strand", "attribute"]
    parts = pd.read_csv(
        path, sep="\t", comment="#", header=None, usecols=[0, 2, 3, 4, 6, 8], names=names, chunksize=_LINES, quoting=3,
        dtype={"chrom": str, "feature": str, "strand": str, "attribute": str},
    )  # fmt: skip
    table = pd.concat([part[part["feature"] == "gene"] for part in parts], ignore_index=True)
    if not len(table):
        raise ValueError(f"annotation={str(path)!r} has no lines of feature 'gene'.")
    attribute = {key: table["attribute"].str.extract(rf'{key} "([^"]*)"')[0] for key in
                 ("gene_name", "gene_id", "gene_type", "gene_biotype")}  # fmt: skip
    table["gene"] = attribute["gene_name"].fillna(attribute["gene_id"])
    table["biotype"] = attribute["gene_type"].fillna(attribute["gene_biotype"])
    table["start"] = pd.to_numeric(table["start"], errors="coerce") - 1
    return table.drop(columns=["feature", "attribute"])


def _read_bed(path: Path) -> pd.DataFrame:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        skip = next((i for i, line in enumerate(lines) if not line.startswith(("#", "track", "browser"))), 0)
    table = pd.read_csv(path, sep="\t", header=None, skiprows=skip, dtype={0: str, 3: str, 5: str})
    if table.shape[1] < 6:
        raise ValueError(
            f"annotation={str(path)!r} has {table.shape[1]} columns: a BED of genes needs six (chromosome, start, end, "
            "name, score, strand)."
        )
    return table[[0, 1, 2, 3, 5]].set_axis(["chrom", "start", "end", "gene", "strand"], axis=1)


def _intervals(table: pd.DataFrame, source: str) -> Intervals:
    start, end = (pd.to_numeric(table[key], errors="coerce").to_numpy(dtype=np.float64) for key in ("start", "end"))
    wrong = np.flatnonzero(~(np.isfinite(start) & np.isfinite(end) & (start >= 0) & (end > start)))
    if len(wrong):
        row = table.iloc[int(wrong[0])]
        raise ValueError(
            f"{source}: {len(wrong)} intervals are none (start must be at least 0 and below end), for example "
            f"{row['chrom']}:{row['start']}-{row['end']}."
        )
    return Intervals(table["chrom"].astype(str).to_numpy(dtype=str), start.astype(np.int64), end.astype(np.int64))
