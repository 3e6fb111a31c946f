"""``muport atlas``: integrate the batches of any number of cells, out of core."""

from __future__ import annotations

import argparse
from typing import Any

from muport.cli._data_files import check_input, check_output
from muport.cli._options import (
    Commands,
    add_batch_options,
    add_columns,
    add_command,
    add_integration_options,
    hyperparameters_of,
)
from muport.cli._report import Report

__all__ = ["add_atlas"]


def add_atlas(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``atlas``."""
    parser = add_command(
        commands, "atlas", _atlas, summary="integrate batches out of core",
        description="Integrate batches without loading the whole embedding into memory: the centroids of each batch "
        "are integrated by optimal transport, and each cell moves with the nearest centroids of its batch. An "
        "interrupted run is continued by the same call.",
        out="zarr or .npy file to write the integrated coordinates to",
    )  # fmt: skip
    parser.add_argument(
        "--obsm-key", default="X_pca", metavar="KEY", help="obsm key to integrate (default: %(default)s)"
    )
    add_batch_options(parser, "batch")
    add_columns(parser, labels_key=(None, "column with known types"))
    parser.add_argument("--modality", metavar="NAME", help="modality of a MuData; rna or atac for an AnnData")
    numbers = {
        "centroids": (2048, "largest number of centroids of a batch"),
        "samples": (500_000, "largest number of cells that the centroids of a batch are fitted to"),
        "k-interp": (8, "number of centroids that a cell moves with"),
        "chunk-size": (500_000, "number of cells that are processed together"),
    }
    for option, (default, text) in numbers.items():
        parser.add_argument(
            f"--{option}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="continue an interrupted run"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="address of the Dask scheduler that runs the chunks")
    add_integration_options(parser)


def _atlas(args: argparse.Namespace) -> None:
    check_input(args.input)
    check_output(args.out, args.force, suffixes=(".zarr", ".npy"))
    report = Report(args)
    from muport import integrate_centroids

    columns: dict[str, Any] = {
        "batch_key": args.batch_key, "label_key": args.labels_key, "unlabeled_category": args.unlabeled,
        "continuous_covariate_keys": args.continuous_covariate_keys,
    }  # fmt: skip
    _, metrics = integrate_centroids(
        args.input, obsm_key=args.obsm_key, modality=args.modality or "auto", **columns,
        **hyperparameters_of(args), reference=args.reference, random_state=args.seed,
        n_centroids_per_batch=args.centroids, max_samples_per_batch=args.samples, k_interp=args.k_interp,
        chunk_size=args.chunk_size, max_iter=args.max_iter, verbose=report.progress, tmp_path=args.out,
        client=_client(args.scheduler), resume=args.resume, overwrite=args.force,
    )  # fmt: skip
    report.cells = int(metrics["n_cells"])
    report.add(metrics)
    report.wrote(args.out)
    report.print_summary()


def _client(address: str | None) -> Any:
    if address is None:
        return None
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs Dask: install muport with the extra 'dask'.") from error
    return Client(address)
