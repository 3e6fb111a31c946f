"""Markdown: tables, verdicts against the targets, and where the figures were taken."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESULTS = Path(__file__).resolve().parents[1] / "results"
#: Note on a page of which only some rows were measured again; the commit follows.
OTHERS = "- The other methods were measured at commit "


def cell(value: object, digits: int = 3) -> str:
    """A figure as text; a missing one as a dash."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 3) -> str:
    """A Markdown table."""
    lines = [list(header), ["---"] * len(header), *([cell(v, digits) for v in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def verdict(text: str, value: float, bound: float, *, at_most: bool = False, digits: int = 3) -> str:
    """One target with its figure: PASS or FAIL, and "not measured" where there is no figure."""
    if math.isnan(value) or math.isnan(bound):
        return f"- **not measured**: {text}"
    met = value <= bound if at_most else value >= bound
    sign = "≤" if at_most else "≥"
    return f"- **{'PASS' if met else 'FAIL'}**: {text}: {value:.{digits}f} (target {sign} {bound:.{digits}f})"


def read_page(name: str, header: Sequence[str], n_keys: int) -> tuple[list[list[object]], list[str], str]:
    """Rows of the table with this header on a page, the notes below, and the commit at which other methods were run.

    That is the commit of the page, unless a note tells that the rows of other methods are from a page before.

    - `n_keys`: Number of first columns that hold text; the others hold figures, and a dash is NaN.
    """
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| " + " | ".join(header) + " |") + 2
    rows: list[list[object]] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        values = [value.strip() for value in line.strip("|").split("|")]
        figures = [math.nan if value == "–" else float(value) for value in values[n_keys:]]
        rows.append([*values[:n_keys], *figures])
    notes = [line for line in lines[start + len(rows) :] if line.startswith("- ")]
    measured = next(line for line in [*notes, *lines] if line.startswith((OTHERS, "Measured at commit ")))
    return rows, notes, measured.split("at commit ")[1].split()[0].strip(".,")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS)
    return done.stdout.strip() or "unknown"


def setting(*packages: str) -> str:
    """A line that says where and with what the figures were taken."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{_processor()}, {cores} cores seen, 2 used; Python {platform.python_version()}"
    return f"Measured at commit {_commit()} on {machine}; {versions}.\n"


def report(name: str, title: str, parts: Sequence[str], *, write: bool) -> None:
    """Print the page, and write it to ``results`` when the run was whole."""
    text = f"# {title}\n\n" + "\n".join(parts).rstrip() + "\n"
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
