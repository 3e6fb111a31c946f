"""Run the tests that hold a promise, and write docs/reliability.md: promise, test, tries and failures.

Run ``python -m benchmarks.reliability``. ``--report FILE ...`` reads JUnit reports instead of running tests; words
after ``--`` are handed to pytest. The environment variable ``MUPORT_TRIES`` multiplies the tries of the tests that
draw their inputs at random.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from benchmarks.common._tables import setting, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
#: Subject -> words of the promises that belong to it; the first subject that matches is taken.
SUBJECTS = {
    "Malformed input": r"[Mm]alformed|refused with|[Ii]n any order of calls",
    "Saved models": r"[Ll]oaded model|[Ss]aved|Models that version",
    "Files and results on disk": r"\bfile|disk|kill|interrupt|output|result whole|resum",
    "The same result again": r"seed|thread|[Rr]andom|process|import|[Ff]ork|[Rr]ounds",
    "Cells, features and modalities by name": r"\border\b|name|[Pp]air|spell|column|categor|[Ll]abel",
    "Kinds of arrays and numbers": r"[Rr]ead-only|array|sparse|dtype|dask|number",
}
OTHER = "Methods"
#: What is counted over all tests -> which tests count.
COUNTS = {
    "malformed or random inputs": r"test_malformed|test_state_machine|test_fuzz",
    "kills and interruptions survived": r"kill|interrupt|signal|survive",
    "bytes or numbers of files changed": r"flip|tamper|changed_files|byte|damaged",
    "models of earlier versions loaded": r"tests/golden",
}
TEXT = """# Reliability

Each sentence below is a promise to the user, and is tested. A command writes this page from the report of the tests,
so every promise here has a test.

- *Tries* are the inputs that were tried: shuffled tables, malformed objects, killed processes, damaged files.
- *Failures* are tests that failed.

An input that muport does not accept is refused with ValueError, KeyError or TypeError. The message names the argument,
the value and a way to correct it; nothing is written, and the object of the user is unchanged. The commands print
this message in one line and end with another exit code than 0.

Run the tests again, and write this page:

```bash
python -m benchmarks.reliability
MUPORT_TRIES=20 python -m benchmarks.reliability                            # more random tries
python -m benchmarks.reliability -- --hypothesis-profile=fuzz               # a longer search, among new inputs
pytest -m promise                                                           # the tests alone
```

## What is the same, and how exactly

| what changes | results |
|---|---|
| nothing: the same call again, in the same or another process | equal bit by bit |
| `PYTHONHASHSEED`, the order of imports | equal bit by bit |
| names of cells; names of batches that sort alike | equal bit by bit |
| order of the cells, and of the modalities | equal bit by bit |
| names of batches that sort otherwise | equal up to rounding |
| number of threads | equal up to rounding |
| `random_state` | close, not equal |

Rounding changes no coordinate by more than 1e-4 of their spread. The VAE (`refine="vae"`) and the network of `Velocity`
are trained in steps, which enlarge rounding: to at most 0.02 and 0.05 of the spread.
"""


@dataclass(frozen=True)
class Outcome:
    """What a test function reported: `name` is its file and function; parameters count together."""

    name: str
    promise: str
    tries: int
    failures: int
    skipped: int


def run_tests(report: Path, words: Sequence[str]) -> None:
    """Run the tests that hold a promise; failures are part of the report."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "promise", f"--junitxml={report}", *words]
    if subprocess.run(command, cwd=ROOT).returncode > 1:
        raise SystemExit("the tests did not run to their end.")


def read_report(report: Path) -> list[Outcome]:
    """Read the tests with a promise from a JUnit report; parameters of one function are added."""
    added: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        values = [(item.get("name", ""), item.get("value", "")) for item in case.iter("property")]
        tries = sum(int(value) for key, value in values if key == "tries")
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').split('[')[0]}"
        for promise in {value for key, value in values if key == "promise"}:
            counts = added[name, promise]
            counts[0] += 0 if skipped else max(tries, 1)
            counts[1] += failed
            counts[2] += skipped
    return [Outcome(name, promise, *counts) for (name, promise), counts in sorted(added.items())]


def subject_of(promise: str) -> str:
    """Return the heading under which a promise stands."""
    return next((subject for subject, words in SUBJECTS.items() if re.search(words, promise)), OTHER)


def promise_table(outcomes: Iterable[Outcome]) -> str:
    """One row for each promise, with all of its tests."""
    by_promise: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_promise[outcome.promise].append(outcome)
    rows = [
        (
            promise,
            "<br>".join(f"`{o.name.removeprefix('tests/')}`" for o in tests),
            f"{sum(o.tries for o in tests):,}" + (" (some not run)" if any(o.skipped for o in tests) else ""),
            sum(o.failures for o in tests),
        )
        for promise, tests in sorted(by_promise.items())
    ]
    return table(("promise", "tests", "tries", "failures"), rows)


def write_page(outcomes: Sequence[Outcome]) -> None:
    """Write docs/reliability.md."""
    counts = [
        (what, f"{sum(o.tries for o in outcomes if re.search(words, o.name)):,}") for what, words in COUNTS.items()
    ]
    counts.append(("all tries", f"{sum(o.tries for o in outcomes):,}"))
    counts.append(("failures", sum(o.failures for o in outcomes)))
    parts = [TEXT, "\n## Counts\n\n", table(("what", "number"), counts)]
    for subject in [*SUBJECTS, OTHER]:
        chosen = [outcome for outcome in outcomes if subject_of(outcome.promise) == subject]
        if chosen:
            parts += [f"\n## {subject}\n\n", promise_table(chosen)]
    parts.append("\n" + setting("muport", "scvi-tools", "torch", "anndata", "mudata"))
    PAGE.write_text("".join(parts))


def main() -> int:
    """Run the tests or read a report, and write the page; the number of failures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--report", type=Path, nargs="+", help="JUnit reports of earlier runs of pytest")
    parser.add_argument("words", nargs="*", help="arguments of pytest, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reports = args.report or [Path(folder) / "report.xml"]
        if args.report is None:
            run_tests(reports[0], args.words)
        outcomes = [outcome for report in reports for outcome in read_report(report)]
    write_page(outcomes)
    return min(sum(outcome.failures for outcome in outcomes), 100)


if __name__ == "__main__":
    sys.exit(main())
