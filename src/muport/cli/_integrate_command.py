"""``muport integrate`` and ``muport transfer``: one latent space, and labels, for a file of cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import check_output, prepared
from muport.cli._options import (
    Commands,
    add_columns,
    add_common,
    add_hyperparameters,
    add_prepare,
    hyperparameters_of,
    representation,
    set_up,
)
from muport.cli._report import Report

if TYPE_CHECKING:
    import argparse

__all__ = ["add_integrate", "add_transfer"]


def add_integrate(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``integrate``."""
    text = (
        "Bring batches, and modalities, together by optimal transport. Writes the data with the latent space in obsm. "
        "Modalities meet in --shared-rep, or else by the cells they share, or by their geometry."
    )
    parser = commands.add_parser("integrate", help="bring batches and modalities together", description=text)
    _add_options(parser)
    parser.set_defaults(call=_integrate)


def add_transfer(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``transfer``."""
    text = (
        "Integrate, then give every cell a label, with its confidence, from the cells whose label is known. With "
        "--load, label the cells of INPUT by a model that was saved."
    )
    parser = commands.add_parser("transfer", help="carry labels to cells without them", description=text)
    _add_options(parser)
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="confidence below which a cell stays unlabelled (default: none)"
    )
    parser.set_defaults(call=_transfer)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_prepare(parser)
    parser.add_argument(
        "--use-rep", nargs="+", metavar="KEY",
        help="obsm key, or MODALITY=KEY for each modality (default: X_pca, of rna in a MuData)",
    )  # fmt: skip
    parser.add_argument("--shared-rep", nargs="+", metavar="KEY", help="obsm key of a space that the modalities share")
    add_columns(
        parser,
        batch_key=("batch", "column with the batch; '' for none"),
        labels_key=(None, "column with the type, where it is known"),
    )
    parser.add_argument(
        "--unlabeled", default="unknown", metavar="NAME", help="label that means none (default: unknown)"
    )
    parser.add_argument(
        "--key", default="X_integration", metavar="KEY", help="obsm key to write (default: %(default)s)"
    )
    parser.add_argument(
        "--reference", default="auto", metavar="NAME", help="auto, union, largest, or what stays in place"
    )
    parser.add_argument("--refine", default="none", choices=["none", "vae"], help="refine with the dual-view VAE")
    parser.add_argument("--max-iter", type=int, default=15, metavar="N", help="most iterations (default: %(default)s)")
    parser.add_argument("--load", type=Path, metavar="FOLDER", help="map the cells with this saved model; train none")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save the model there")
    add_hyperparameters(parser)


def _integrate(args: argparse.Namespace) -> None:
    report = Report(args)
    data, model = _integrated(args, report)
    report.finish(data, model)


def _transfer(args: argparse.Namespace) -> None:
    if args.labels_key is None and args.load is None:
        raise ValueError("transfer needs --labels-key, the column with the labels that are known.")
    report = Report(args)
    data, model = _integrated(args, report)
    soft = model.predict(soft=True, mdata=data)
    data.obs["prediction"] = model.predict(threshold=args.threshold, mdata=data)
    data.obs["prediction_confidence"] = soft.max(axis=1)
    report.add({"labels": soft.shape[1], "mean_confidence": float(soft.max(axis=1).mean())})
    report.finish(data, model)


def _integrated(args: argparse.Namespace, report: Report) -> tuple[Any, Any]:
    check_output(args.out, args.force)
    if args.save is not None:
        check_output(args.save, args.force, "--save", ())
    data: Any = prepared(args.input, args)
    from muport.integration import Integration

    report.cells = data.n_obs
    if args.load is not None:
        model = Integration.load(args.load, adata=False, accelerator="cpu")
        data.obsm[args.key] = model.map_query(data)
        return data, model
    _set_up(Integration, data, args)
    model = Integration(data, **hyperparameters_of(args), reference=args.reference, refine=args.refine)
    model.train(max_iter=args.max_iter, random_state=args.seed, progress=report.progress)
    report.add(model.metrics_)
    data.obsm[args.key] = model.get_latent_representation()
    return data, model


def _set_up(cls: Any, data: Any, args: argparse.Namespace) -> None:
    columns = {
        "batch_key": args.batch_key or None, "labels_key": args.labels_key, "unlabeled_category": args.unlabeled,
    }  # fmt: skip
    if args.shared_rep is None:
        set_up(cls, data, args.use_rep, **columns)
    elif hasattr(data, "mod"):
        reps = {"use_rep": representation(args.use_rep), "shared_rep": representation(args.shared_rep)}
        cls.setup_mudata(data, **reps, **columns)
    else:
        raise ValueError("INPUT is an AnnData: --shared-rep is for several modalities; give --use-rep one obsm key.")
