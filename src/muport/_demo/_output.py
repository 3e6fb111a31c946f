"""What the demonstration writes: tables, figures, and the file that marks its folder."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from sklearn.decomposition import PCA

from muport import pl
from muport._keys import RESULT_KEYS
from muport.data._durable_files import write_whole
from muport.velocity import Velocity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from muport._demo._scores import Outcome

MARK_FILE = "demo.json"
_MADE_BY = "muport demo"


def claim_folder(folder: Path, force: bool) -> bool:
    """Mark a folder as one of a demonstration; return whether it was one already.

    - `folder`: Where the demonstration writes.
    - `force`: Use a folder that holds other files. They stay, unless the demonstration writes files of the same name.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file: choose another folder with --out.")
    marked = _is_marked(folder)
    if not (marked or force) and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{str(folder)!r} holds files that are not a demonstration's: choose another folder with --out, or write "
            "into it with --force."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_mark(folder, {"finished": False})
    return marked


def _is_marked(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MARK_FILE).read_text())["made_by"] == _MADE_BY)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_mark(folder: Path, contents: dict[str, Any]) -> None:
    """Write the file by which a later demonstration recognizes the folder, with the scores of this one."""
    text = json.dumps({"made_by": _MADE_BY, **contents}, indent=2) + "\n"
    write_whole(folder / MARK_FILE, lambda path: path.write_text(text))


def print_table(console: Console, title: str, outcomes: Sequence[Outcome]) -> None:
    """Print one row per example, with scores as before → after."""
    if not outcomes:
        return
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.scores))
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    longest = max(len(outcome.example.name) for outcome in outcomes)
    table.add_column("data", min_width=min(longest, 14), overflow="fold")
    for name in ("cells", *names, "s"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        scores = [format_change(outcome.scores[name]) if name in outcome.scores else "–" for name in names]
        table.add_row(outcome.example.name, str(len(outcome.after)), *scores, f"{outcome.seconds:.1f}")
    console.print(table, "")


def format_change(pair: tuple[float, float]) -> str:
    """Format a score as before → after."""
    return " → ".join(f"{value:.2f}".removeprefix("0") for value in pair)


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write the figures and the data of one example; the data get the coordinates of the figures."""
    example = outcome.example
    mdata = example.mdata
    mdata.obsm["X_plane"] = _principal_plane(outcome.after)
    if isinstance(outcome.model, Velocity):
        mdata.obsm["velot_velocity_plane"] = outcome.model.project_to_embedding(mdata.obsm["X_plane"])
        mdata.obsm["velot_velocity_integration"] = outcome.model.get_velocity()
        figures = {"stream": _draw_streams(outcome)}
    else:
        mdata.obsm["X_plane_before"] = _principal_plane(outcome.before)
        figures = {"cells": _draw_cells(outcome)}
    if example.true_types is not None:
        figures["confusion"] = _draw_confusion(outcome)
    for content, figure in figures.items():
        write_whole(folder / f"{example.name}_{content}.png", partial(figure.savefig, dpi=130))
    write_whole(folder / f"{example.name}.h5mu", mdata.write)


def _principal_plane(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first two principal components, (n, 2): a UMAP would take most of the time of the demonstration."""
    plane: NDArray[np.float32] = PCA(2, svd_solver="covariance_eigh").fit_transform(x)
    return plane


def _draw_cells(outcome: Outcome) -> Figure:
    """Draw one row per column of ``obs``, before integration on the left and after it on the right."""
    mdata, true_types = outcome.example.mdata, outcome.example.true_types
    colors = ["batch", "cell_type"]
    if true_types is not None:
        known = mdata["rna"].obs["cell_type"].astype(str).reindex(mdata.obs_names)
        mdata.obs["true_cell_type"] = known.fillna(true_types)
        colors = ["modality", "batch", "true_cell_type"]
    figure = Figure(figsize=(9.5, 3.6 * len(colors) + 0.4), layout="constrained")
    axes = figure.subplots(len(colors), 2, squeeze=False)
    for row, color in zip(axes, colors, strict=True):
        for ax, basis in zip(row, ("X_plane_before", "X_plane"), strict=True):
            after = basis == "X_plane"
            title = f"{'after' if after else 'before'} integration" if color == colors[0] else ""
            pl.embedding(mdata, basis, color, ax, title=title, legend_loc="right margin" if after else None)
            ax.set(xlabel="PC1", ylabel="" if after else "PC2")
        if legend := row[1].get_legend():
            legend.set_title(color.replace("_", " "), prop={"weight": "bold", "size": "small"})
            legend.set_alignment("left")
    figure.suptitle(f"{outcome.example.name}: {mdata.n_obs:,} cells")
    return figure


def _draw_streams(outcome: Outcome) -> Figure:
    mdata = outcome.example.mdata
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    for ax, color in zip(figure.subplots(1, 2), ("cell_type", "batch"), strict=True):
        pl.velocity_stream(mdata, "X_plane", "velot_velocity_plane", color=color, ax=ax)
    figure.suptitle(f"{outcome.example.name}: velocity of {mdata.n_obs:,} cells of two batches, integrated")
    return figure


def _draw_confusion(outcome: Outcome) -> Figure:
    example = outcome.example
    n_types = 1 if example.true_types is None else example.true_types.nunique()
    figure = Figure(figsize=(3.4 + 0.5 * n_types, 2.2 + 0.4 * n_types), layout="constrained")
    ax = pl.confusion(example.true_types, example.mdata.obs[RESULT_KEYS.PREDICTION], figure.subplots())
    ax.set_title(f"{example.name}: labels transferred from RNA to ATAC", fontsize="medium")
    return figure
