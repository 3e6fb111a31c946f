"""What changes the result of the three models and of the VAE, and how much, in processes of their own.

docs/reliability.md states the tolerances.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).parent / "determinism_worker.py"
MODELS = ("Integration", "Labels", "VAE", "GMM", "Velocity")
VARIANTS = ("base", "seed", "names of batches", "sorted names", "names of cells", "order of cells")
#: Largest difference of an entry, as a fraction of the spread, where sums are taken in another order.
ROUNDING = {"Integration": 1e-4, "Labels": 1e-4, "GMM": 1e-4, "VAE": 0.02, "Velocity": 0.05}

pytestmark = pytest.mark.slow


def run(out: Path, modules: str, *variants: str, hash_seed: str = "0", threads: str = "1") -> dict[str, np.ndarray]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, **dict.fromkeys(names, threads)}
    command = [sys.executable, str(WORKER), str(out), modules, *variants]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with np.load(out) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> dict[str, np.ndarray]:
    return run(tmp_path_factory.mktemp("first") / "r.npz", "torch,scanpy,muport", *VARIANTS)


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> dict[str, np.ndarray]:
    return run(tmp_path_factory.mktemp("second") / "r.npz", "muport,mudata,faiss,scvi", hash_seed="123")


@pytest.fixture(scope="module")
def two_threads(tmp_path_factory) -> dict[str, np.ndarray]:
    return run(tmp_path_factory.mktemp("threads") / "r.npz", "torch,scanpy,muport", threads="2")


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of an entry, as a fraction of the spread of the expected ones."""
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.promise("Another process, hash seed and order of imports give the same result, bit by bit")
@pytest.mark.parametrize("model", MODELS)
def test_another_process(first, second, model, record_property):
    record_property("tries", 1)
    assert np.array_equal(first[f"base/{model}"], second[f"base/{model}"])


@pytest.mark.promise("Names of cells, and names of batches that sort alike, leave the result the same, bit by bit")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", ["names of cells", "sorted names"])
def test_names(first, model, variant, record_property):
    record_property("tries", 1)
    assert np.array_equal(first[f"{variant}/{model}"], first[f"base/{model}"])


@pytest.mark.promise("The order of the cells leaves the result the same, bit by bit")
@pytest.mark.parametrize("model", MODELS)
def test_order_of_cells(first, model, record_property):
    record_property("tries", 1)
    assert np.array_equal(first[f"order of cells/{model}"], first[f"base/{model}"])


@pytest.mark.promise("The order of the names of batches changes the result by rounding only")
@pytest.mark.parametrize("model", MODELS)
def test_order_of_batches(first, model, record_property):
    record_property("tries", 1)
    assert difference(first[f"names of batches/{model}"], first[f"base/{model}"]) <= ROUNDING[model]


@pytest.mark.promise("The number of threads changes the result by rounding only")
@pytest.mark.parametrize("model", MODELS)
def test_threads(first, two_threads, model, record_property):
    record_property("tries", 1)
    assert difference(two_threads[f"base/{model}"], first[f"base/{model}"]) <= ROUNDING[model]


@pytest.mark.promise("Another seed gives a result that is close")
@pytest.mark.parametrize("model", ["Integration", "GMM", "Velocity"])
def test_seed(first, model, record_property):
    record_property("tries", 1)
    found, expected = first[f"seed/{model}"], first[f"base/{model}"]
    assert np.linalg.norm(found - expected) < 0.25 * np.linalg.norm(expected - expected.mean(axis=0))
