"""The facade: costs, checks, the result type, exact and Gromov transport."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch

from muport.ot import cost_matrix, sinkhorn, solve

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 3)), RNG.normal(size=(7, 3)) + 1


def test_cost_is_that_of_scipy() -> None:
    from scipy.spatial.distance import cdist

    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    for metric in ("sqeuclidean", "cosine"):
        assert np.allclose(cost_matrix(x, y, metric=metric), cdist(X, Y, metric), atol=1e-12)
    far = cost_matrix((x + 1e4).float(), (y + 1e4).float()).numpy()
    assert np.abs(far - cdist(X, Y, "sqeuclidean")).max() < 0.05


def test_cost_scale_clip_and_penalty() -> None:
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    raw = cost_matrix(x, y)
    assert torch.allclose(cost_matrix(x, y, scale="std"), raw / raw.std(correction=0))
    assert torch.allclose(cost_matrix(x, y, scale="median"), raw / np.median(raw.numpy()))
    clipped = cost_matrix(x, y, clip_quantile=0.5)
    assert float(clipped.max()) == pytest.approx(np.quantile(raw.numpy(), 0.5, method="higher"))
    assert torch.equal(clipped, raw.clamp(max=clipped.max()))
    penalty = torch.zeros(9, 7, dtype=torch.float64)
    penalty[0] = 3.0
    assert torch.allclose(cost_matrix(x, y, scale="std", penalty=penalty)[0], raw[0] / raw.std(correction=0) + 3)
    batch = cost_matrix(torch.stack([x, 5 * x]), torch.stack([y, 5 * y]), scale="std")
    assert torch.allclose(batch[0], batch[1])


@pytest.mark.parametrize("scale", ["std", "median"])
def test_constant_cost_is_not_divided_by_zero(scale: Any) -> None:
    result = solve(np.zeros((4, 2)), np.zeros((3, 2)), scale=scale)
    assert torch.allclose(result.plan, torch.full((4, 3), 1 / 12, dtype=torch.float64))


def test_input_types_shapes_and_device_are_kept() -> None:
    single, batch = solve(X.astype(np.float32), Y), solve(np.stack([X, X + 1]), np.stack([Y, Y]))
    assert single.plan.dtype == torch.float32
    assert single.plan.shape == (9, 7)
    assert batch.plan.shape == (2, 9, 7)
    assert batch.mass.shape == (2,)
    assert batch[-1].plan.shape == (9, 7)
    assert len(list(batch)) == 2
    with pytest.raises(IndexError):
        batch[2]
    with pytest.raises(TypeError, match="one problem"):
        len(single)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_apply_and_barycenter_are_those_of_the_plan(method: Any) -> None:
    result = solve(X, Y, method=method, scale="std")
    v, y = torch.as_tensor(RNG.normal(size=7)), torch.as_tensor(Y)
    plan = result.plan
    assert torch.allclose(result.apply(v), plan @ v)
    assert torch.allclose(result.apply(y), plan @ y)
    assert torch.allclose(result.apply(torch.as_tensor(X), transpose=True), plan.mT @ torch.as_tensor(X))
    expected = plan @ y / plan.sum(1, keepdim=True)
    projected = result.barycentric_projection(y)
    assert isinstance(projected, torch.Tensor)
    assert torch.allclose(projected, expected, atol=1e-8)


def test_row_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = solve(X, Y, reg=0.3)
    monkeypatch.setattr("muport.ot._result._PLAN_ENTRIES", 15)
    parts = solve(X, Y, reg=0.3)
    assert torch.equal(whole.plan, parts.plan)
    assert torch.allclose(
        whole.apply(torch.as_tensor(X), transpose=True), parts.apply(torch.as_tensor(X), transpose=True)
    )


def test_barycenter_of_rows_without_mass() -> None:
    a = np.full(9, 1 / 8)
    a[0] = 0
    y = torch.as_tensor(Y)
    result = solve(X, Y, a=a, reg=0.1)
    tiny = np.where(a == 0, 1e-9, a)
    near = solve(X, Y, a=tiny / tiny.sum(), reg=0.1)
    assert torch.allclose(result.barycentric_projection(y)[0], near.barycentric_projection(y)[0], atol=1e-5)
    exact = solve(X, Y, a=a, method="exact")
    assert torch.allclose(exact.barycentric_projection(y)[0], y.mean(0))


def test_list_of_sets_gives_a_list_of_barycenters() -> None:
    result = solve([X, X[:4]], [Y, Y[:2]], reg=0.1)
    projected = result.barycentric_projection([torch.as_tensor(Y), torch.as_tensor(Y[:2])])
    assert [tuple(one.shape) for one in projected] == [(9, 3), (4, 3)]


def test_exact_is_pot_emd() -> None:
    cost = ot.dist(X, Y)
    a, b = ot.unif(9), ot.unif(7)
    result = solve(X, Y, method="exact")
    assert float(result.cost) == pytest.approx(ot.emd2(a, b, cost))
    assert float(result.value) == pytest.approx(float(result.cost))
    assert bool(result.converged)
    assert result.f is not None
    assert result.g is not None
    dual = float((torch.as_tensor(a) * result.f).sum() + (torch.as_tensor(b) * result.g).sum())
    assert dual == pytest.approx(float(result.cost))
    both = solve([X, X[:4]], [Y, Y[:2]], method="exact")
    assert float(both.cost[0]) == pytest.approx(float(result.cost))
    assert both[1].plan.shape == (4, 2)


def test_exact_respects_forbidden_pairs() -> None:
    mask = ot.solve(ot.dist(X, Y)).plan > 0.05
    result = solve(X, Y, method="exact", penalty=mask)
    assert float(result.plan[torch.as_tensor(mask)].max()) == 0
    assert float(result.marginal_error) <= 1e-9


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_exact_avoids_forbidden_pairs_whatever_the_scale_of_the_cost(scale: float) -> None:
    cost = ot.dist(X, Y)
    mask = ot.emd(ot.unif(9), ot.unif(7), cost) > 0.05
    result = solve(cost=np.where(mask, np.inf, scale * cost), method="exact")
    assert bool(result.converged)
    assert float(result.plan[torch.as_tensor(mask)].max()) == 0
    assert float(result.objective) == pytest.approx(ot.emd2(ot.unif(9), ot.unif(7), np.where(mask, 1e6, cost)) * scale)


def test_exact_transport_that_needs_a_forbidden_pair_has_not_converged() -> None:
    # row 0 may only go to column 0, which takes .5
    cost = np.array([[0.0, np.inf], [0.0, 0.0]])
    with pytest.warns(RuntimeWarning, match="1 of 2 transport problems .* forbid fewer pairs"):
        results = solve(cost=np.stack([cost, cost]), a=np.array([[0.9, 0.1], [0.3, 0.7]]), method="exact")
    assert results.converged.tolist() == [False, True]
    assert results.plan[1].tolist() == [pytest.approx([0.3, 0.0]), pytest.approx([0.2, 0.5])]


def test_exact_reports_what_the_simplex_did() -> None:
    cost = ot.dist(X, Y).astype(np.float32)
    result = solve(cost=[cost, 2 * cost[:4, :2]], method="exact")
    expected = [ot.emd2(ot.unif(9), ot.unif(7), cost), ot.emd2(ot.unif(4), ot.unif(2), 2 * cost[:4, :2])]
    assert result.objective is not None
    assert result.reg is not None
    assert result.objective.tolist() == pytest.approx(expected, rel=1e-6)
    assert result.reg.tolist() == [0, 0]
    assert result.n_iter.tolist() == [0, 0]
    assert result.n_iter.dtype == torch.int64
    assert {v.dtype for v in (result.f, result.g, result.plan, result.objective) if v is not None} == {torch.float32}
    with pytest.warns(RuntimeWarning, match="raise max_iter"):
        assert not bool(solve(cost=cost, method="exact", max_iter=1).converged)


def test_gromov_finds_an_isometry() -> None:
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    order = RNG.permutation(9)
    result = solve(X, X[order] @ turn + 4, method="gromov", reg=0, n_restarts=20)
    assert float(result.value) == pytest.approx(0, abs=1e-6)
    assert np.array_equal(order[result.plan.argmax(1).numpy()], np.arange(9))


def test_entropic_gromov_agrees_with_pot() -> None:
    cx, cy = ot.dist(X, X), ot.dist(Y, Y)
    cx, cy = cx / cx.max(), cy / cy.max()
    expected, log = ot.gromov.entropic_gromov_wasserstein(cx, cy, epsilon=0.05, tol=1e-11, max_iter=2000, log=True)
    result = solve(cx=cx, cy=cy, method="gromov", reg=0.05)
    assert bool(result.converged)
    assert np.abs(result.plan.numpy() - expected).max() <= 1e-5
    assert float(result.value) == pytest.approx(log["gw_dist"], abs=1e-6)


@pytest.mark.parametrize("reg", [0.0, 0.5])
def test_fused_gromov_agrees_with_pot(reg: float) -> None:
    cost, cx, cy = ot.dist(X, Y), ot.dist(X, X), ot.dist(Y, Y)
    if reg:
        plan, log = ot.gromov.entropic_fused_gromov_wasserstein(
            cost, cx, cy, alpha=0.1, epsilon=reg, tol=1e-11, max_iter=2000, log=True
        )
    else:
        plan, log = ot.gromov.fused_gromov_wasserstein(cost, cx, cy, alpha=0.1, log=True)
    result = solve(X, Y, method="fused_gromov", alpha=0.1, reg=reg)
    assert np.abs(result.plan.numpy() - plan).max() <= 1e-5
    assert float(result.value) == pytest.approx(float(log["fgw_dist"]), rel=1e-5)


def test_gromov_restarts_are_seeded() -> None:
    first, second = (solve(X, Y, method="gromov", reg=0, n_restarts=5, random_state=1).plan for _ in range(2))
    assert torch.equal(first, second)


def _with(array: np.ndarray, value: float) -> np.ndarray:
    bad = array.copy()
    bad.flat[1] = value
    return bad


A, B, C = np.full(9, 1 / 9), np.full(7, 1 / 7), ot.dist(X, Y)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": _with(X, np.nan), "y": Y}, r"x has a NaN or infinite entry at \(0, 1\)"),
    ({"x": X, "y": _with(Y, np.inf)}, "y has a NaN or infinite entry"),
    ({"cost": _with(C, np.nan)}, "cost has a NaN or infinite entry"),
    ({"cost": _with(C, -np.inf)}, "cost has a NaN or infinite entry"),
    ({"x": X, "y": Y, "a": _with(A, np.nan)}, "a has a NaN or infinite entry"),
    ({"x": X, "y": Y, "a": _with(A, -0.1)}, r"a has a negative entry at \(1,\)"),
    ({"x": X, "y": Y, "b": _with(B, -0.1)}, "b has a negative entry"),
    ({"x": X, "y": Y, "b": 0 * B}, "b has no mass"),
    ({"x": X, "y": Y, "a": B}, r"a has shape \(7,\), but the cost needs \(9,\)"),
    ({"x": X, "y": Y, "a": 2 * A}, "equal sums"),
    ({"x": X, "y": Y[:, :2]}, "must agree"),
    ({"x": X[0], "y": Y}, "x has shape"),
    ({"x": X}, "Two sets of points"),
    ({"x": X, "y": Y, "cost": C}, "not both"),
    ({"x": X, "y": Y, "penalty": C.T}, "penalty has shape"),
    ({"x": X, "y": Y, "metric": "manhattan"}, "metric='manhattan' is unknown: use one of 'sqeuclidean', 'cosine'"),
    ({"x": X, "y": Y, "scale": "max"}, "scale='max' is unknown"),
    ({"x": X, "y": Y, "reg_type": "l2"}, "reg_type='l2' is unknown"),
    ({"x": X, "y": Y, "method": "emd"}, "method='emd' is unknown"),
    ({"x": X, "y": Y, "reg": 0.0}, "reg=0.0 must be positive"),
    ({"x": X, "y": Y, "reg": np.array([0.1, 0.2])}, "reg has shape"),
    ({"x": X, "y": Y, "reg_m": -1.0}, "reg_m=-1.0 must be a number >= 0"),
    ({"x": X, "y": Y, "clip_quantile": 1.5}, "clip_quantile=1.5 is outside"),
    ({"x": X, "y": Y, "eps_scaling": 2.0}, "eps_scaling=2.0 must be"),
    ({"x": X, "y": Y, "init": (A, A)}, "init has shapes"),
    ({"x": X, "y": Y, "init": (_with(A, np.nan), B)}, "init has a NaN"),
    ({"x": X, "y": Y, "method": "exact", "reg_m": 1.0}, "needs method='sinkhorn'"),
    ({"x": [X], "y": [Y, Y]}, "one common length"),
    ({"x": [X, X], "y": [Y, Y], "a": [A, -A]}, r"a\[1\] has a negative entry"),
    ({"x": [X], "y": [Y], "method": "gromov"}, "one problem"),
    ({"cx": C, "cy": C, "method": "gromov"}, "a structure is square"),
    ({"x": X, "method": "gromov"}, "structure cy or the points y"),
    ({"x": X, "y": Y, "method": "gromov", "n_restarts": 0}, "n_restarts=0"),
    ({"x": X, "y": Y, "reg": 1e-30}, "The largest cost"),
    ({"x": X, "y": Y, "reg": np.nan}, "reg=nan must be positive"),
    ({"x": X, "y": Y, "max_iter": -1}, "max_iter=-1"),
    ({"x": X, "y": Y, "tol": np.nan}, "tol=nan"),
    ({"cost": C.astype(np.float32), "a": np.full(9, 1e38), "b": np.full(7, 9e38 / 7)}, "a .*float32|sum of a"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(**arguments)


def test_not_numeric_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="cost must be"):
        solve(cost=np.array([["a", "b"]]))
    with pytest.raises(TypeError, match="not lists"):
        solve(X, Y, a=[0.5] * 9)  # type: ignore[list-item]


@pytest.mark.promise("A transport plan is finite, or the cost is refused by name")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e20, 1e30, 1e36, -1e30])
@pytest.mark.parametrize("reg_m", [None, 1.0])
def test_costs_beyond_the_digits_are_refused(dtype: Any, size: float, reg_m: Any, record_property: Any) -> None:
    one = C.copy()
    one[0, 0] = size
    for cost in (C * size, one):
        with pytest.raises(ValueError, match=r"The largest cost, -?\d.*reg=0.05.*scale='std'"):
            solve(cost=cost.astype(dtype), reg_m=reg_m)
    with pytest.raises(ValueError, match="The largest cost"):
        sinkhorn(torch.as_tensor(C[None] * size), torch.as_tensor(A)[None], torch.as_tensor(B)[None], 0.05)
    record_property("tries", 3)


@pytest.mark.promise("A transport plan is finite, or the cost is refused by name")
@pytest.mark.parametrize("size", [1e-30, 1e15, 1e30, 1e37])
def test_a_scaled_cost_may_have_any_size(size: float, record_property: Any) -> None:
    expected = solve(cost=C, scale="std").plan
    found = solve(cost=(C / C.max() * size).astype(np.float32), scale="std").plan
    assert torch.allclose(found.double(), expected, atol=1e-5)
    record_property("tries", 1)


def test_coordinates_whose_squares_do_not_exist_are_refused() -> None:
    for size in (1e19, 1e30, 1e-25):
        with pytest.raises(ValueError, match="cannot hold its square"):
            solve((X * size).astype(np.float32), (Y * size).astype(np.float32), scale="std")
        assert torch.allclose(solve(X * size, Y * size, scale="std").plan, solve(X, Y, scale="std").plan, atol=1e-8)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_an_infinite_cost_forbids_the_pair(method: Any) -> None:
    mask = np.eye(9, 7, dtype=bool)
    expected = solve(X, Y, penalty=mask, method=method).plan
    for found in (
        solve(cost=np.where(mask, np.inf, C), method=method),
        solve(cost=C, penalty=np.where(mask, np.inf, 0.0), method=method),
    ):
        assert torch.allclose(found.plan, expected, atol=1e-8)
        assert float(found.plan[torch.as_tensor(mask)].max()) == 0
    if method == "exact":
        return
    # what a row without mass costs does not matter
    a = np.where(np.arange(9) == 0, 0, 1 / 8)
    cost = C.copy()
    cost[0] = 1e30
    assert torch.allclose(solve(cost=cost, a=a).plan, solve(cost=C, a=a).plan, atol=1e-8)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_negative_costs(method: Any) -> None:
    assert torch.allclose(solve(cost=C - 5, method=method).plan, solve(cost=C, method=method).plan, atol=1e-7)


@pytest.mark.promise("The container of an array does not change the answer")
def test_containers_of_a_cost(record_property: Any) -> None:
    read_only = C.copy()
    read_only.flags.writeable = False
    expected = solve(cost=C).plan
    others = (read_only, np.asfortranarray(C), C[::-1][::-1], C.astype(">f8"), np.repeat(C, 2, axis=1)[:, ::2])
    for cost in others:
        assert torch.allclose(solve(cost=cost).plan, expected, atol=1e-12)
    whole = np.rint(C).astype(int)
    assert torch.allclose(solve(cost=whole).plan, solve(cost=whole.astype(np.float32)).plan)
    for refused in (C.tolist(), C.astype(complex), C.astype(object), C.astype(str)):
        with pytest.raises(TypeError, match="cost must be a torch tensor or a NumPy array of real numbers"):
            solve(cost=[refused])
    record_property("tries", len(others) + 5)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_barycenters_under_masses_that_are_not_uniform(method: Any, reg_type: Any) -> None:
    b = np.arange(1.0, 8) ** 2
    y = torch.as_tensor(Y)
    result = solve(X, Y, b=b / b.sum(), method=method, reg_type=reg_type, reg=0.5)
    expected = result.plan @ y / result.plan.sum(1, keepdim=True)
    assert torch.allclose(result.barycentric_projection(y), expected, atol=1e-7)
    # a row without mass in an exact plan has the mean of the targets, weighted by their masses
    a = np.where(np.arange(9) == 0, 0, 1 / 8)
    if method == "exact":
        empty = solve(X, Y, a=a, b=b / b.sum(), method="exact").barycentric_projection(y)[0]
        assert torch.allclose(empty, torch.as_tensor(b / b.sum()) @ y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees_with_the_cpu() -> None:
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    on_gpu = solve(x.cuda(), y.cuda(), reg=0.1, reg_m=0.5)
    assert on_gpu.plan.is_cuda
    assert torch.allclose(on_gpu.plan.cpu(), solve(x, y, reg=0.1, reg_m=0.5).plan, atol=1e-9)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_the_costs_of_a_batch_are_those_of_its_problems(metric: Any) -> None:
    x, y = torch.as_tensor(RNG.normal(size=(4, 6, 3))), torch.as_tensor(RNG.normal(size=(4, 5, 3)) + 3)
    batch = cost_matrix(x, y, metric=metric)
    assert torch.allclose(batch, torch.stack([cost_matrix(*pair, metric=metric) for pair in zip(x, y, strict=True)]))


def test_one_gromov_descent_is_that_of_pot_from_the_product_of_the_masses() -> None:
    cx, cy = ot.dist(X, X), ot.dist(Y, Y)
    a, b = np.arange(1.0, 10) / 45, ot.unif(7)
    expected, log = ot.gromov.gromov_wasserstein(cx, cy, a, b, log=True)
    # masses are normalized
    for factor in (1.0, 3.0):
        result = solve(method="gromov", cx=cx, cy=cy, a=factor * a, b=factor * b, reg=0)
        assert np.allclose(result.plan.numpy(), expected, atol=1e-7)
        assert float(result.value) == pytest.approx(float(log["gw_dist"]), rel=1e-6)
        assert np.allclose(result.a.numpy(), a)
    with pytest.warns(RuntimeWarning, match="did not converge"):
        stopped = solve(method="gromov", cx=cx, cy=cy, a=a, b=b, reg=0, max_iter=1)
    assert int(stopped.n_iter) == 1
    cost = cx.astype(np.float32), cy.astype(np.float32)
    assert solve(method="gromov", cx=cost[0], cy=cost[1], reg=0).plan.dtype == torch.float32


def test_rows_without_mass_are_mapped_to_the_mean_target_in_a_batch_of_any_masses() -> None:
    a, b = np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    y = torch.as_tensor(Y[:3])
    results = solve([X[:3], X[:3]], [Y[:3], Y[:3]], a=[a, 2 * a], b=[b, 2 * b], method="exact")
    for projected in results.barycentric_projection([y, y]):
        assert torch.allclose(projected[0], torch.as_tensor(b / b.sum()) @ y)


@pytest.mark.parametrize(
    ("method", "name"),
    [("gromov", "cost"), ("gromov", "penalty"), ("gromov", "init"), ("fused_gromov", "init"), ("exact", "init")]
    + [(method, name) for method in ("sinkhorn", "exact") for name in ("cx", "cy")],
)
def test_an_argument_that_the_method_would_ignore_is_refused(method, name):
    given = {name: (torch.zeros(len(X)), torch.zeros(len(Y))) if name == "init" else np.zeros((len(X), len(Y)))}
    with pytest.raises(ValueError, match=f"{name}= is not used by method='{method}'"):
        solve(X, Y, method=method, **given)
