"""``muport velocity``: the velocity of cells, and their fates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muport.cli._data_files import check_output, prepared, write
from muport.cli._options import (
    Commands,
    add_columns,
    add_command,
    add_model_options,
    load_model,
    representation,
    set_up,
)
from muport.cli._report import Report
from muport.data._durable_files import claimed

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import pandas as pd

__all__ = ["add_velocity"]


def add_velocity(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``velocity``."""
    parser = add_command(
        commands, "velocity", _velocity, summary="estimate the velocity of cells and their fates",
        description="Fit a velocity field by optimal transport between cells of successive times. Writes velocities, "
        "their confidence and uncertainty, and the probability of each fate. If cells have no time, --root computes a "
        "pseudotime.",
    )  # fmt: skip
    add_model_options(parser)
    parser.add_argument(
        "--time-key", "--time", default="pseudotime", metavar="COLUMN",
        help="column with the time: a pseudotime, or the day (default: %(default)s)",
    )  # fmt: skip
    add_columns(
        parser,
        labels_key=(None, "column with the type"),
        batch_key=(None, "column with the batch"),
        clone_key=(None, "of a time course: column with the clone, or obsm key of a matrix of cells by clones"),
        growth_key=(None, "of a time course: column with an expected growth rate"),
    )
    parser.add_argument("--growth", action="store_true", help="of a time course: write growth rates per unit of time")
    parser.add_argument("--root", metavar="LABEL", help="type in which the process begins: computes a pseudotime")
    parser.add_argument("--basis", metavar="KEY", help="obsm key of an embedding to project the velocities to")
    parser.add_argument("--fates", action="store_true", help="write the probability of each fate")
    parser.add_argument(
        "--terminal", nargs="+", metavar="LABEL", help="types that are fates (default: they are estimated)"
    )
    parser.add_argument(
        "--predict-day", type=float, metavar="T",
        help="of a time course: predict the cells of time T, and write them beside OUT, as OUT_day_T.h5ad",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=400, metavar="N", help="largest number of training steps (default: %(default)s)"
    )


def _velocity(args: argparse.Namespace) -> None:
    _check_options(args)
    report = Report(args)
    if args.predict_day is not None:
        check_output(_predicted_path(args), args.force, "--predict-day")
    with prepared(args) as data:
        if args.root is not None:
            _add_pseudotime(data, args)
        report.cells = data.n_obs
        if args.basis is not None:
            _check_basis(data, args)
        model = _train(data, args, report) if args.load is None else _load(data, args)
        _write_results(data, model, args, report)
        if args.predict_day is not None:
            population = model.predict_population(args.predict_day, random_state=args.seed)
            with claimed(path := _predicted_path(args)):
                write(population, path)
            report.wrote(path)
            report.add({"predicted_cells": population.n_obs, "predicted_mass": float(population.obs["mass"].sum())})
        report.finish(data, model)


def _predicted_path(args: argparse.Namespace) -> Path:
    """File of the predicted cells, in the folder of the output."""
    out: Path = args.out
    return out.with_name(f"{out.stem}_day_{args.predict_day:g}.h5ad")


def _add_pseudotime(data: Any, args: argparse.Namespace) -> None:
    if args.labels_key is None:
        raise ValueError("--root needs --labels-key, the column with the types.")
    from muport import pp

    use_rep = representation(args.use_rep)
    modality, key = next(iter(use_rep.items())) if isinstance(use_rep, dict) else ("rna", use_rep or "X_pca")
    column = args.labels_key.removeprefix(f"{modality}:")
    pp.pseudotime(
        data, root_cluster=args.root, labels_key=column, use_rep=key, key_added=args.time_key, modality=modality,
        random_state=args.seed,
    )  # fmt: skip


def _train(data: Any, args: argparse.Namespace, report: Report) -> Any:
    from muport.velocity import Velocity

    names = ("time_key", "labels_key", "batch_key", "clone_key", "growth_key")
    set_up(Velocity, data, args.use_rep, **{name: getattr(args, name) for name in names})
    model = Velocity(data)
    model.train(n_steps=args.steps, growth=args.growth, random_state=args.seed, progress=report.progress)
    return model


def _check_options(args: argparse.Namespace) -> None:
    """Raise a ValueError if options do not suit each other."""
    if args.plot is not None and args.basis is None:
        raise ValueError("--plot needs --basis, the obsm key of the embedding to draw.")
    of_a_fit = {
        "--root": args.root, "--basis": args.basis, "--fates": args.fates or None, "--terminal": args.terminal,
        "--predict-day": args.predict_day, "--growth": args.growth or None, "--clone-key": args.clone_key,
        "--growth-key": args.growth_key,
    }  # fmt: skip
    if args.load is not None and (given := [name for name, value in of_a_fit.items() if value is not None]):
        raise ValueError(f"{', '.join(given)}: not with --load, which evaluates the field at the cells of INPUT.")


def _check_basis(data: Any, args: argparse.Namespace) -> None:
    """Raise an error, before anything is computed, if there is no such embedding, or it cannot be drawn."""
    _embedding(data, args.basis)
    if args.plot is not None and args.basis not in data.obsm:
        raise ValueError(f"--plot: --basis {args.basis!r} is in a modality only: copy it to the obsm of the MuData.")


def _load(data: Any, args: argparse.Namespace) -> Any:
    from muport.velocity import Velocity

    return load_model(Velocity, data, args)


def _write_results(data: Any, model: Any, args: argparse.Namespace, report: Report) -> None:
    data.obsm["velot_velocity"] = model.get_velocity(data)
    data.obs["velot_confidence"] = model.get_confidence(data)
    data.obs["velot_uncertainty"] = model.get_uncertainty(data)
    report.add({"mean_confidence": float(data.obs["velot_confidence"].mean())})
    if args.growth:
        data.obs["velot_growth"] = model.get_growth()
        report.add({"mean_growth": float(data.obs["velot_growth"].mean())})
    if args.basis is not None:
        key = f"velot_velocity_{args.basis.removeprefix('X_')}"
        data.obsm[key] = model.project_to_embedding(_embedding(data, args.basis))
        if args.plot is not None:
            from muport.cli._pictures import draw_velocity

            draw_velocity(data, args.basis, args.labels_key, args.plot, report)
    if args.fates or args.terminal:
        fates = model.get_fates(terminal_states=args.terminal)
        data.obsm["velot_fates"] = fates.to_numpy()
        data.uns["velot_fates"] = [str(name) for name in fates.columns]
        report.add({f"fate {name}": float(mean) for name, mean in fates.mean().items()})


def _embedding(data: Any, key: str) -> pd.DataFrame:
    """The embedding in the object, or in a modality that has all cells, whose order may be another."""
    import pandas as pd

    from muport.data import Representation

    for holder in (data, *getattr(data, "mod", {}).values()):
        if key in holder.obsm and holder.n_obs == data.n_obs:
            values = Representation(holder.obsm[key], f"obsm[{key!r}]", holder.obs_names)
            return pd.DataFrame(values.read(), index=holder.obs_names)
    raise KeyError(f"--basis {key!r} is in no obsm of all cells; the keys are {sorted(map(str, data.obsm))}.")
