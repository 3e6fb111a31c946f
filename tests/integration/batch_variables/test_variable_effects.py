"""Displacements as sums of the effects of levels: against effects that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration._batch_design import BatchDesign, Strengths
from muport.integration.batch_variables._variable_effects import GroupMoves, fit_variable_effects, split_moves

K, D, PER_GROUP = 5, 3, 40


def make_moves(groups, effect, shape=None, seed=0, n_cells=50.0, fixed=()):
    """Prototypes at random centers, displaced by `effect` (center, levels of the group)."""
    rng = np.random.default_rng(seed)
    near = rng.integers(0, K, (len(groups) * PER_GROUP, 1))
    group = np.repeat(np.arange(len(groups)), PER_GROUP)
    shift = np.array([effect(k, groups[b]) for k, b in zip(near[:, 0], group, strict=True)], np.float32)
    for b in fixed:
        shift[group == b] = 0
    shapes = np.zeros((len(groups), D, D), np.float32) if shape is None else shape
    start = np.arange(len(groups) + 1) * PER_GROUP
    mass = rng.uniform(0.5, 1.5, len(shift)).astype(np.float32) * n_cells
    return GroupMoves(shift, shapes, mass, start, near, np.ones((len(shift), 1), np.float32), fixed)


def split(groups, fractions, moves):
    names = ["donor", "platform", "day"][: len(fractions)]
    design = BatchDesign.of(names, fractions, {"|".join(group): {group: 1.0} for group in groups})
    rows = np.stack([design.of_group["|".join(group)] for group in groups])
    effects = fit_variable_effects(moves, design, rows, np.zeros((K, D), np.float32))
    return effects, *split_moves(moves, effects, rows)


CROSSED = [(a, b) for a in "pqr" for b in "xy"]


def additive(seed):
    """Effects of levels that differ between centers."""
    rng = np.random.default_rng(seed)
    table = {level: rng.normal(size=(K, D)) for level in "pqrxyzuv"}
    return lambda k, levels: sum(table[level][k] for level in levels)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50))
def test_only_the_effects_of_one_variable_are_applied(seed):
    moves = make_moves(CROSSED, additive(seed), seed=seed)
    _, shift, _ = split(CROSSED, (1, 0), moves)
    donor = np.array([CROSSED[b][0] for b in moves.group])
    for k in range(K):
        at = moves.near[:, 0] == k
        for level in "pqr":
            # one displacement for all cells of a donor at a center, whatever their platform
            of_donor = shift[at & (donor == level)]
            assert np.allclose(of_donor, of_donor[0], atol=0.02)
        # what is left of the displacement does not depend on the donor
        left = (moves.shift - shift)[at]
        platform = np.array([CROSSED[b][1] for b in moves.group])[at]
        for level in "xy":
            assert np.allclose(left[platform == level], left[platform == level][0], atol=0.02)


@given(st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_equal_fractions_multiply_the_displacement(fraction):
    moves = make_moves(CROSSED, additive(1), shape=np.ones((6, D, D), np.float32))
    _, shift, shape = split(CROSSED, (fraction, fraction), moves)
    assert np.allclose(shift, fraction * moves.shift, atol=1e-6)
    assert np.allclose(shape, fraction * moves.shape, atol=1e-6)


def test_what_a_group_has_alone_moves_by_the_smallest_fraction():
    interaction = lambda k, levels: (levels == ("p", "x")) * np.ones(D) * 4  # noqa: E731
    both = make_moves(CROSSED, interaction)
    _, shift, _ = split(CROSSED, (1, 0.25), both)
    residual = split(CROSSED, (0.25, 0.25), both)[1]
    effects = split(CROSSED, (1, 1), both)[0]
    # the donor's part of it is applied in full, the rest by a quarter
    assert np.linalg.norm(shift) < np.linalg.norm(both.shift)
    assert np.linalg.norm(shift) > np.linalg.norm(residual)
    assert np.isfinite(effects.shift).all()


def test_a_nested_variable_leaves_the_differences_of_the_coarser_one():
    nested = [("p", "x"), ("q", "x"), ("r", "y"), ("s", "y")]
    table = {"p": 1.0, "q": -1.0, "r": 2.0, "s": -2.0, "x": 5.0, "y": -5.0}
    moves = make_moves(nested, lambda k, levels: np.full(D, sum(table[level] for level in levels)))
    _, shift, _ = split(nested, (1, 0), moves)
    left = moves.shift - shift
    of_group = [left[moves.group == b].mean() for b in range(4)]
    assert np.allclose(of_group[0], of_group[1], atol=0.02)
    assert np.allclose(of_group[2], of_group[3], atol=0.02)
    assert of_group[0] - of_group[2] == pytest.approx(10, abs=0.1)


def test_groups_that_stay_in_place_are_the_reference():
    table = {"p": 0.0, "q": 3.0, "r": -2.0, "x": 0.0, "y": 7.0}
    fixed = (CROSSED.index(("p", "x")),)
    moves = make_moves(CROSSED, lambda k, levels: np.full(D, sum(table[level] for level in levels)), fixed=fixed)
    effects, shift, _ = split(CROSSED, (1, 0), moves)
    for b, (donor, _) in enumerate(CROSSED):
        assert shift[moves.group == b].mean() == pytest.approx(table[donor], abs=0.02)
    assert np.abs(effects.shift[0]).max() == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 200), st.integers(1, 3))
def test_any_design_gives_finite_effects(seed, n_variables):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    groups = list(dict.fromkeys(tuple(str(rng.integers(0, 3)) for _ in range(n_variables)) for _ in range(n)))
    moves = make_moves(groups, lambda k, levels: rng.normal(size=D), seed=seed, n_cells=10.0 ** rng.integers(-3, 5))
    effects, shift, shape = split(groups, tuple(rng.random(n_variables)), moves)
    for values in (effects.shift, effects.shape, shift, shape):
        assert np.isfinite(values).all()
    assert np.abs(shift).max() < 20 * np.abs(moves.shift).max()


def test_strengths():
    strengths = Strengths.of({"donor": 0.25, "depth": 1}, ["donor", "platform"], ["depth", "mito"])
    assert strengths.of_batches == {"donor": 0.25, "platform": 0.5}
    assert strengths.fraction_of("donor") == 0.5
    assert strengths.fractions_of_covariates == (1.0, 1.0)
    assert Strengths.of(0.2, ["donor", "platform"]).fraction_of("donor") == 1.0
    assert Strengths.of({"donor": 0, "platform": 0}, ["donor", "platform"]).fit == 0


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ({"plate": 1}, "'plate', which is no batch variable"),
        ({"donor": 1.5}, r"strength\['donor'\]=1.5 must be a number"),
        ({"donor": None}, "must be a number"),
        ({"donor": float("nan")}, "must be a number"),
        ("1", "must be a number"),
    ],
)
def test_bad_strengths_are_refused(strength, message):
    with pytest.raises(ValueError, match=message):
        Strengths.of(strength, ["donor", "platform"])
