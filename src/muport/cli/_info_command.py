"""``muport info``: versions of what is installed; contents of a file or of a saved model."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport.cli._data_files import read
from muport.data._model_files import read_document

if TYPE_CHECKING:
    import argparse

    from muport.cli._options import Commands

__all__ = ["add_info"]

_PACKAGES = ("muport", "anndata", "mudata", "muon", "scanpy", "scvi-tools", "torch", "pot", "faiss-cpu", "dask")


def add_info(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``info``."""
    text = "Print the versions of what is installed, or the contents of a data file or of the folder of a saved model."
    parser = commands.add_parser("info", help="describe the installation, a file or a model", description=text)
    parser.add_argument("path", type=Path, nargs="?", metavar="PATH", help="a data file, or the folder of a model")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")
    parser.set_defaults(call=_info)


def _info(args: argparse.Namespace) -> None:
    contents = _installation() if args.path is None else _describe(args.path)
    if args.json:
        print(json.dumps(contents), file=args.stdout)
        return
    from rich.console import Console
    from rich.tree import Tree

    tree = Tree(str(args.path or "muport"))
    _add_to_tree(tree, contents)
    Console(file=args.stdout).print(tree, highlight=False)


def _add_to_tree(tree: Any, contents: dict[str, Any]) -> None:
    for name, value in contents.items():
        if isinstance(value, dict):
            _add_to_tree(tree.add(name), value)
        else:
            tree.add(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _installation() -> dict[str, Any]:
    import torch

    versions: dict[str, Any] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    versions["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return versions


def _describe(path: Path) -> dict[str, Any]:
    if (path / "model.json").is_file():
        return _describe_model(path)
    data: Any = read(path)
    if not hasattr(data, "mod"):
        return {"kind": "AnnData", **_describe_cells(data)}
    n_modalities = sum(data.obs_names.isin(adata.obs_names).astype(int) for adata in data.mod.values())
    return {
        "kind": "MuData",
        "cells": int(data.n_obs),
        "in more than one modality": int((n_modalities > 1).sum()),
        "obs": [str(c) for c in data.obs.columns],
        "obsm": sorted(str(k) for k in data.obsm if k not in data.mod),
        "modalities": {name: _describe_cells(adata) for name, adata in data.mod.items()},
    }


def _describe_cells(data: Any) -> dict[str, Any]:
    return {
        "cells": int(data.n_obs),
        "features": int(data.n_vars),
        "layers": sorted(str(name) for name in data.layers if name is not None),
        "obs": [str(c) for c in data.obs.columns],
        "obsm": {str(k): "x".join(map(str, data.obsm[k].shape)) for k in sorted(data.obsm)},
    }


def _describe_model(path: Path) -> dict[str, Any]:
    document = read_document(path)
    size = sum(file.stat().st_size for file in path.glob("model.*"))
    return {
        "kind": document["class"],
        "versions": document["versions"],
        "megabytes": round(size / 2**20, 2),
        "parameters": {k: str(v) for k, v in document["init_params"].items()},
    }
