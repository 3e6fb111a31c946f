"""The program: its commands, error messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
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

#: Errors that a user can correct are printed in one line; any other error is a bug, and shows its traceback.
_USER_ERRORS = (OSError, KeyError, TypeError, ValueError, ImportError)
_ERROR = 1


class _Stopped(BaseException):
    """A signal that ends the command; its number is the argument."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments without the name of the program; those of the process by default.

    Returns
    -------
    Exit code: 0 done, 1 failed, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). Invalid arguments end the process
    with code 2.

    Examples
    --------
    >>> main(["--version"])  # doctest: +SKIP
    muport 0.1.0
    """
    args = argparse.Namespace(command="")
    try:
        with _signals_as_errors():
            parser, commands = _parser()
            args = parser.parse_args(expanded(list(sys.argv[1:] if argv is None else argv), parser, commands))
            return _run(args)
    except (KeyboardInterrupt, _Stopped) as error:
        number = error.args[0] if isinstance(error, _Stopped) else signal.SIGINT
        end = "interrupted" if number == signal.SIGINT else "terminated"
        hint = ": the same command continues it" if getattr(args, "resume", False) else ""
        print(f"{f'muport {args.command}'.rstrip()}: {end}{hint}", file=sys.stderr)
        return 128 + int(number)


def _run(args: argparse.Namespace) -> int:
    """Run the command, and print an error that the user can correct in one line; returns the exit code."""
    call: Callable[[argparse.Namespace], None] = args.call
    try:
        with _own_stdout(args):
            call(args)
    except _USER_ERRORS as error:
        if args.debug:
            raise
        # str() of a KeyError puts its message in quotes
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"muport {args.command}: error: {' '.join(str(message).split())}", file=sys.stderr)
        return _ERROR
    return 0


@contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that what is not complete is removed."""

    def stop(number: int, _: object) -> None:
        raise _Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _own_stdout(args: argparse.Namespace) -> Iterator[None]:
    """Keep stdout for the output of the command: libraries print to stderr, and their INFO messages are dropped."""
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
        "Integrate the batches of one modality, then unpaired RNA and ATAC cells. The data are simulated, or real "
        "files if the environment variable MUPORT_DATA names their folder. Prints scores; writes data, model, figures."
    )
    demo = commands.add_parser("demo", help="integrate the demonstration data", description=text)
    demo.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="FOLDER",
        help="folder to write (default: %(default)s); an earlier demonstration in it is replaced",
    )  # fmt: skip
    demo.add_argument("--force", action="store_true", help="write into a folder that holds other files")
    demo.add_argument("--seed", type=seed, default=0, help="seed of simulation, fit and figures (default: %(default)s)")
    demo.add_argument("--scib", action="store_true", help="also compute the scores of scib-metrics (takes a minute)")
    demo.set_defaults(call=_demo)


def _demo(args: argparse.Namespace) -> None:
    from rich.console import Console

    # imported here: --help does not wait for torch and scanpy
    from muport._demo import run

    run(args.out, Console(), force=args.force, seed=args.seed, scib=args.scib)
