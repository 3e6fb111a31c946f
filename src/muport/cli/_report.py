"""The summary that a command prints at its end."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Report"]


@dataclass
class Report:
    """Collects the summary of a run; the clock starts with it.

    - `args`: Arguments of the command.
    - `cells`: Number of cells.
    - `metrics`: Scores of the result, by name.
    - `written`: Files and folders that were written.
    """

    args: argparse.Namespace
    cells: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar: not with ``--quiet`` or ``--json``, nor where stderr is no terminal."""
        return not self.args.quiet and not self.args.json and sys.stderr.isatty()

    def wrote(self, path: Path) -> None:
        """Add a file or folder that was written."""
        self.written.append(str(path))

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add scores."""
        self.metrics.update(metrics)

    def finish(self, data: Any, model: Any) -> None:
        """Save the model if ``--save`` was given, write the data, and print the summary."""
        if self.args.save is not None:
            model.save(self.args.save, overwrite=self.args.force)
            self.wrote(self.args.save)
        write(data, self.args.out)
        self.wrote(self.args.out)
        self.print_summary()

    def print_summary(self) -> None:
        """Print the summary: as JSON to stdout, or as a table to stderr."""
        import muport

        seconds = time.perf_counter() - self.start
        if self.args.json:
            summary = {
                "command": self.args.command,
                "version": muport.__version__,
                "input": str(self.args.input),
                "cells": self.cells,
                "seconds": round(seconds, 3),
                "peak_memory_mb": round(_peak_mb(), 1),
                "settings": {name: _plain(value) for name, value in _settings(self.args).items()},
                "metrics": {name: _plain(value) for name, value in self.metrics.items()},
                "written": self.written,
            }
            print(json.dumps(summary, allow_nan=False), file=self.args.stdout)
        elif not self.args.quiet:
            self._print_table(seconds)

    def _print_table(self, seconds: float) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(show_header=False)
        table.add_column(overflow="fold")
        table.add_column(justify="right", overflow="fold")
        for name, value in self.metrics.items():
            table.add_row(name, _short(value))
        console = Console(stderr=True)
        # the title of a narrow table would be wrapped
        console.print(f"muport {self.args.command}: {self.cells:,} cells in {seconds:.1f} s", highlight=False)
        # a loaded model has nothing to report of its fit, and a table without rows is an empty frame
        if self.metrics:
            console.print(table)
        for path in self.written:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    left_out = ("call", "command", "debug", "input", "json", "quiet", "config", "stdout")
    return {name: value for name, value in vars(args).items() if name not in left_out and value is not None}


def _short(value: Any) -> str:
    """Numbers with four digits, also in lists."""
    if isinstance(value, list | tuple):
        return " to ".join(map(_short, value)) if len(value) == 2 else ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Convert a value for JSON; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _peak_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
