"""Tangent spaces of data against surfaces whose tangent spaces are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from muport.neighbors import knn
from muport.velocity.dynamics._sde import simulate
from muport.velocity.dynamics._tangent_space import fit_tangent_spaces

RNG = np.random.default_rng(0)


def surface(m: int, d: int, n: int = 1500, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a flat piece of dimension m in d dimensions, and its basis."""
    basis = np.linalg.qr(RNG.normal(size=(d, m)))[0]
    return RNG.random((n, m)) @ basis.T + noise * RNG.normal(size=(n, d)), basis


@pytest.mark.parametrize(
    ("m", "d", "noise"),
    [(1, 2, 0.0), (1, 30, 0.002), (2, 3, 0.002), (2, 30, 0.002), (5, 30, 0.01), (2, 2, 0), (3, 3, 0)],
)
def test_rank_is_the_dimension_of_the_surface(m: int, d: int, noise: float) -> None:
    x, _ = surface(m, d, noise=noise)
    assert fit_tangent_spaces(x).rank == m


def test_noise_is_standard_normal_in_the_tangent_space_and_zero_out_of_it() -> None:
    angle = RNG.random(3000) * 2 * np.pi
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(3000)], axis=1)
    spaces = fit_tangent_spaces(circle, k=15)
    assert spaces.rank == 1
    drawn = spaces.project(torch.from_numpy(circle), torch.from_numpy(RNG.normal(size=(3000, 3)))).numpy()
    along = (drawn * np.stack([-np.sin(angle), np.cos(angle), np.zeros(3000)], axis=1)).sum(axis=1)
    assert along.std() == pytest.approx(1, abs=0.05)
    assert np.sqrt((drawn**2).sum(axis=1).mean() - along.var()) < 0.05
    bases = spaces.basis
    assert torch.allclose(bases.mT @ bases, torch.ones(1, 1), atol=1e-5)


def test_retraction_leaves_cells_in_place_and_brings_others_back() -> None:
    x, basis = surface(2, 10, noise=0.01)
    spaces = fit_tangent_spaces(x)
    cells = torch.from_numpy(x).float()
    still = torch.zeros_like(cells)
    moved = (spaces.retract(cells, still) - cells).norm(dim=1)
    assert float(moved.median()) < 0.01
    away = cells + 0.3 * torch.from_numpy(np.linalg.svd(basis.T)[2][-1]).float()
    back = spaces.retract(away, still)
    assert float((away - cells).norm(dim=1).min()) > 0.25
    assert float(torch.from_numpy(knn(x, 1, query=back).distances).median()) < 0.05


def test_noise_along_the_data_stays_with_them_and_isotropic_noise_does_not() -> None:
    angle = RNG.random(2000) * 2 * np.pi
    lift = np.linalg.qr(RNG.normal(size=(20, 2)))[0].T
    x = np.stack([3 * np.cos(angle), 3 * np.sin(angle)], axis=1) @ lift + 0.1 * RNG.normal(size=(2000, 20))
    spaces = fit_tangent_spaces(x)
    spacing = np.median(knn(x, 1).distances)

    def away(**options: object) -> float:
        ends = simulate(lambda x, t: 0 * x, x[:300], 0.0, 1.0, n_steps=50, diffusion=0.3, **options).ends  # type: ignore[arg-type]
        return float(np.median(knn(x, 1, query=ends).distances) / spacing)

    assert away(noise=spaces.project, retract=spaces.retract) < 1.3
    assert away(retract=spaces.retract) < 2
    assert away() > 4


def test_particles_are_brought_back_beyond_the_end_of_the_data_only() -> None:
    x = np.zeros((400, 3))
    # a sparse stretch between two dense ones, and noise across the line
    x[:, 0] = np.concatenate([np.linspace(0, 2, 190), np.linspace(2.3, 7.7, 20), np.linspace(8, 10, 190)])
    x += 0.02 * RNG.normal(size=x.shape)
    spaces = fit_tangent_spaces(x, rank=1)
    along = torch.tensor([[1.0, 0.0, 0.0]]).expand(60, 3)
    inside = torch.zeros(60, 3)
    inside[:, 0] = torch.linspace(0.1, 9.5, 60)
    assert float((spaces.retract(inside, along) - inside)[:, 0].min()) > -0.1
    beyond = torch.tensor([[14.0, 0.0, 0.0]])
    assert float(spaces.retract(beyond, along[:1])[0, 0]) < 10.5
    assert float(spaces.retract(-beyond, along[:1])[0, 0]) > -0.5


def test_the_spacing_is_that_along_the_data_not_of_the_noise_across_them() -> None:
    line = np.linspace(0, 100, 1001)[:, None] * np.eye(20)[:1]
    noisy = line + 0.5 * RNG.normal(size=line.shape)
    assert fit_tangent_spaces(line).spacing == pytest.approx(0.1, rel=0.01)
    assert fit_tangent_spaces(noisy).spacing < 0.5 * np.median(knn(noisy, 1).distances)
    assert fit_tangent_spaces(np.zeros((50, 4))).spacing == 0


def test_many_cells_have_anchors_and_the_choice_is_seeded() -> None:
    x, _ = surface(1, 3, n=9000, noise=0.001)
    first, again = fit_tangent_spaces(x), fit_tangent_spaces(x)
    assert len(first.anchor) == 4096
    assert torch.equal(first.basis, again.basis)
    assert torch.equal(first.anchor, again.anchor)
    assert not torch.equal(first.anchor, fit_tangent_spaces(x, random_state=1).anchor)


def test_degenerate_data_are_finite() -> None:
    for x in (np.zeros((50, 4)), np.repeat(np.eye(4), 20, axis=0), np.eye(4)):
        spaces = fit_tangent_spaces(x)
        points = torch.randn(7, 4)
        assert bool(spaces.project(points, points).isfinite().all())
        assert bool(spaces.retract(points, points).isfinite().all())


def test_rank_can_be_given() -> None:
    x, _ = surface(1, 3)
    full = fit_tangent_spaces(x, rank=3)
    eta = torch.randn(5, 3)
    assert torch.allclose(full.project(eta, eta), eta, atol=1e-5)
    for bad in (0, 4):
        with pytest.raises(ValueError, match=f"rank={bad}"):
            fit_tangent_spaces(x, rank=bad)
    with pytest.raises(ValueError, match="three cells"):
        fit_tangent_spaces(x[:2])
