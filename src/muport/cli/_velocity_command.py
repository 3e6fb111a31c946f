"""``muport velocity``: where cells go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import check_output, prepared
from muport.cli._options import Commands, add_columns, add_common, add_prepare, representation, set_up
from muport.cli._report import Report

if TYPE_CHECKING:
    import argparse

__all__ = ["add_velocity"]


def add_velocity(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``velocity``."""
    text = (
        "Fit a velocity field by optimal transport between times. Writes velocities, their confidence and uncertainty, "
        "and the probability of each fate. Where cells have no time, name a root, and a pseudotime is computed."
    )
    parser = commands.add_parser("velocity", help="find where cells go", description=text)
    add_common(parser)
    add_prepare(parser)
    parser.add_argument(
        "--use-rep", nargs="+", metavar="KEY", help="obsm key, or MODALITY=KEY (default: X_pca, of rna in a MuData)"
    )
    add_columns(
        parser,
        time_key=("pseudotime", "column with the time"),
        labels_key=(None, "column with the type"),
        batch_key=(None, "column with the batch"),
    )
    parser.add_argument("--root", metavar="LABEL", help="type in which the process begins: computes the time from it")
    parser.add_argument("--basis", metavar="KEY", help="obsm key of a picture, to carry the velocities into")
    parser.add_argument("--fates", action="store_true", help="write the probability of each fate")
    parser.add_argument("--terminal", nargs="+", metavar="LABEL", help="types that are fates; found by default")
    parser.add_argument(
        "--steps", type=int, default=400, metavar="N", help="most steps of the fit (default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save the model there")
    parser.set_defaults(call=_velocity)


def _velocity(args: argparse.Namespace) -> None:
    check_output(args.out, args.force)
    if args.save is not None:
        check_output(args.save, args.force, "--save", ())
    report = Report(args)
    data = prepared(args.input, args)
    if args.root is not None:
        _order(data, args)
    model = _trained(data, args, report)
    _write_answers(data, model, args, report)
    report.finish(data, model)


def _order(data: Any, args: argparse.Namespace) -> None:
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


def _trained(data: Any, args: argparse.Namespace, report: Report) -> Any:
    from muport.velocity import Velocity

    columns = {"time_key": args.time_key, "labels_key": args.labels_key, "batch_key": args.batch_key}
    set_up(Velocity, data, args.use_rep, **columns)
    model = Velocity(data)
    model.train(n_steps=args.steps, random_state=args.seed, progress=report.progress)
    report.cells = data.n_obs
    return model


def _write_answers(data: Any, model: Any, args: argparse.Namespace, report: Report) -> None:
    data.obsm["velot_velocity"] = model.get_velocity()
    data.obs["velot_confidence"] = model.get_confidence()
    data.obs["velot_uncertainty"] = model.get_uncertainty()
    report.add({"mean_confidence": float(data.obs["velot_confidence"].mean())})
    if args.basis is not None:
        key = f"velot_velocity_{args.basis.removeprefix('X_')}"
        data.obsm[key] = model.project_to_embedding(_picture(data, args.basis))
    if args.fates or args.terminal:
        fates = model.get_fates(terminal_states=args.terminal)
        data.obsm["velot_fates"] = fates.to_numpy()
        data.uns["velot_fates"] = [str(name) for name in fates.columns]
        report.add({f"fate {name}": float(share) for name, share in fates.mean().items()})


def _picture(data: Any, key: str) -> Any:
    for part in (data, *getattr(data, "mod", {}).values()):
        if key in part.obsm and part.n_obs == data.n_obs:
            return part.obsm[key]
    raise KeyError(f"--basis {key!r} is in no obsm of all cells: there are {sorted(map(str, data.obsm))}.")
