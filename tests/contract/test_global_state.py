"""No call leaves a trace in the process: generators, environment, warnings, threads, options, loggers."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import muport
from muport._parallel import parallel_map, single_threaded, single_threaded_torch

#: Runs one call in a new process, where it is the first to load what it needs, and compares the state around it.
PROGRAM = """
import logging, os, random, sys, warnings
import numpy as np, torch, matplotlib, scvi, muport
sys.path.insert(0, sys.argv[1])
from test_global_state import CALLS, cells
muport.GMM, muport.Integration, muport.Velocity, muport.pp, muport.pl, muport.metrics, muport.datasets, muport.ot

def state():
    loggers = {n: v.level for n, v in logging.root.manager.loggerDict.items() if isinstance(v, logging.Logger)}
    return {
        "numpy": np.random.get_state()[1].tolist(), "random": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ), "warnings": list(map(str, warnings.filters)), "print": np.get_printoptions(),
        "errors": np.geterr(), "threads": torch.get_num_threads(), "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matplotlib": dict(matplotlib.rcParams), "root": (logging.root.level, len(logging.root.handlers)),
        "scvi": (scvi.settings.seed, scvi.settings.batch_size, scvi.settings.verbosity), "folder": os.getcwd(),
        "loggers": loggers,
    }

for name in sys.argv[2].split(","):
    adata = cells()
    np.random.seed(5), random.seed(5), torch.manual_seed(5), torch.set_num_threads(2)
    before = state()
    CALLS[name](adata)
    after = state()
    after["loggers"] = {n: after["loggers"][n] for n in before["loggers"]}
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, f"{name} changed {changed}"
print("unchanged")
"""


def cells(n: int = 240, seed: int = 0) -> AnnData:
    """Counts, two batches, three types along a time, twelve samples of two conditions."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(size=n))
    adata = AnnData(rng.poisson(2.0, (n, 40)).astype(np.float32), obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]))
    adata.obs["batch"], adata.obs["time"] = np.array(["a", "b"])[np.arange(n) % 2], time
    adata.obs["type"] = np.array(["X", "Y", "Z"])[np.minimum((3 * time).astype(int), 2)]
    adata.obs["sample"] = [f"s{i % 12}" for i in range(n)]
    adata.obs["condition"] = np.array(["u", "v"])[np.arange(n) % 12 // 6]
    x = np.column_stack([8 * time, np.sin(3 * time), rng.normal(scale=0.2, size=(n, 4))])
    adata.obsm["X_pca"] = x.astype(np.float32)
    return adata


def integration(adata: AnnData, refine: str = "none", **kwargs: Any) -> Any:
    muport.Integration.setup_anndata(adata, use_rep="X_pca", batch_key="batch", labels_key="type")
    model = muport.Integration(adata, refine=refine)
    model.train(accelerator="cpu", progress=False, **kwargs)
    model.get_latent_representation()
    model.predict()
    return model


def gmm(adata: AnnData) -> Any:
    muport.GMM.setup_anndata(adata, use_rep="X_pca", sample_key="sample", labels_key="condition")
    model = muport.GMM(adata)
    model.train(accelerator="cpu", progress=False)
    return model


def velocity(adata: AnnData, n_steps: int = 30) -> Any:
    muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time")
    model = muport.Velocity(adata)
    model.train(n_steps=n_steps, accelerator="cpu", progress=False)
    return model


def vae(adata: AnnData) -> Any:
    return integration(adata, refine="vae", max_epochs=2)


def exact(adata: AnnData) -> None:
    muport.ot.solve(adata.obsm["X_pca"][:9], adata.obsm["X_pca"][20:29], method="exact")
    muport.ot.solve(adata.obsm["X_pca"][:9], adata.obsm["X_pca"][20:29], method="gromov", reg=0)


def lsi(adata: AnnData) -> None:
    muport.pp.tfidf(adata)
    muport.pp.lsi(adata, n_comps=5, max_depth_correlation=1)


CALLS = {
    "GMM": gmm,
    "Integration": integration,
    "Velocity": velocity,
    "VAE": vae,
    "exact transport": exact,
    "lsi": lsi,
    "iterative lsi": lambda a: muport.pp.iterative_lsi(a, n_comps=5, max_depth_correlation=1),
    "pseudotime": lambda a: muport.pp.pseudotime(a, root_cell=0),
    "prepare": lambda a: muport.pp.prepare(a, n_comps=5, umap=True),
    "multiome": lambda a: muport.datasets.simulated_multiome(n_cells=80),
    "figure": lambda a: muport.pl.embedding(a, basis="X_pca", color="type"),
}


@pytest.mark.promise("Random generators, environment, warnings, threads and options stay as they were")
@pytest.mark.parametrize("names", ["GMM", "Integration,Velocity,exact transport,lsi,multiome,iterative lsi,figure"])
def test_calls_leave_the_global_state(names, record_property):
    _run(names)
    record_property("tries", len(names.split(",")))


@pytest.mark.slow
@pytest.mark.promise("Random generators, environment, warnings, threads and options stay as they were")
@pytest.mark.parametrize("names", ["VAE", "pseudotime,prepare"])
def test_slow_calls_leave_the_global_state(names, record_property):
    _run(names)
    record_property("tries", len(names.split(",")))


def _run(names: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.stdout.strip().endswith("unchanged"), done.stderr[-2000:]


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.promise("Overlapping calls give torch its threads back")
@pytest.mark.parametrize("context", [single_threaded, single_threaded_torch])
@pytest.mark.parametrize("last", ["main", "other"])
def test_overlapping_contexts_restore_the_number_of_the_user(three_threads, context, last):
    from threadpoolctl import threadpool_info

    def numbers():
        return {p["filepath"]: p["num_threads"] for p in threadpool_info() if p["user_api"] == "openmp"}

    def other():
        with context():
            entered.set()
            assert go.wait(20)
            seen.append(torch.get_num_threads())

    before, seen, entered, go = numbers(), [], threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    with context():
        with context():
            thread.start()
            assert entered.wait(20)
        assert torch.get_num_threads() == 1
        if last == "main":
            go.set()
            thread.join()
    go.set()
    thread.join()
    assert seen == [1]
    assert torch.get_num_threads() == 3
    assert numbers() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_tasks_inside_contexts_stay_on_one_thread(three_threads, monkeypatch):
    monkeypatch.setattr("muport._parallel.count_cores", lambda: 2)

    def task(_):
        with single_threaded():
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    assert set(parallel_map(task, range(6))) == {(1, 1)}
    assert torch.get_num_threads() == 3


def latents(kind: str, seed: int = 0) -> np.ndarray:
    adata = cells(seed=seed)
    if kind == "GMM":
        return gmm(adata).get_sample_distances().to_numpy()
    if kind == "Velocity":
        return velocity(adata).get_velocity()
    return (vae if kind == "VAE" else integration)(adata).get_latent_representation()


@pytest.mark.promise("Models trained in several threads are equal to models trained one after the other")
def test_threads_are_equal_to_serial(record_property):
    tasks = [(kind, seed) for kind in ("Integration", "Velocity", "GMM") for seed in (0, 1)]
    serial = [latents(*task) for task in tasks]
    with ThreadPoolExecutor(3) as pool:
        parallel = list(pool.map(lambda task: latents(*task), tasks))
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))
    record_property("tries", len(tasks))


@pytest.mark.slow
@pytest.mark.promise("Models trained in several threads are equal to models trained one after the other")
def test_vae_in_threads_is_equal_to_serial(record_property):
    serial = [latents("VAE", seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        parallel = list(pool.map(lambda seed: latents("VAE", seed), (0, 1)))
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))
    record_property("tries", 2)


#: Computes results, and computes them again in a child that is forked or spawned.
CHILDREN = """
import multiprocessing, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_global_state import latents

if __name__ == "__main__":
    kinds = ["Integration", "Velocity", "GMM"]
    here = [latents(kind) for kind in kinds]
    with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
        there = pool.map_async(latents, kinds).get(timeout=600)
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    print("equal")
"""


@pytest.mark.slow
@pytest.mark.promise("Forked and spawned processes give the same answers")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_give_the_same(method, tmp_path, record_property):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system cannot {method}")
    (tmp_path / "children.py").write_text(CHILDREN)
    command = [sys.executable, str(tmp_path / "children.py"), str(Path(__file__).parent), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]
    record_property("tries", 3)


@pytest.mark.slow
@pytest.mark.promise("Rounds of training, predictions and files use no more memory, files or threads than one")
def test_rounds_do_not_grow(tmp_path, record_property):
    import resource

    def one_round(i: int) -> None:
        model = integration(cells(), max_iter=3)
        model.map_query(cells(seed=1))
        model.save(tmp_path / f"m{i % 2}", overwrite=True)
        muport.Integration.load(tmp_path / f"m{i % 2}", adata=False)
        velocity(cells(), n_steps=10)

    rounds = int(os.environ.get("MUPORT_TRIES", "15"))
    for i in range(5):
        one_round(i)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(rounds):
        one_round(i)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 20_000 + 100 * rounds, f"{grown} kB more after {rounds} rounds"
    record_property("tries", rounds)
