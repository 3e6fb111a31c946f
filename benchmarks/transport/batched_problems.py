"""300 transport problems of 150 x 150 at once, beside a loop over POT on the same cores.

Usage: ``python -m benchmarks.transport.batched_problems``. It writes ``benchmarks/results/ot.md``. Both solve the same
problems to the same accuracy: muport stops at its default tolerance, POT at the largest of its tolerances (powers of
ten) whose plans are at least as near to a tight float64 reference.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ot
import torch

from muport.ot import solve

if TYPE_CHECKING:
    from collections.abc import Callable

N_PROBLEMS, SIZE, DIM = 300, 150, 50
N_POT = 10  # problems of the POT loop; its time is linear in their number
REPEATS = 3
MAX_ITER = 3000
RESULT = Path(__file__).parents[1] / "results" / "ot.md"

Plans = np.ndarray


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    setting: str
    solver: str
    seconds: float
    cpu: float
    error: float
    note: str


def problems(seed: int = 0) -> np.ndarray:
    """Squared distances of Gaussian point sets with a shift, divided by their std: (N_PROBLEMS, SIZE, SIZE)."""
    rng = np.random.default_rng(seed)
    costs = []
    for _ in range(N_PROBLEMS):
        x, y = rng.normal(size=(SIZE, DIM)), rng.normal(size=(SIZE, DIM)) + 0.3 * rng.normal(size=DIM)
        cost = ot.dist(x, y)
        costs.append(cost / cost.std())
    return np.stack(costs)


def timed(run: Callable[[], Plans], repeats: int = REPEATS) -> tuple[float, float, Plans]:
    """Median wall and CPU seconds of several runs, and the plans."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        plans = run()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = np.median(seconds, axis=0)
    return float(wall), float(cpu), plans


def ours(costs: torch.Tensor, reg: float, reg_m: float | None) -> Callable[[], Plans]:
    def run() -> Plans:
        plans = solve(cost=costs, reg=reg, reg_m=reg_m).plan
        if plans.is_cuda:
            torch.cuda.synchronize()
        return plans.cpu().numpy()

    return run


def pot_solve(cost: np.ndarray, reg: float, reg_m: float | None, tol: float) -> Plans:
    return ot.solve(cost, reg=reg, reg_type="KL", unbalanced=reg_m, max_iter=MAX_ITER, tol=tol).plan


def pot_plain(cost: np.ndarray, reg: float, reg_m: float | None, tol: float) -> Plans:
    """POT's fastest solver, outside the log domain: it under- or overflows at small reg."""
    mass = ot.unif(SIZE)
    if reg_m is None:
        return ot.sinkhorn(mass, mass, cost, reg, method="sinkhorn", numItermax=MAX_ITER, stopThr=tol)
    return ot.unbalanced.sinkhorn_unbalanced(
        mass, mass, cost, reg, reg_m, method="sinkhorn", reg_type="kl", numItermax=MAX_ITER, stopThr=tol
    )


def pot_loop(
    solver: Callable[[np.ndarray, float, float | None, float], Plans], costs: np.ndarray, reference: Plans, goal: float,
    reg: float, reg_m: float | None,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Wall and CPU seconds for all problems, error and tolerance of the loosest run that is as accurate as ``goal``."""
    for tol in 10.0 ** -np.arange(2, 13):
        plans = np.stack([solver(cost, reg, reg_m, tol) for cost in costs[:4]])
        error = float(np.abs(plans - reference[:4]).max())
        if error <= goal:
            break
    wall, cpu, plans = timed(lambda: np.stack([solver(cost, reg, reg_m, tol) for cost in costs[:N_POT]]), repeats=1)
    scale = N_PROBLEMS / N_POT
    return wall * scale, cpu * scale, float(np.abs(plans - reference[:N_POT]).max()), tol


def measure(reg: float, reg_m: float | None) -> list[Row]:
    costs = problems()
    setting = f"reg {reg:g}, " + ("balanced" if reg_m is None else f"reg_m {reg_m:g}")
    reference = np.stack([pot_solve(cost, reg, reg_m, 1e-12) for cost in costs[:N_POT]])
    rows = []
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for dtype in (torch.float32, torch.float64):
            tensor = torch.as_tensor(costs, dtype=dtype, device=device)
            seconds, cpu, plans = timed(ours(tensor, reg, reg_m))
            error = float(np.abs(plans[:N_POT] - reference).max())
            rows.append(Row(setting, f"muport {str(dtype)[6:]} {device}", seconds, cpu, error, "default tol"))
    goals = {"ot.solve": (pot_solve, rows[0].error), "POT plain sinkhorn": (pot_plain, rows[0].error)}
    for name, (solver, goal) in goals.items():
        seconds, cpu, error, tol = pot_loop(solver, costs, reference, max(goal, 1e-12), reg, reg_m)
        rows.append(Row(setting, f"{name} float64 cpu", seconds, cpu, error, f"tol {tol:.0e}"))
    print(table(rows), flush=True)
    return rows


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].split(":")[1].strip() if names else platform.processor()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "POT", "numpy"))
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return f"{os.cpu_count()} cores ({model}), {torch.get_num_threads()} torch threads, GPU {gpu}; {versions}"


def table(rows: list[Row]) -> str:
    base = {row.setting: row for row in rows if row.solver.startswith("muport float32 cpu")}
    lines = [
        "| problem | solver | seconds | x muport float32 | CPU seconds | x muport float32 | max plan error | stop |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        wall, cpu = row.seconds / base[row.setting].seconds, row.cpu / base[row.setting].cpu
        cells = f"{row.seconds:.2f} | {wall:.1f} | {row.cpu:.2f} | {cpu:.1f} | {row.error:.1e} | {row.note}"
        lines.append(f"| {row.setting} | {row.solver} | {cells} |")
    return "\n".join(lines)


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    warnings.simplefilter("ignore")
    before = load()
    rows = [row for reg, reg_m in ((0.1, None), (0.1, 1.0), (0.028, 0.4)) for row in measure(reg, reg_m)]
    text = f"""# Transport: {N_PROBLEMS} problems of {SIZE} x {SIZE} at once

{machine()}; load of the machine before and after: {before}, {load()}.

Costs: squared distances of {DIM}-d Gaussian point sets over their standard deviation. muport solves all problems in one
call, the plans included (median of {REPEATS} runs); POT loops over them (timed on {N_POT} problems, scaled to
{N_PROBLEMS}), at the loosest tolerance whose plans are as near as muport's float32 ones to a float64 reference of
tolerance 1e-12. `ot.solve` works in the log domain when balanced; "POT plain sinkhorn" is its fastest scaling, which
does not, and which fails where `exp(-C / reg)` underflows. Unbalanced `ot.solve` is that plain scaling too.

{table(rows)}
"""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
