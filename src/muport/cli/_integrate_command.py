"""``muport integrate`` and ``muport transfer``: the latent space, and the labels, of a file of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muport._keys import RESULT_KEYS
from muport.cli._data_files import prepared
from muport.cli._options import (
    Commands,
    add_batch_options,
    add_columns,
    add_command,
    add_integration_options,
    add_model_options,
    hyperparameters_of,
    load_model,
    representation,
    set_up,
)
from muport.cli._report import Report

if TYPE_CHECKING:
    import argparse

__all__ = ["add_integrate", "add_transfer"]


def add_integrate(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``integrate``."""
    parser = add_command(
        commands, "integrate", _integrate, summary="integrate batches and modalities",
        description="Integrate batches and modalities by optimal transport. Writes the data with the latent space in "
        "obsm. Modalities are matched in --shared-rep; without it, by the cells that they share, or by their geometry.",
    )  # fmt: skip
    _add_options(parser)


def add_transfer(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``transfer``."""
    parser = add_command(
        commands, "transfer", _transfer, summary="transfer labels to cells without them",
        description="Integrate, then predict a label, with its confidence, for every cell from the cells with a known "
        "label. With --load, a saved model predicts the labels of the cells of INPUT.",
    )  # fmt: skip
    _add_options(parser)
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="confidence below which a cell stays unlabeled (default: none)"
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, key=RESULT_KEYS.LATENT)
    parser.add_argument(
        "--shared-rep", nargs="+", metavar="KEY", help="obsm key of a representation that the modalities share"
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help="a name in two modalities is one cell: without a test of the agreement",
    )
    add_batch_options(parser)
    add_columns(parser, labels_key=(None, "column with the type, where it is known"))
    parser.add_argument("--refine", default="none", choices=["none", "vae"], help="refine with the dual-view VAE")
    add_integration_options(parser)


def _integrate(args: argparse.Namespace) -> None:
    report = Report(args)
    with prepared(args) as data:
        model = _fit_or_load(data, args, report)
        _draw(data, args, report, model)
        report.finish(data, model)


def _transfer(args: argparse.Namespace) -> None:
    if args.labels_key is None and args.load is None:
        raise ValueError("transfer needs --labels-key, the column with the known labels.")
    report = Report(args)
    with prepared(args) as data:
        model = _fit_or_load(data, args, report)
        soft = model.predict(soft=True, adata=data)
        data.obs["prediction"] = model.predict(threshold=args.threshold, adata=data)
        data.obs["prediction_confidence"] = soft.max(axis=1)
        report.add({"labels": soft.shape[1], "mean_confidence": float(soft.max(axis=1).mean())})
        _draw(data, args, report, model)
        report.finish(data, model)


def _draw(data: Any, args: argparse.Namespace, report: Report, model: Any) -> None:
    if args.plot is None:
        return
    from muport.cli._pictures import draw_cells

    # new cells of a loaded model may have the columns of the model, and need none
    columns = vars(args) if args.load is None else model.registry_["setup_args"]
    batch, labels = columns["batch_key"], columns["labels_key"]
    colors = [*([batch] if batch is None or isinstance(batch, str) else batch), labels]
    colors = [name for name in colors if name not in (None, "", "auto") and (args.load is None or name in data.obs)]
    draw_cells(data, args.key, [*colors, *(["prediction"] if "prediction" in data.obs else [])], args.plot, report)


def _fit_or_load(data: Any, args: argparse.Namespace, report: Report) -> Any:
    from muport.integration import Integration

    report.cells = data.n_obs
    if args.load is not None:
        model = load_model(Integration, data, args)
        data.obsm[args.key] = model.map_query(data)
        return model
    _set_up(Integration, data, args)
    model = Integration(data, **hyperparameters_of(args), reference=args.reference, refine=args.refine)
    model.train(max_iter=args.max_iter, random_state=args.seed, progress=report.progress)
    report.add(model.metrics_)
    data.obsm[args.key] = model.get_latent_representation()
    return model


def _set_up(cls: Any, data: Any, args: argparse.Namespace) -> None:
    columns: dict[str, Any] = {
        "batch_key": args.batch_key or None, "labels_key": args.labels_key,
        "unlabeled_category": args.unlabeled, "continuous_covariate_keys": args.continuous_covariate_keys,
    }  # fmt: skip
    if args.paired:
        columns["paired"] = True
    if args.paired and not hasattr(data, "mod"):
        raise ValueError("INPUT is an AnnData: --paired is for several modalities.")
    if args.shared_rep is None:
        set_up(cls, data, args.use_rep, **columns)
    elif hasattr(data, "mod"):
        reps = {"use_rep": representation(args.use_rep), "shared_rep": representation(args.shared_rep)}
        cls.setup_mudata(data, **reps, **columns)
    else:
        raise ValueError("INPUT is an AnnData: --shared-rep is for several modalities; give --use-rep one obsm key.")
