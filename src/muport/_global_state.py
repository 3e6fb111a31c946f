"""The state of the process that belongs to the user: random generators, print options, environment variables."""

from __future__ import annotations

import os
import random
import sys
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["preserve_environment", "preserve_generators"]

#: Held while a library draws from the global generators: two threads would take each other's numbers.
_lock = RLock()


def _make_lock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    # another thread, which does not exist in a forked process, may have held the lock
    os.register_at_fork(after_in_child=_make_lock)


@contextmanager
def preserve_generators(seed: int | None = None) -> Iterator[None]:
    """Restore the global generators and NumPy's print options on exit. One thread at a time is inside.

    For libraries that draw from the global generators, or change the options. Own code has generators of its own.

    Parameters
    ----------
    seed
        Seed of the global generators inside the context; None leaves them as they are.
    """
    torch = sys.modules.get("torch")
    with ExitStack() as stack:
        stack.enter_context(_lock)
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.callback(random.setstate, random.getstate())
        stack.enter_context(np.printoptions())
        if torch is not None:
            # without a seed no library draws on a GPU, which the fork would start
            stack.enter_context(torch.random.fork_rng(None if seed is not None else []))
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            if torch is not None:
                torch.manual_seed(seed)
        yield


@contextmanager
def preserve_environment() -> Iterator[None]:
    """Restore the global generators and the environment variables on exit, for imports that change them."""
    before = dict(os.environ)
    with preserve_generators():
        try:
            yield
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
