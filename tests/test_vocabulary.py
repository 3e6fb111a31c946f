"""Words that a reader of scanpy, scvi-tools or POT would not know in the sense they once had here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for pattern in (
        "src/**/*.py",
        "docs/*.md",
        "docs/from/*.md",
        "docs/guide/*.md",
        "docs/methods/*.md",
        "tutorials/*.ipynb",
        "benchmarks/**/*.py",
        "benchmarks/**/*.md",
        "*.md",
    )
    for path in sorted(ROOT.glob(pattern))
    # names that fields of saved models once had cannot be changed
    if path.name != "_former_names.py"
]
#: Word -> what to write instead, and why.
PRIVATE = {
    r"\b(the hall|hall of|wings?|the house)\b": "package or module: metaphors of a building",
    r"\b(told|told_by\w*|tells of|barely told)\b": "predicted, or reported: a modality does not speak",
    r"\b(steadied|steady)\b": "denoised: what the Wiener filter or the regression does",
    r"\b(dealt anew|deal|dealt)\b": "permuted",
    r"\b(taught|teach|teaches)\b": "fitted: cells do not teach",
    r"\bAnswers?\b": "InferenceMixin, or the result by its name",
    r"\b(knobs?|Knobs)\b": "hyperparameters",
    r"\b(misled|rim)\b": "a plain description of what goes wrong, or of the border",
    r"\bMet(_HALFWAY| half-?way)\b": "both groups are transported to the barycenter",
    r"\bclouds?\b": "patients, or cells per sample",
    r"\bthe next (one|ones|patient) has\b": "the condition of new patients",
    r"\bwhere (they|cells) go\b": "velocity",
}


@pytest.mark.parametrize("word", PRIVATE)
def test_private_words_are_not_used(word):
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(word, line) and "base64" not in line and not line.lstrip().startswith('"image/png"')
    }
    assert found == set(), PRIVATE[word]
