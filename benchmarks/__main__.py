"""All benchmarks, or those named.

Usage: ``python -m benchmarks [--only integration scale ...]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

MODULES = {
    "transport": "transport.batched_problems",
    "integration": "integration.batches",
    "scale": "integration.scale",
    "identity": "integration.identity",
    "shift": "integration.known_shift",
    "distant_types": "integration.distant_types",
    "batch_variables": "integration.batch_variables",
    "openproblems": "openproblems.run_component",
    "labels": "integration.labels",
    "refine": "integration.refine",
    "corrected_expression": "integration.corrected_expression",
    "transfer": "modalities.transfer",
    "atac": "modalities.atac",
    "paired": "modalities.paired",
    "anchors": "modalities.anchors",
    "unshared": "modalities.unshared",
    "atlas": "atlas.centroids",
    "velocity": "velocity.fields",
    "simulated_fates": "velocity.simulated_fates",
    "held_out_days": "velocity.held_out_days",
    "growth": "velocity.growth",
    "cohort": "patients.cohort",
    "grid": "patients.grid",
    "abundance": "patients.abundance",
    "representations": "patients.representations",
    "first_call": "first_call",
    "large_cohort": "patients.large_cohort",
}


def main() -> int:
    """Run each benchmark as a process of its own; the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    failed = 0
    for name in parser.parse_args().only:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{MODULES[name]}"])
        failed += done.returncode != 0
        print(f"benchmarks.{name}: exit {done.returncode}, {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
