"""Positions of genes and peaks, read from GTF or BED files, from tables, or from the names of peaks."""

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
#: Accepted names of each column, in lower case.
_COLUMNS = {
    "chrom": ("chrom", "chr", "chromosome", "seqname", "seqnames", "seqid"),
    "start": ("start", "chromstart", "chrom_start", "txstart"),
    "end": ("end", "chromend", "chrom_end", "txend", "stop"),
    "strand": ("strand",),
    "gene": ("gene", "gene_name", "name", "gene_symbol", "symbol", "gene_id"),
    "biotype": ("gene_type", "gene_biotype", "biotype"),
}
#: Number of lines of a GTF file per block.
_BLOCK_LINES = 200_000


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals [start, end) in bases, counted from 0, with chromosome names as in the source."""

    chrom: NDArray[np.str_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Genes:
    """Genes: their intervals, their names, and whether they lie on the forward strand."""

    intervals: Intervals
    name: NDArray[np.str_]
    forward: NDArray[np.bool_]


def read_peaks(adata: anndata.AnnData) -> Intervals:
    """Read the positions of peaks from ``var`` columns (chrom, start, end) or from their names."""
    var: Any = adata.var
    columns = _find_columns(var, ("chrom", "start", "end"))
    if len(columns) == 3:
        return _intervals(var[list(columns.values())].set_axis(list(columns), axis=1), "var")
    parsed = adata.var_names.to_series().astype(str).str.extract(_PEAK)
    invalid = np.flatnonzero(parsed.isna().any(axis=1).to_numpy())
    if len(invalid):
        raise ValueError(
            f"{len(invalid)} of {adata.n_vars} features are not named like 'chr1:100-200', for example "
            f"{adata.var_names[int(invalid[0])]!r}: rename them, or give var the columns chrom, start and end."
        )
    return _intervals(parsed.set_axis(["chrom", "start", "end"], axis=1), "var_names")


def looks_like_peaks(names: Sequence[str]) -> bool:
    """Return whether at least 90 percent of the first 200 names look like peaks."""
    first = [str(name) for name in names[:200]]
    return bool(first) and sum(re.match(_PEAK, name) is not None for name in first) >= 0.9 * len(first)


def read_genes(annotation: str | Path | pd.DataFrame, biotypes: Sequence[str] | None) -> Genes:
    """Read genes from a GTF or BED file (also gzipped) or a table.

    - `annotation`: Path that ends in ``.gtf`` or ``.bed``, before a possible ``.gz``; or a table with columns for
      chromosome, start (counted from 0), end, strand and gene.
    - `biotypes`: Biotypes of the genes to return, if the annotation has biotypes. None: all.

    Raises FileNotFoundError if the file does not exist; KeyError if the table lacks a column; TypeError if `annotation`
    is neither a path nor a table; ValueError if the file has another format, or no gene has a name, a strand and one of
    the biotypes.
    """
    if isinstance(annotation, pd.DataFrame):
        table, source = _from_table(annotation), "annotation"
    elif isinstance(annotation, str | Path):
        table, source = _from_file(Path(annotation)), str(annotation)
    else:
        raise TypeError(
            f"annotation is a {type(annotation).__name__}: pass a path of a GTF or BED file, or a DataFrame."
        )
    present = sorted(set(table["biotype"].dropna())) if "biotype" in table else []
    if biotypes is not None and present:
        if isinstance(biotypes, str):
            raise TypeError(f"biotypes={biotypes!r} must be a list of strings.")
        table = table[table["biotype"].isin(list(biotypes))]
    table = table[table["strand"].isin(["+", "-"]) & table["gene"].notna()]
    if not len(table):
        raise ValueError(
            f"{source} holds no gene with a name, a strand (+ or -) and a biotype among {biotypes}; its biotypes are "
            f"{present}."
        )
    forward = (table["strand"] == "+").to_numpy()
    return Genes(_intervals(table, source), table["gene"].astype(str).to_numpy(dtype=str), forward)


def _find_columns(table: pd.DataFrame, keys: Sequence[str]) -> dict[str, Any]:
    """Return key -> column for the keys whose column exists."""
    lower = {str(column).lower(): column for column in table.columns[::-1]}
    matches = {key: next((lower[name] for name in _COLUMNS[key] if name in lower), None) for key in keys}
    return {key: column for key, column in matches.items() if column is not None}


def _from_table(annotation: pd.DataFrame) -> pd.DataFrame:
    columns = _find_columns(annotation, tuple(_COLUMNS))
    table = pd.DataFrame({key: annotation[column] for key, column in columns.items()})
    if "gene" not in table:
        table["gene"] = annotation.index.astype(str)
    missing = [key for key in ("chrom", "start", "end", "strand") if key not in table]
    if missing:
        raise KeyError(f"annotation has no column {missing}; it has {list(annotation.columns)}.")
    return table


def _from_file(path: Path) -> pd.DataFrame:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (".gtf", ".bed"):
        raise ValueError(f"annotation={str(path)!r} must end in .gtf or .bed, or either with .gz.")
    if not path.is_file():
        raise FileNotFoundError(f"annotation={str(path)!r} does not exist.")
    try:
        return _read_gtf(path) if suffix == ".gtf" else _read_bed(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"annotation={str(path)!r} cannot be read as {suffix[1:].upper()}: {error}") from error


def _read_gtf(path: Path) -> pd.DataFrame:
    """Read the lines of genes. GTF counts from 1 and includes the end: the interval is [start - 1, end)."""
    names = ["chrom", "feature", "start", "end", "strand", "attribute"]
    parts = pd.read_csv(
        path, sep="\t", comment="#", header=None, usecols=[0, 2, 3, 4, 6, 8], names=names, quoting=3,
        chunksize=_BLOCK_LINES,
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
    invalid = np.flatnonzero(~(np.isfinite(start) & np.isfinite(end) & (start >= 0) & (end > start)))
    if len(invalid):
        row = table.iloc[int(invalid[0])]
        raise ValueError(
            f"{source}: {len(invalid)} intervals are invalid (start must be at least 0 and below end), for example "
            f"{row['chrom']}:{row['start']}-{row['end']}."
        )
    return Intervals(table["chrom"].astype(str).to_numpy(dtype=str), start.astype(np.int64), end.astype(np.int64))
