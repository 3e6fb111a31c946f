"""Commands, their errors, and what the process ends with."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import muport
from muport.cli import _atlas_command as _atlas
from muport.cli import _gmm_command as _gmm
from muport.cli import _info_command as _info
from muport.cli import _integrate_command as _integrate
from muport.cli import _velocity_command as _velocity
from muport.cli._options import expanded, seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["main"]

#: What a user can mend is told in one line; anything else is a bug, and shows where it happened.
_USER_ERRORS = (OSError, KeyError, TypeError, ValueError, ImportError)
_ERROR, _INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Parameters
    ----------
    argv
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    Exit code: 0 done, 1 failed, 130 interrupted. Arguments that cannot be understood end the process with code 2.

    Examples
    --------
    >>> main(["--version"])  # doctest: +SKIP
    muport 0.1.0
    """
    parser, commands = _parser()
    args = parser.parse_args(expanded(list(sys.argv[1:] if argv is None else argv), parser, commands))
    call: Callable[[argparse.Namespace], None] = args.call
    try:
        with _own_stdout(args):
            call(args)
    except _USER_ERRORS as error:
        if args.debug:
            raise
        # a KeyError quotes its own text; a message of several lines is one line here
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"muport {args.command}: error: {' '.join(str(told).split())}", file=sys.stderr)
        return _ERROR
    except KeyboardInterrupt:
        print(f"muport {args.command}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


@contextmanager
def _own_stdout(args: argparse.Namespace) -> Iterator[None]:
    """Keep stdout for what the command prints there: what libraries tell goes to stderr, or, if little, nowhere."""
    if args.command == "demo":
        yield
        return
    args.stdout = sys.stdout
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="muport", description="Optimal transport for single-cell data on MuData.")
    parser.add_argument("--version", action="version", version=f"muport {muport.__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error happened")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    adds = (
        _add_demo, _integrate.add_integrate, _integrate.add_transfer, _atlas.add_atlas, _gmm.add_gmm,
        _velocity.add_velocity, _info.add_info,
    )  # fmt: skip
    for add in adds:
        add(commands)
    return parser, dict(commands.choices)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = (
        "Integrate the batches of one modality, then unpaired RNA and ATAC cells, on embedded data; on real files "
        "where the environment variable MUPORT_DATA names their folder. Prints scores; writes data, model, pictures."
    )
    demo = commands.add_parser("demo", help="integrate the demonstration data", description=text)
    demo.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="FOLDER",
        help="where to write (default: %(default)s); an earlier demonstration there is replaced",
    )  # fmt: skip
    demo.add_argument("--force", action="store_true", help="write into a folder that holds other files, too")
    demo.add_argument(
        "--seed", type=seed, default=0, help="seed of simulation, fit and pictures (default: %(default)s)"
    )
    demo.set_defaults(call=_demo)


def _demo(args: argparse.Namespace) -> None:
    from rich.console import Console

    # imported here, so that --help need not wait for torch and scanpy
    from muport._demo import run

    run(args.out, Console(), force=args.force, seed=args.seed)
