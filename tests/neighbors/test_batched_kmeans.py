"""k-means of many sets at once: padding, masses, seeds, and its quality beside faiss."""

from __future__ import annotations

import numpy as np
import torch

from muport.neighbors import batched_kmeans, kmeans

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 200, 5, generator=GENERATOR)


def spread(x: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor) -> float:
    return float((x - centers[labels]).square().sum())


def test_as_good_as_faiss() -> None:
    found = batched_kmeans(X, 12, n_iter=25)
    for x, centers, labels in zip(X, found.centers, found.labels, strict=True):
        alone = kmeans(x, 12)
        best = spread(x, torch.as_tensor(alone.centers), torch.as_tensor(alone.labels))
        assert spread(x, centers, labels) <= 1.1 * best
    assert torch.equal(found.mass.sum(1), torch.full((6,), 200.0))


def test_labels_are_the_nearest_centers_and_centers_the_means() -> None:
    found = batched_kmeans(X, 7, n_iter=100)
    assert torch.equal(torch.cdist(X, found.centers).argmin(2), found.labels)
    for x, centers, labels in zip(X, found.centers, found.labels, strict=True):
        for one in range(7):
            assert torch.allclose(x[labels == one].mean(0), centers[one], atol=1e-5)


def test_padding_is_never_used() -> None:
    mass = torch.ones(6, 200)
    mass[2, 50:] = 0
    padded = X.clone()
    padded[2, 50:] = 1e3
    found = batched_kmeans(padded, 9, mass=mass)
    assert (found.labels[2, 50:] == -1).all()
    assert (found.labels[2, :50] >= 0).all()
    assert float(found.centers[2].abs().max()) < 10
    assert float(found.mass[2].sum()) == 50


def test_each_set_has_its_own_number_of_centers() -> None:
    number = torch.tensor([1, 2, 3, 4, 5, 6])
    found = batched_kmeans(X, number)
    assert (found.mass > 0).sum(1).tolist() == number.tolist()
    assert torch.allclose(found.centers[0, 0], X[0].mean(0), atol=1e-5)


def test_masses_act_as_repeats() -> None:
    x = torch.tensor([[[0.0], [1.0], [10.0], [14.0]]])
    found = batched_kmeans(x, 2, mass=torch.tensor([[1.0, 3.0, 1.0, 1.0]]))
    assert np.allclose(sorted(found.centers.flatten().tolist()), [0.75, 12.0], atol=1e-6)


def test_seeded_and_without_touching_the_global_state() -> None:
    before = torch.get_rng_state()
    first, second, other = (batched_kmeans(X, 10, random_state=seed) for seed in (1, 1, 2))
    assert torch.equal(first.centers, second.centers)
    assert not torch.equal(first.centers, other.centers)
    assert torch.equal(before, torch.get_rng_state())


def test_more_centers_than_points() -> None:
    found = batched_kmeans(X[:, :4], 9)
    assert torch.allclose(found.centers.gather(1, found.labels[..., None].expand(-1, -1, 5)), X[:, :4], atol=1e-5)
