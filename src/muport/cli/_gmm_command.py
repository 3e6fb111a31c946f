"""``muport gmm``: patients as mixtures, their distances, and what tells their conditions apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import check_output, prepared
from muport.cli._options import Commands, add_columns, add_common, add_prepare, set_up
from muport.cli._report import Report

if TYPE_CHECKING:
    import argparse

__all__ = ["add_gmm"]


def add_gmm(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``gmm``."""
    text = (
        "Fit each sample as a Gaussian mixture, learn a ground metric where conditions are known, and compare the "
        "samples. Writes the data with the learnt coordinates in obsm, and tables as CSV."
    )
    parser = commands.add_parser("gmm", help="compare patients, and predict their conditions", description=text)
    add_common(parser)
    add_prepare(parser)
    parser.add_argument("--use-rep", nargs="+", metavar="KEY", help="obsm key, or MODALITY=KEY (default: X_pca)")
    add_columns(
        parser,
        sample_key=("sample", "column with the sample of each cell"),
        condition_key=(None, "column with the condition of the sample"),
    )
    parser.add_argument(
        "--components", nargs="+", type=int, metavar="K", help="components, or candidates (default: 1-10)"
    )
    parser.add_argument(
        "--folds", type=int, metavar="N", help="cross-validate with so many folds; 0: each sample alone"
    )
    parser.add_argument(
        "--tables", type=Path, metavar="FOLDER", help="write distances, embedding and predictions there"
    )
    parser.add_argument("--key", default="X_gmm", metavar="KEY", help="obsm key to write (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save the model there")
    parser.set_defaults(call=_gmm)


def _gmm(args: argparse.Namespace) -> None:
    check_output(args.out, args.force)
    for option in ("save", "tables"):
        if (path := getattr(args, option)) is not None:
            check_output(path, args.force, f"--{option}", ())
    if args.folds is not None and args.condition_key is None:
        raise ValueError("--folds needs --condition-key, the column with the conditions to predict.")
    report = Report(args)
    data = prepared(args.input, args)
    model = _trained(data, args, report)
    tables = {"distances": model.get_sample_distances(), "embedding": model.get_sample_embedding()}
    if args.condition_key is not None:
        tables["conditions"] = model.predict(soft=True)
    if args.folds is not None:
        found = model.cross_validate(n_folds=args.folds or None, random_state=args.seed)
        report.add({"balanced_accuracy": found.balanced_accuracy, "auroc": found.auroc, "log_loss": found.log_loss})
        report.add({f"{name} 95 %": list(bounds) for name, bounds in found.intervals.items()})
    data.obsm[args.key] = model.get_latent_representation()
    _finish(args, report, data, model, tables)


def _trained(data: Any, args: argparse.Namespace, report: Report) -> Any:
    from muport.gmm import GMM

    columns = {"sample_key": args.sample_key, "labels_key": args.condition_key}
    set_up(GMM, data, args.use_rep, **columns)
    model = GMM(data)
    components = args.components[0] if args.components and len(args.components) == 1 else args.components
    model.train(k_comps=components, random_state=args.seed, progress=report.progress)
    report.cells = data.n_obs
    report.add({"samples": len(model.get_sample_embedding())})
    return model


def _finish(args: argparse.Namespace, report: Report, data: Any, model: Any, tables: dict[str, Any]) -> None:
    if args.tables is not None:
        args.tables.mkdir(exist_ok=True)
        for name, table in tables.items():
            table.to_csv(args.tables / f"{name}.csv")
            report.wrote(args.tables / f"{name}.csv")
    report.finish(data, model)
