"""``muport atlas``: batches of any number of cells, out of core."""

from __future__ import annotations

import argparse
from typing import Any

from muport.cli._data_files import check_input, check_output, set_aside
from muport.cli._options import Commands, add_columns, add_common, add_hyperparameters, hyperparameters_of
from muport.cli._report import Report

__all__ = ["add_atlas"]


def add_atlas(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``atlas``."""
    text = (
        "Integrate batches without ever holding the embedding in memory: centroids of each batch meet by optimal "
        "transport, and cells follow their own batch's. A run that was killed goes on where it was."
    )
    parser = commands.add_parser("atlas", help="integrate batches out of core", description=text)
    add_common(parser, out="zarr array to write the integrated coordinates to")
    parser.add_argument(
        "--obsm-key", default="X_pca", metavar="KEY", help="obsm key to integrate (default: %(default)s)"
    )
    add_columns(parser, batch_key=("batch", "column with the batch"), labels_key=(None, "column with known types"))
    parser.add_argument(
        "--unlabeled", default="unknown", metavar="NAME", help="label that means none (default: unknown)"
    )
    parser.add_argument("--modality", metavar="NAME", help="modality of a MuData; rna or atac of an AnnData")
    parser.add_argument("--reference", default="auto", metavar="NAME", help="auto, union, largest or a batch")
    parser.add_argument(
        "--centroids", type=int, default=2048, metavar="N", help="most centroids of a batch (default: 2048)"
    )
    parser.add_argument(
        "--samples", type=int, default=500_000, metavar="N", help="most cells a batch's centroids are fitted on"
    )
    parser.add_argument("--k-interp", type=int, default=8, metavar="K", help="centroids a cell follows (default: 8)")
    parser.add_argument(
        "--chunk-size", type=int, default=500_000, metavar="N", help="cells held at once (default: 500000)"
    )
    parser.add_argument("--max-iter", type=int, default=15, metavar="N", help="most iterations (default: 15)")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with a run that was cut off"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="address of a Dask scheduler to spread the chunks over")
    add_hyperparameters(parser)
    parser.set_defaults(call=_atlas)


def _atlas(args: argparse.Namespace) -> None:
    check_input(args.input)
    check_output(args.out, args.force, suffixes=(".zarr", ".npy"))
    report = Report(args)
    from muport import integrate_centroids

    columns = {"batch_key": args.batch_key, "label_key": args.labels_key, "unlabeled_category": args.unlabeled}
    with set_aside(args.out):
        _, metrics = integrate_centroids(
            args.input, obsm_key=args.obsm_key, modality=args.modality or "auto", **columns, **hyperparameters_of(args),
            reference=args.reference, random_state=args.seed, n_centroids_per_batch=args.centroids,
            max_samples_per_batch=args.samples, k_interp=args.k_interp, chunk_size=args.chunk_size,
            max_iter=args.max_iter, verbose=report.progress, tmp_path=args.out, client=_client(args.scheduler),
            resume=args.resume,
        )  # fmt: skip
    report.cells = int(metrics["n_cells"])
    report.add(metrics)
    report.wrote(args.out)
    report.tell()


def _client(address: str | None) -> Any:
    if address is None:
        return None
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs Dask: install muport with the extra 'dask'.") from error
    return Client(address)
