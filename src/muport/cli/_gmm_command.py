"""``muport gmm``: patients as Gaussian mixtures, the distances between them, and their conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import prepared
from muport.cli._options import Commands, add_columns, add_command, add_model_options, load_model, set_up
from muport.cli._report import Report
from muport.data._durable_files import write_whole

if TYPE_CHECKING:
    import argparse

    import pandas as pd

__all__ = ["add_gmm"]


def add_gmm(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``gmm``."""
    parser = add_command(
        commands, "gmm", _gmm, summary="compare patients, and predict their conditions",
        description="Fit a Gaussian mixture to each sample, learn a ground metric if conditions are known, and "
        "compare the samples. Writes the data with the coordinates of the learned subspace in obsm, and tables as CSV.",
    )  # fmt: skip
    add_model_options(parser, key="X_gmm")
    add_columns(
        parser,
        sample_key=("sample", "column with the sample of each cell"),
        condition_key=(None, "column with the condition or outcome of the sample"),
        event_key=(None, "column that says whether the event happened at the time in --condition-key"),
    )
    parser.add_argument(
        "--outcome", choices=("auto", "class", "ordinal", "continuous", "survival"), default="auto",
        help="what --condition-key holds (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--components", nargs="+", type=int, metavar="K", help="number of components, or candidates (default: 1-10)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="number of folds of a cross-validation; 0: the default",
    )
    parser.add_argument(
        "--tables", type=Path, metavar="FOLDER", help="write distances, embedding and predictions to this folder"
    )


def _gmm(args: argparse.Namespace) -> None:
    if args.folds is not None and args.condition_key is None:
        raise ValueError("--folds needs --condition-key, the column with the conditions to predict.")
    if args.folds is not None and (args.folds < 0 or args.folds == 1):
        raise ValueError(f"--folds={args.folds} must be at least 2, or 0 for the default number.")
    if args.load is not None and (args.folds is not None or args.plot is not None):
        raise ValueError("--folds and --plot are for the samples of a fit: leave them out with --load.")
    report = Report(args)
    with prepared(args) as data:
        report.cells = data.n_obs
        if args.load is None:
            model = _train(data, args, report)
            tables = {"distances": model.get_sample_distances(), "embedding": model.get_sample_embedding()}
            if args.condition_key is not None:
                tables["conditions"] = model.predict(soft=True)
                report.add({"outcome": model.outcome})
            if args.folds is not None:
                tables["held_out"] = _cross_validate(model, args, report)
            data.obsm[args.key] = model.get_latent_representation()
        else:
            from muport.gmm import GMM

            model = load_model(GMM, data, args)
            data.obsm[args.key] = model.get_latent_representation(data)
            tables = {"conditions": model.predict(data, soft=True)}
            report.add({"samples": len(tables["conditions"])})
        if args.plot is not None:
            from muport.cli._pictures import draw_patients

            draw_patients(model, args.condition_key, args.plot, report)
        if args.tables is not None:
            args.tables.mkdir(exist_ok=True)
            for name, table in tables.items():
                write_whole(args.tables / f"{name}.csv", table.to_csv)
                report.wrote(args.tables / f"{name}.csv")
        report.finish(data, model)


def _cross_validate(model: Any, args: argparse.Namespace, report: Report) -> pd.DataFrame:
    """Report the scores of held-out samples, and return the prediction for each."""
    result = model.cross_validate(n_folds=args.folds or None, random_state=args.seed, progress=report.progress)
    if model.outcome == "class":
        report.add({"balanced_accuracy": result.balanced_accuracy, "auroc": result.auroc, "log_loss": result.log_loss})
    else:
        report.add(result.scores)
    report.add({f"{name} 95 %": list(bounds) for name, bounds in result.intervals.items()})
    table: pd.DataFrame = result.to_frame()
    return table


def _train(data: Any, args: argparse.Namespace, report: Report) -> Any:
    from muport.gmm import GMM

    columns = {"sample_key": args.sample_key, "labels_key": args.condition_key, "event_key": args.event_key}
    set_up(GMM, data, args.use_rep, outcome=args.outcome, **columns)
    model = GMM(data)
    components = args.components[0] if args.components and len(args.components) == 1 else args.components
    model.train(k_comps=components, random_state=args.seed, progress=report.progress)
    report.add({"samples": len(model.get_sample_embedding())})
    return model
