"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_the_tests_of_the_page_exist():
    named = re.findall(r"`([^\s`]+\.py)::(\w+)`", PAGE.read_text())
    assert named
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in (TESTS / file).read_text()] == []
