"""The demonstration from beginning to end."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import muport
from muport._demo._examples import batch_examples, check_data_folder, transfer_examples, velocity_examples
from muport._demo._output import claim_folder, format_change, print_table, write_mark, write_outcome
from muport._demo._scores import (
    Outcome,
    Scores,
    check_scib,
    fit_velocities,
    integrate_batches,
    integrate_modalities,
    scib_scores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from muport._demo._examples import Example


@dataclass(frozen=True)
class _Part:
    """One table of the demonstration: its data sets, how they are fitted, and the folder of the saved model, if any."""

    title: str
    examples: Callable[[int], Iterator[Example]]
    fit: Callable[[Example, int], Outcome]
    model_folder: str | None = None


_PARTS = (
    _Part("Batches of one modality, before → after", batch_examples, integrate_batches),
    _Part("Labels transferred from RNA to ATAC, before → after", transfer_examples, integrate_modalities, "model"),
    _Part("Velocity in two batches, before → after integration", velocity_examples, fit_velocities, "velocity_model"),
)
_NOTES = """\
mixing: neighbors of another batch or modality, 1 as if drawn at random.
accuracy, balanced: 15 neighbors vote (labels, after: predict()).
FOSCTTM: fraction of cells closer than the true match, 0 best, .5 by chance. s: seconds.
cosine, 5th pct.: predicted and true velocity. fate: probability of the right branch, for late cells."""


def run(folder: Path, console: Console, *, force: bool = False, seed: int = 0, scib: bool = False) -> None:
    """Integrate batches, then unpaired RNA and ATAC; fit velocities; print scores and write data, models and figures.

    - `folder`: Where everything is written. The files of an earlier demonstration are replaced.
    - `console`: Where the tables are printed.
    - `force`: Write into a folder that holds other files.
    - `seed`: Seed of the simulation and of the fits.
    - `scib`: Compute the scores of scib-metrics for the first data set, too; takes about a minute.
    """
    start = time.perf_counter()
    check_data_folder()
    if scib:
        check_scib()
    if claim_folder(folder, force):
        console.print(f"Replacing the earlier demonstration in {folder}/", highlight=False)

    results: list[Outcome] = []
    scib_result: Scores = {}
    with _quiet():
        for part in _PARTS:
            outcomes = [_fit_and_write(example, part, folder, console, seed) for example in part.examples(seed)]
            print_table(console, part.title, outcomes)
            results += outcomes
        if scib and results:
            with console.status(f"{results[0].example.name}: scores of scib-metrics"):
                scib_result = scib_scores(results[0])
    console.print(_NOTES, style="dim", highlight=False)
    if scib_result:
        changes = ", ".join(f"{name.lower()} {format_change(pair)}" for name, pair in scib_result.items())
        console.print(f"scib-metrics on {results[0].example.name}, without kBET: {changes}", highlight=False)
    seconds = time.perf_counter() - start
    contents = {"finished": True, "version": muport.__version__, "seed": seed, "seconds": seconds}
    scores = {"scores": {outcome.example.name: _mark_entry(outcome) for outcome in results}}
    write_mark(folder, contents | scores | ({"scib": scib_result} if scib_result else {}))
    console.print(f"Data (.h5mu), models and figures (.png) are in {folder}/; {seconds:.0f} s.", highlight=False)


def _fit_and_write(example: Example, part: _Part, folder: Path, console: Console, seed: int) -> Outcome:
    with console.status(f"{example.name}: fit"):
        start = time.perf_counter()
        outcome = part.fit(example, seed)
        outcome.seconds = time.perf_counter() - start
    with console.status(f"{example.name}: figures"):
        write_outcome(outcome, folder)
    if part.model_folder is not None:
        outcome.model.save(folder / part.model_folder, overwrite=True)
    return outcome


def _mark_entry(outcome: Outcome) -> dict[str, Any]:
    scores = {name: {"before": before, "after": after} for name, (before, after) in outcome.scores.items()}
    return {"cells": len(outcome.after), "seconds": outcome.seconds, **scores}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that libraries address to developers, but not their errors."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(?!muport)")
            yield
    finally:
        logging.disable(logging.NOTSET)
