"""Batches of a modality that nothing sets apart are taken together."""

from __future__ import annotations

import numpy as np

from muport.integration._hyperparameters import Hyperparameters
from muport.integration.shared_centers._merge_batches import merge_batches

NAMES = ("rna:a", "rna:b", "atac:a", "atac:b")


def pool(sim, group, conservation: float = 0.5, blocks: dict | None = None) -> tuple[list[int], tuple[str, ...]]:
    chosen = {"rna": np.array([0, 1]), "atac": np.array([2, 3])} if blocks is None else blocks
    found, names = merge_batches(sim.x, group, NAMES, chosen, Hyperparameters(conservation=conservation), 0)
    return found.tolist(), names


def test_only_those_without_a_batch_effect(kit):
    rng = np.random.default_rng(0)
    sim = kit.draw(n=600, shift=0)
    group = rng.integers(4, size=600)
    sim.x[group == 3] += 4
    assert pool(sim, group) == ([0, 0, 1, 2], ("rna", "atac:a", "atac:b"))


def test_neither_names_nor_order_matter(kit, monkeypatch):
    rng = np.random.default_rng(1)
    sim, group = kit.draw(n=400, shift=0), rng.integers(4, size=400)
    order = rng.permutation(400)
    swapped = np.array([1, 0, 3, 2])[group]
    seen = []

    def record(x, *_rest):
        seen.append(x)
        return 0.0

    monkeypatch.setattr("muport.integration.shared_centers._merge_batches.measure_batch_effect", record)
    assert pool(sim, group) == pool(sim, swapped) == pool(sim[order], group[order])
    # the same cells in the same order are judged, modality by modality
    assert all(np.array_equal(one, two) for one, two in zip(2 * seen[:2], seen[2:], strict=True))


def test_no_blocks_or_no_conservation_no_pools(kit):
    sim, group = kit.draw(n=200, shift=0), np.random.default_rng(0).integers(4, size=200)
    assert pool(sim, group, blocks={}) == ([0, 1, 2, 3], NAMES)
    assert pool(sim, group, conservation=0.0) == ([0, 1, 2, 3], NAMES)
    assert pool(sim, group, blocks={"rna": np.array([1])}) == ([0, 1, 2, 3], NAMES)
