"""The table of the demonstration, and the file that marks its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from muport._demo._integrate import Outcome, Scores
    from muport._demo._move import Motion

MARK = "demo.json"
_MADE_BY = "muport demo"


def claim(folder: Path, force: bool) -> bool:
    """Make the folder ours; return whether an earlier demonstration lies in it.

    Parameters
    ----------
    folder
        Where the demonstration writes.
    force
        Write into a folder that holds other files; these stay, unless they have the names of ours.

    Raises
    ------
    FileExistsError
        If the folder holds other files and `force` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file: choose another folder with --out.")
    earlier = _is_ours(folder / MARK)
    if not (earlier or force) and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{str(folder)!r} holds files that are not a demonstration's: choose another folder with --out, or write "
            "into it with --force."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_mark(folder, {"finished": False})
    return earlier


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text())["made_by"] == _MADE_BY)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_mark(folder: Path, contents: dict[str, Any]) -> None:
    """Write the file that tells a later run that the folder is a demonstration's, with the figures of this one."""
    (folder / MARK).write_text(json.dumps({"made_by": _MADE_BY, **contents}, indent=2) + "\n")


def print_outcomes(console: Console, title: str, outcomes: Sequence[Outcome | Motion]) -> None:
    """Print one table: a row per case, scores as before → after."""
    if not outcomes:
        return
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.scores))
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    longest = max(len(outcome.name) for outcome in outcomes)
    table.add_column("data", min_width=min(longest, 14), overflow="fold")
    for name in ("cells", *names, "s"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        cells = [_arrow(outcome.scores[name]) if name in outcome.scores else "–" for name in names]
        table.add_row(outcome.name, str(outcome.mdata.n_obs), *cells, f"{outcome.seconds:.1f}")
    console.print(table, "")


def print_scib(console: Console, name: str, scores: Scores) -> None:
    """Print the scores of scib-metrics in one line, if there are any."""
    if scores:
        parts = ", ".join(f"{row.lower()} {_arrow(pair)}" for row, pair in scores.items())
        console.print(f"scib-metrics on {name}, without kBET: {parts}", highlight=False)


def _arrow(pair: tuple[float, float]) -> str:
    return " → ".join(f"{value:.2f}".removeprefix("0") for value in pair)
