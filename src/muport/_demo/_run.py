"""The demonstration from beginning to end."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import muport
from muport._demo._cases import batch_cases, check_data, transfer_cases, velocity_cases
from muport._demo._integrate import Outcome, integrate_batches, integrate_modalities
from muport._demo._move import Motion, move
from muport._demo._pictures import draw, draw_motion
from muport._demo._report import claim, print_outcomes, print_scib, write_mark
from muport._demo._scib import scib_scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from muport._demo._integrate import Scores


def run(folder: Path, console: Console, *, force: bool = False, seed: int = 0) -> None:
    """Integrate batches of one modality, unpaired RNA and ATAC, and follow cells; print scores, write what came of it.

    Parameters
    ----------
    folder
        Where everything is written. What an earlier demonstration left there is replaced.
    console
        Where the tables are printed.
    force
        Write into a folder that holds other files.
    seed
        Seed of the simulation, of the fits and of the pictures.

    Raises
    ------
    FileExistsError
        If the folder holds other files and `force` is False.
    FileNotFoundError
        If ``MUPORT_DATA`` is set to a folder that holds none of the files.
    """
    start = time.perf_counter()
    check_data()
    if claim(folder, force):
        console.print(f"Replacing the earlier demonstration in {folder}/", highlight=False)
    with _quiet():
        batches, scib = _batches(folder, console, seed)
        transfers = _transfers(folder, console, seed)
        motions = _motions(folder, console, seed)
    print_outcomes(console, "Batches of one modality, before → after", batches)
    print_outcomes(console, "Unpaired RNA and ATAC: labels carried over, before → after", transfers)
    print_outcomes(console, "Velocity of cells of two batches, before → after integration", motions)
    console.print(
        "mixing: neighbours from the other side, 1 as if drawn at random.\n"
        "accuracy, balanced, rare type: 15 neighbours vote (labels, after: predict()).\n"
        "FOSCTTM: cells closer than the true match, 0 best, .5 chance. s: seconds.\n"
        "cosine, 5th pct.: of the velocity to the true one. fate: probability of the right branch, of late cells.",
        style="dim",
        highlight=False,
    )
    if batches:
        print_scib(console, batches[0].name, scib)
    seconds = time.perf_counter() - start
    all_of_it: list[Outcome | Motion] = [*batches, *transfers, *motions]
    results = {outcome.name: _figures(outcome) for outcome in all_of_it}
    write_mark(
        folder,
        {"finished": True, "version": muport.__version__, "seed": seed, "seconds": seconds, "scores": results}
        | ({"scib": scib} if scib else {}),
    )
    console.print(f"Data (.h5mu), model and pictures (.png) are in {folder}/; {seconds:.0f} s.", highlight=False)


def _batches(folder: Path, console: Console, seed: int) -> tuple[list[Outcome], Scores]:
    outcomes: list[Outcome] = []
    scib: Scores = {}
    for case in batch_cases(seed):
        with console.status(f"integrating the batches of {case.name}"):
            outcome = integrate_batches(case, seed)
        with console.status(f"scoring and drawing {case.name}"):
            if not outcomes:
                scib = scib_scores(outcome.mdata)
            _write(outcome, folder, seed)
        outcomes.append(outcome)
    return outcomes, scib


def _transfers(folder: Path, console: Console, seed: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for case in transfer_cases(seed):
        with console.status(f"integrating RNA and ATAC of {case.name}"):
            outcome = integrate_modalities(case, seed)
        with console.status(f"drawing {case.name}"):
            _write(outcome, folder, seed)
        outcome.model.save(folder / "model", overwrite=True)
        outcomes.append(outcome)
    return outcomes


def _motions(folder: Path, console: Console, seed: int) -> list[Motion]:
    motions: list[Motion] = []
    for case in velocity_cases(seed):
        with console.status(f"following the cells of {case.name}"):
            motion = move(case, seed)
        with console.status(f"drawing {case.name}"):
            draw_motion(motion, folder, seed)
            motion.mdata.write(folder / f"{motion.name}.h5mu")
        motion.model.save(folder / "velocity_model", overwrite=True)
        motions.append(motion)
    return motions


def _write(outcome: Outcome, folder: Path, seed: int) -> None:
    draw(outcome, folder, seed)
    outcome.mdata.write(folder / f"{outcome.name}.h5mu")


def _figures(outcome: Outcome | Motion) -> dict[str, Any]:
    scores = {name: {"before": before, "after": after} for name, (before, after) in outcome.scores.items()}
    return {"cells": outcome.mdata.n_obs, "seconds": outcome.seconds, **scores}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries say to developers; their errors stay."""
    loggers = [logging.getLogger(name) for name in ("scvi", "jax", "muport")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(?!muport)")
            # told of our line, though it is scanpy's: sparse ATAC has cells without a linked peak
            warnings.filterwarnings("ignore", message="Some cells have zero counts")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
