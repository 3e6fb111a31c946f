"""All benchmarks, or those named: ``python -m benchmarks [--only integration scale ...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

NAMES = (
    "transport", "integration", "scale", "identity", "transfer", "labels", "atac", "paired", "unshared", "refine",
    "atlas", "velocity", "cohort",
)  # fmt: skip


def main() -> int:
    """Run each benchmark as a process of its own; the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    failed = 0
    for name in parser.parse_args().only:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"])
        failed += done.returncode != 0
        print(f"benchmarks.{name}: exit {done.returncode}, {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
