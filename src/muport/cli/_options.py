"""Options that several commands have, and the YAML file that can hold them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

type Commands[T: argparse.ArgumentParser] = argparse._SubParsersAction[T]

__all__ = [
    "Commands",
    "add_batch_options",
    "add_columns",
    "add_command",
    "add_integration_options",
    "add_model_options",
    "expanded",
    "hyperparameters_of",
    "load_model",
    "representation",
    "seed",
    "set_up",
]

HYPERPARAMETERS = {
    "strength": "how far cells move toward the other groups",
    "conservation": "how much of the structure of the input is kept",
    "prototypes": "how many prototypes a group has",
    "sharpen": "pull toward cluster centers",
    "supervision": "weight of known labels",
    "projector": "refinement between mutual nearest neighbors",
}


def seed(text: str) -> int:
    """Convert the text of a seed to an integer."""
    if not text.isdecimal() or (value := int(text)) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer from 0 to {2**32 - 1}")
    return value


def representation(words: Sequence[str] | None) -> dict[str, str] | str | None:
    """Convert ``rna=X_pca atac=X_lsi`` to a dict; one key for all modalities stays a string.

    - `words`: The words after the option; None if it was not given.
    """
    if words is None:
        return None
    if len(words) == 1 and words[0] and "=" not in words[0]:
        return words[0]
    pairs = [word.partition("=") for word in words]
    if not all(name and sign and key for name, sign, key in pairs):
        raise ValueError(f"{' '.join(words)!r} must be one obsm key, or MODALITY=KEY for each modality.")
    return {name: key for name, _, key in pairs}


_BATCH_DEFAULTS = {"auto": "batch, if there is such a column; '' for none", "batch": "batch"}


class _OneOrMore(argparse.Action):
    """An option of one word, which stays a word, or of several, which are a list."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class _Strength(argparse.Action):
    """A number, or ``donor=1 condition=0``: a dict."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        try:
            setattr(namespace, self.dest, _strength(values))
        except ValueError:
            parser.error(
                f"argument {option_string}: {' '.join(values)!r} must be a number, or COLUMN=X for each column"
            )


def _strength(words: Sequence[str]) -> dict[str, float] | float:
    if len(words) == 1 and "=" not in words[0]:
        return float(words[0])
    # the name of a column may contain the sign
    return {name: float(value) for name, _, value in (word.rpartition("=") for word in words)}


def add_batch_options(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add the options that name the batch variables, with their `default`, and the covariates."""
    parser.add_argument(
        "--batch-key", nargs="+", action=_OneOrMore, default=default, metavar="COLUMN",
        help=f"column with the batch; several columns for several variables (default: {_BATCH_DEFAULTS[default]})",
    )  # fmt: skip
    parser.add_argument(
        "--continuous-covariate-keys", nargs="+", metavar="COLUMN",
        help="columns with numbers whose effect is removed, for example the sequencing depth",
    )  # fmt: skip


def set_up(model_class: Any, data: Any, use_rep: Sequence[str] | None, **columns: Any) -> None:
    """Register an AnnData or a MuData with a model class.

    - `use_rep`: The words after ``--use-rep``; None: the default of the class.
    - `columns`: Further arguments of the set-up.
    """
    rep = representation(use_rep)
    if isinstance(rep, dict) and not hasattr(data, "mod"):
        raise ValueError("INPUT is an AnnData: give --use-rep one obsm key.")
    set_up_class = model_class.setup_mudata if hasattr(data, "mod") else model_class.setup_anndata
    set_up_class(data, **columns, **({} if rep is None else {"use_rep": rep}))


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    call: Callable[[argparse.Namespace], None],
    *,
    summary: str,
    description: str,
    out: str = "file to write: .h5ad, .h5mu or .zarr",
) -> argparse.ArgumentParser:
    """Add a command with the options that every command on a file of cells has; `call` runs it."""
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(call=call)
    parser.add_argument("input", type=Path, metavar="INPUT", help="AnnData or MuData: .h5ad, .h5mu or .zarr")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUTPUT", help=out)
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file of options; those of the command line take precedence"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON, and nothing else, to stdout")
    parser.add_argument("--quiet", action="store_true", help="show no progress and no summary")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed (default: %(default)s)")
    return parser


def add_model_options(parser: argparse.ArgumentParser, key: str | None = None) -> None:
    """Add the options of the commands that train a model; `key` is the default of ``--key``, if the command has it."""
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="start from counts: normalize, select features, reduce (muport.pp.prepare)",
    )
    parser.add_argument(
        "--use-rep", nargs="+", metavar="KEY",
        help="obsm key, or MODALITY=KEY for each modality (default: X_pca)",
    )  # fmt: skip
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save the model in this folder")
    parser.add_argument(
        "--load", type=Path, metavar="FOLDER",
        help="apply this saved model to the cells of INPUT; nothing is trained. With --prepare, their counts are "
        "projected into the space of the model",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw pictures of the result into this folder")
    if key is not None:
        parser.add_argument("--key", default=key, metavar="KEY", help="obsm key to write (default: %(default)s)")


def add_columns(parser: argparse.ArgumentParser, **columns: tuple[str | None, str]) -> None:
    """Add options that name columns of ``obs``: option -> (default, help)."""
    for name, (default, text) in columns.items():
        shown = text if default is None else f"{text} (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, metavar="COLUMN", help=shown)


def add_integration_options(parser: argparse.ArgumentParser) -> None:
    """Add what the integration in memory and the one out of core have in common."""
    parser.add_argument(
        "--unlabeled", default="unknown", metavar="NAME", help="label of cells without one (default: %(default)s)"
    )
    parser.add_argument(
        "--reference", default="auto", metavar="NAME", help="auto, union, largest, or the batch that does not move"
    )
    parser.add_argument(
        "--max-iter", type=int, default=15, metavar="N", help="largest number of iterations (default: %(default)s)"
    )
    group = parser.add_argument_group("hyperparameters, from 0 (off) to 1; 0.5 by default")
    for name, text in HYPERPARAMETERS.items():
        if name == "strength":
            text += "; COLUMN=X for each batch variable or covariate"
            group.add_argument("--strength", nargs="+", action=_Strength, default=0.5, metavar="X", help=text)
        else:
            group.add_argument(f"--{name}", type=float, default=0.5, metavar="X", help=text)


def load_model(model_class: Any, data: Any, args: argparse.Namespace) -> Any:
    """Load the model of ``--load`` for the cells of INPUT; with ``--prepare``, project their counts."""
    model = model_class.load(args.load, adata=False, accelerator="cpu")
    if args.prepare:
        from muport import pp

        pp.project(data, model)
    return model


def hyperparameters_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the hyperparameters of the integration."""
    return {name: getattr(args, name) for name in HYPERPARAMETERS}


def expanded(
    argv: list[str], parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]
) -> list[str]:
    """Insert the options of a ``--config`` file before those of the command line, which take precedence.

    - `parser`: The parser of the program, which prints what is wrong with the file.
    - `commands`: Name -> parser of each command.
    """
    command = next((i for i, word in enumerate(argv) if word in commands), None)
    if command is None:
        return argv
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(argv[command + 1 :])[0].config
    if path is None:
        return argv
    try:
        words = _config_words(_read_config(path), commands[argv[command]], path)
    except (OSError, ValueError) as error:
        parser.exit(1, f"muport {argv[command]}: error: {' '.join(str(error).split())}\n")
    # an option of one word ends the words of the last one of the file, so that INPUT is not taken for one of them
    return [*argv[: command + 1], *words, "--config", str(path), *argv[command + 1 :]]


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"--config {path} must be a list of 'option: value' lines.")
    return {str(key): value for key, value in config.items()}


def _config_words(config: dict[str, Any], parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """Convert the options of a file to words of a command line."""
    options = {word.removeprefix("--"): action for action in parser._actions for word in action.option_strings}
    words: list[str] = []
    for key, value in config.items():
        name = key.replace("_", "-")
        if name not in options or name in ("config", "help", "h"):
            known = sorted(name for name in options if len(name) > 1 and name not in ("config", "help"))
            raise ValueError(f"--config {path} names {key!r}, which is no option: use one of {', '.join(known)}.")
        words += _option_words(name, value, options[name], path)
    return words


def _option_words(name: str, value: Any, action: argparse.Action, path: Path) -> list[str]:
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
        # a single word that begins with a dash would be taken for an option
        return [f"--{name}={items[0]}"] if len(items) == 1 else [f"--{name}", *(str(item) for item in items)]
    if isinstance(value, list):
        raise ValueError(f"--config {path}: {name} must be one value, not {value!r}.")
    # one word: a separate value that begins with a dash would be taken for an option
    return [f"--{name}={value}"]
