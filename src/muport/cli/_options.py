"""Options that commands share, and the file they may be read from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

type Commands[T: argparse.ArgumentParser] = argparse._SubParsersAction[T]

__all__ = [
    "Commands",
    "add_columns",
    "add_common",
    "add_hyperparameters",
    "add_prepare",
    "expanded",
    "hyperparameters_of",
    "representation",
    "seed",
    "set_up",
]

HYPERPARAMETERS = {
    "strength": "how far cells move toward the other groups",
    "conservation": "how much of the input's structure is kept",
    "prototypes": "how finely groups are resolved",
    "sharpen": "pull toward cluster centres",
    "supervision": "weight of known labels",
    "projector": "refinement between mutual nearest neighbours",
}


def seed(text: str) -> int:
    """Read a seed."""
    if not text.isdecimal() or (value := int(text)) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer from 0 to {2**32 - 1}")
    return value


def representation(words: Sequence[str] | None) -> dict[str, str] | str | None:
    """Read ``rna=X_pca atac=X_lsi``, or one key for all.

    Parameters
    ----------
    words
        What followed the option; None if it was not given.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if words is None:
        return None
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    pairs = [word.partition("=") for word in words]
    if not all(name and sign and key for name, sign, key in pairs):
        raise ValueError(f"{' '.join(words)!r} must be one obsm key, or MODALITY=KEY for each modality.")
    return {name: key for name, _, key in pairs}


def set_up(model_class: Any, data: Any, use_rep: Sequence[str] | None, **columns: Any) -> None:
    """Register data with a model class, whichever kind they are.

    Parameters
    ----------
    model_class
        A model of muport.
    data
        AnnData or MuData.
    use_rep
        What followed ``--use-rep``; None: ``X_pca``, of ``rna`` in a MuData.
    columns
        Further arguments of the set-up.

    Raises
    ------
    ValueError
        If modalities are named for an AnnData.
    """
    found = representation(use_rep)
    if hasattr(data, "mod"):
        model_class.setup_mudata(data, use_rep={"rna": "X_pca"} if found is None else found, **columns)
    elif isinstance(found, dict):
        raise ValueError("INPUT is an AnnData: give --use-rep one obsm key.")
    else:
        model_class.setup_anndata(data, use_rep=found or "X_pca", **columns)


def add_common(parser: argparse.ArgumentParser, out: str = "file to write: .h5ad, .h5mu or .zarr") -> None:
    """Add the input, the output, and how to run."""
    parser.add_argument("input", type=Path, metavar="INPUT", help="AnnData or MuData: .h5ad, .h5mu or .zarr")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUTPUT", help=out)
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file of options; the command line goes before it"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON, and nothing else, to stdout")
    parser.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed (default: %(default)s)")


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """Add the choice to start from counts."""
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="start from counts: normalise, select features, reduce (muport.pp.prepare)",
    )


def add_columns(parser: argparse.ArgumentParser, **columns: tuple[str | None, str]) -> None:
    """Add options that name columns of ``obs``: option -> (default, help)."""
    for name, (default, text) in columns.items():
        told = text if default is None else f"{text} (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, metavar="COLUMN", help=told)


def add_hyperparameters(parser: argparse.ArgumentParser) -> None:
    """Add the hyperparameters of the integration."""
    group = parser.add_argument_group("hyperparameters, from 0 (off) to 1; .5 by default")
    for name, text in HYPERPARAMETERS.items():
        group.add_argument(f"--{name}", type=float, default=0.5, metavar="X", help=text)


def hyperparameters_of(args: argparse.Namespace) -> dict[str, Any]:
    """Values of the hyperparameters."""
    return {name: getattr(args, name) for name in HYPERPARAMETERS}


def expanded(
    argv: list[str], parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]
) -> list[str]:
    """Put the options of a ``--config`` file before those of the command line, so that the latter count.

    Parameters
    ----------
    argv
        Arguments.
    parser
        The program's parser, which tells what is wrong with the file.
    commands
        Name -> parser of each command.
    """
    command = next((i for i, word in enumerate(argv) if word in commands), None)
    if command is None:
        return argv
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(argv[command + 1 :])[0].config
    if path is None:
        return argv
    chosen = commands[argv[command]]
    try:
        words = _words(_read(path), chosen, path)
    except (OSError, ValueError) as error:
        parser.exit(1, f"muport {argv[command]}: error: {' '.join(str(error).split())}\n")
    return [*argv[: command + 1], *words, *argv[command + 1 :]]


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} must be a list of 'option: value' lines.")
    return {str(key): value for key, value in found.items()}


def _words(config: dict[str, Any], parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """Options as words of a command line; those after ``--`` of the file's lists come one by one."""
    options = {word.removeprefix("--"): action for action in parser._actions for word in action.option_strings}
    words: list[str] = []
    for key, value in config.items():
        name = key.replace("_", "-")
        if name not in options or name in ("config", "help", "h"):
            known = sorted(name for name in options if len(name) > 1 and name not in ("config", "help"))
            raise ValueError(f"--config {path} names {key!r}, which is no option: use one of {', '.join(known)}.")
        words += _one(name, value, options[name], path)
    return words


def _one(name: str, value: Any, action: argparse.Action, path: Path) -> list[str]:
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"--config {path}: {name} must be true or false, not {value!r}.")
        if isinstance(action, argparse.BooleanOptionalAction):
            return [f"--{name}" if value else f"--no-{name}"]
        return [f"--{name}"] if value else []
    if isinstance(value, dict):
        value = [f"{key}={item}" for key, item in value.items()]
    if action.nargs in ("+", "*"):
        items = value if isinstance(value, list) else [value]
        return [f"--{name}", *(str(item) for item in items)]
    if isinstance(value, list):
        raise ValueError(f"--config {path}: {name} must be one value, not {value!r}.")
    # in one word, so that a value that begins with a dash is none of the options
    return [f"--{name}={value}"]
