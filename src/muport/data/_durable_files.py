"""Files that are complete or absent, also after a crash: written under another name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["read_json", "sync", "write_json"]


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file; an earlier one is replaced only by a complete one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(content), encoding="utf-8")
    sync(staged)
    os.replace(staged, path)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
