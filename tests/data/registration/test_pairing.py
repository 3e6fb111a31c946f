"""The test of pairs: its error rate for permuted names, its power, and the names that it compares."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Setup, check_pairings, compare_pairs, pairing_metrics, read_rows
from muport.data.registration import _pairing
from muport.data.registration._pairing import (
    Pairing,
    _compare_own,
    _compare_shared,
    _compute_features,
    _directions,
    _sample_blocks,
    _sample_names,
    _subtract_batch_means,
    _test,
)


def draw(seed: int, n: int, d: int = 6, share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two measurements of n cells that have a share of their variance in common."""
    rng = np.random.default_rng(seed)
    common = np.sqrt(share) * rng.normal(size=(n, d))
    x, y = (common + np.sqrt(1 - share) * rng.normal(size=(n, d)) for _ in range(2))
    return x.astype(np.float32), y.astype(np.float32)


def compare_own(x: np.ndarray, y: np.ndarray, block: np.ndarray):
    batch = np.zeros(len(x), np.int64)
    return _compare_own(_compute_features(x, batch, block), _compute_features(y, batch, block), block)


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
@pytest.mark.parametrize("compare", [compare_own, _compare_shared])
def test_p_values_of_permuted_names_are_uniform(compare, record_property):
    block = np.arange(60) // 4
    p = np.array([compare(*draw(seed, 60), block).p_value for seed in range(60)])
    record_property("tries", len(p))
    assert (p <= 0.005).sum() <= 2
    assert 0.37 < p.mean() < 0.63
    assert (p > 0.8).sum() > 4


@pytest.mark.parametrize("compare", [compare_own, _compare_shared])
def test_pairs_agree(compare):
    block = np.arange(120) // 4
    for seed in range(5):
        found = compare(*draw(seed, 120, share=0.6), block)
        assert found.p_value <= 0.005
        assert found.agreement > 0.1
    x, _ = draw(0, 120)
    assert compare(x, x, block).agreement == pytest.approx(1, abs=1e-4)


def test_a_relation_that_is_not_linear_is_found():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 400)
    x, y = (np.c_[np.cos(k * angle), np.sin(k * angle)] + 0.1 * rng.normal(size=(400, 2)) for k in (1, 2))
    assert compare_own(x.astype(np.float32), y.astype(np.float32), np.arange(400) // 4).p_value <= 0.005


def test_constant_coordinates_prove_nothing():
    x, _ = draw(0, 40)
    for compare in (compare_own, _compare_shared):
        found = compare(x, np.ones_like(x), np.arange(40) // 4)
        assert found.p_value == 1
        assert found.agreement == 0


def test_blocks_hold_names_that_follow_each_other_within_a_batch():
    numbers = np.random.default_rng(0).permutation(50)
    names = pd.Index([f"c{i}" for i in numbers])
    order, block = _sample_blocks(names, (numbers >= 21).astype(np.int64))
    assert numbers[order].tolist() == list(range(50))
    assert np.bincount(block).tolist() == [4] * 5 + [1] + [4] * 7 + [1]


def test_large_data_are_sampled_whatever_the_order():
    names = pd.Index([f"c{i}" for i in range(30_000)])
    turned = names[np.random.default_rng(0).permutation(len(names))]
    samples = []
    for index in (names, turned):
        order, block = _sample_blocks(index, np.zeros(len(index), np.int64))
        assert len(order) == len(block) == 600
        samples.append(index[order].tolist())
    assert samples[0] == samples[1]
    assert set(names[_sample_names(names, 10)]) == set(turned[_sample_names(turned, 10)])


OWN = {"rna": "X_own", "atac": "X_own"}


def multiome(n: int = 120, common: int = 120, pairs: bool = True, structure: bool = True, seed: int = 0) -> MuData:
    """Two modalities of n cells, of which some have a name in common, in another order; they share no noise."""
    rng = np.random.default_rng(seed)
    mods = {}
    latent, axes = rng.normal(size=(n, 2)), rng.normal(size=(2, 6))
    for m in ("rna", "atac"):
        z = latent if pairs else rng.normal(size=(n, 2))
        own = z @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(n, 6)) if structure else rng.normal(size=(n, 6))
        names = [f"c{i}" if i < common else f"{m}{i}" for i in range(n)]
        part = AnnData(np.zeros((n, 1), np.float32), obs=pd.DataFrame(index=names))
        part.var_names = [m]
        part.obsm["X_own"] = own.astype(np.float32)
        shared = z @ axes + 0.3 * rng.normal(size=(n, 6)) if structure else rng.normal(size=(n, 6))
        part.obsm["X_shared"] = shared.astype(np.float32)
        mods[m] = part[rng.permutation(n)].copy()
    return MuData(mods)


SETUPS = {
    "own": Setup(OWN, None, separate=True),
    "shared": Setup(None, None, shared_rep="X_shared"),
    "both": Setup(OWN, None, shared_rep="X_shared"),
    "concatenated": Setup(OWN, None, concatenate=True),
}


@pytest.mark.promise("Pairs are found by their names, and are not refused")
@pytest.mark.parametrize("kind", SETUPS)
def test_pairs_of_an_object_are_proved(kind):
    (found,) = compare_pairs(read_rows(multiome(), SETUPS[kind]))
    assert (found.modalities, found.n_pairs, found.complete) == (("rna", "atac"), 120, True)
    assert (found.verdict, found.expected) == ("proved", 0.0)
    assert found.p_value == (0.004 if kind == "both" else 0.002), "with two spaces, chance has two tries"
    assert 0.2 < found.agreement <= 1


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
@pytest.mark.parametrize("kind", SETUPS)
def test_equal_names_of_other_cells_are_refuted(kind):
    (found,) = compare_pairs(read_rows(multiome(400, 400, pairs=False, seed=3), SETUPS[kind]))
    assert (found.n_pairs, found.verdict, found.expected) == (400, "refuted", 0.1)
    assert found.p_value > 0.005
    assert abs(found.agreement) < 0.1


def test_noise_decides_nothing():
    for kind in ("own", "shared", "both"):
        (found,) = compare_pairs(read_rows(multiome(pairs=False, structure=False), SETUPS[kind]))
        assert (found.verdict, found.expected) == ("undecided", 0.0)
    half = multiome(pairs=False)
    half["rna"].obsm["X_own"] = np.random.default_rng(1).normal(size=(120, 6)).astype(np.float32)
    (found,) = compare_pairs(read_rows(half, SETUPS["own"]))
    assert (found.verdict, found.expected) == ("undecided", 0.0)


def test_few_names_refute_nothing(monkeypatch):
    rows = read_rows(multiome(pairs=False), SETUPS["own"])
    for least, verdict in ((120, "refuted"), (121, "undecided")):
        monkeypatch.setattr(_pairing, "_MIN_REFUTED", least)
        assert compare_pairs(rows)[0].verdict == verdict
    assert compare_pairs(rows)[0].expected == 0.1


def test_complete_means_that_both_have_the_same_names():
    mdata = multiome()
    small = MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"][:100].copy()})
    turned = MuData({"rna": mdata["rna"][:100].copy(), "atac": mdata["atac"].copy()})
    for data in (small, turned):
        (found,) = compare_pairs(read_rows(data, SETUPS["own"]))
        assert (found.n_pairs, found.complete, found.verdict) == (100, False, "proved")


def test_modalities_are_compared_two_by_two():
    mdata = multiome()
    third = mdata["atac"].copy()
    third.obs_names = [f"other{i}" for i in range(120)]
    third.var_names = ["third"]
    data = MuData({"third": third, "rna": mdata["rna"].copy(), "atac": mdata["atac"].copy()})
    pairings = compare_pairs(read_rows(data, SETUPS["shared"]))
    assert [found.modalities for found in pairings] == [("rna", "atac")]
    third.obs_names = mdata["atac"].obs_names
    data = MuData({"third": third, "rna": mdata["rna"].copy(), "atac": mdata["atac"].copy()})
    pairings = compare_pairs(read_rows(data, SETUPS["shared"]))
    assert [found.modalities for found in pairings] == [("third", "rna"), ("third", "atac"), ("rna", "atac")]
    assert pairings[1].agreement == pytest.approx(1, abs=1e-5)
    assert compare_pairs(read_rows(multiome(common=0), SETUPS["shared"])) == ()


def test_one_space_that_is_named_twice_is_one_comparison():
    mdata = multiome(pairs=False)
    twice = Setup({"rna": "X_shared", "atac": "X_shared"}, None, shared_rep="X_shared")
    assert compare_pairs(read_rows(mdata, twice)) == compare_pairs(read_rows(mdata, SETUPS["shared"]))


def test_batches_alone_prove_nothing():
    mdata = multiome(pairs=False)
    for part in mdata.mod.values():
        part.obs["batch"] = [f"b{int(name[1:]) % 4}" for name in part.obs_names]
        shift = np.array([int(name[1:]) % 4 for name in part.obs_names])[:, None]
        for key in ("X_own", "X_shared"):
            part.obsm[key] = (part.obsm[key] + 20 * shift).astype(np.float32)
    for setup in SETUPS.values():
        (found,) = compare_pairs(read_rows(mdata, replace(setup, batch_key="batch")))
        assert found.verdict != "proved"


def pairing(verdict="undecided", n_pairs=40, complete=True, p_value=0.3, agreement=0.02) -> Pairing:
    return Pairing(("rna", "atac"), n_pairs, complete, agreement, 0.1, p_value, verdict)


def test_what_is_refuted_is_refused():
    check_pairings([])
    check_pairings([pairing("proved")])
    words = "40 names are in both 'rna' and 'atac', but these pairs agree no better than permuted ones: agreement 0.020"
    for warn in (True, False):
        for concatenated, remedy in ((False, "pass paired=True"), (True, "side by side in mdata.obsm yourself")):
            with pytest.raises(ValueError, match=rf"{re.escape(words)}.*{remedy}"):
                check_pairings([pairing("proved"), pairing("refuted")], warn=warn, concatenated=concatenated)


def caught(*pairings: Pairing, **options: bool) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_pairings(pairings, **options)
    return found


def told(*pairings: Pairing, **options: bool) -> list[str]:
    return [str(item.message) for item in caught(*pairings, **options)]


def test_the_warning_is_at_the_line_of_the_user():
    (found,) = caught(pairing())
    assert (found.filename, found.category) == (__file__, UserWarning)


def test_what_is_not_certain_is_warned_of():
    assert told(pairing("proved"), pairing(n_pairs=4)) == []
    assert told(pairing(), warn=False) == []
    assert len(told(pairing(n_pairs=5), pairing())) == 2
    (text,) = told(pairing())
    assert "The names are taken for pairs. If they are, pass paired=True." in text
    for complete in (True, False):
        (text,) = told(pairing(complete=complete), concatenated=True)
        assert "The names are taken for pairs." in text
        assert "paired=True" not in text
    (text,) = told(pairing(complete=False))
    assert "They are not used to align the modalities" in text
    assert "If they are, pass paired=True." in text


def test_metrics_are_those_of_the_names_that_agree_least():
    assert pairing_metrics(()) == {}
    found = pairing_metrics([pairing(p_value=0.1), pairing(p_value=0.5, n_pairs=7, agreement=0.3), pairing()])
    assert found == {"pairs": 7.0, "pair_agreement": 0.3, "pair_p_value": 0.5}
    assert type(found["pairs"]) is float


def test_batch_means_and_directions():
    x = np.array([[1, 0], [3, 0], [5, 5], [5, 9]], np.float32)
    found = _subtract_batch_means(x, np.array([7, 7, 2, 2]))
    assert found.tolist() == [[-1, 0], [1, 0], [0, -2], [0, 2]]
    assert _directions(x, np.array([0, 0, 1, 1])).tolist() == [[-1, 0], [1, 0], [0, -1], [0, 1]]
    assert _directions(x, np.array([0, 1, 1, 2])).tolist()[0] == [0, 0], "a block of one cell has no direction"
    wide = np.random.default_rng(0).normal(size=(8, 65)).astype(np.float32)
    assert _directions(wide, np.arange(8) // 4).shape == (8, 64)
    assert np.array_equal(_directions(wide, np.arange(8) // 4), _directions(wide, np.arange(8) // 4))
    assert _directions(wide[:, :64], np.arange(8) // 4).shape == (8, 64)


def test_clusters_are_features_of_enough_pairs():
    x, _ = draw(0, 100)
    for n, clusters in ((15, 0), (16, 2), (40, 5), (64, 8), (100, 8)):
        features = _compute_features(x[:n], np.zeros(n, np.int64), np.arange(n) // 4)
        assert (features.shape, features.dtype) == ((n, 6 + clusters), np.float32)
        assert np.array_equal(features[:, :6], _directions(x[:n], np.arange(n) // 4))


def test_permutations_stay_in_their_block_and_the_p_value_counts_them():
    block, orders = np.repeat([0, 1, 2], [4, 4, 1]), []

    def statistic(order):
        orders.extend(order)
        return (order == np.arange(9)).mean(axis=1)

    found = _test(statistic, block, 1.0)
    *permuted, own = np.array(orders)
    assert len(permuted) == 499
    assert own.tolist() == list(range(9))
    assert all((block[order] == block).all() for order in permuted)
    same = sum((order == own).all() for order in permuted)
    assert found.p_value == (1 + same) / 500
    share = np.mean([(order == own).mean() for order in permuted])
    assert found.agreement == pytest.approx(1), "the largest value is 1"
    assert found.deviation == pytest.approx(np.std([(o == own).mean() for o in permuted]) / (1 - share))
    assert len({tuple(order) for order in permuted}) > 200
    half = _test(lambda order: statistic(order) / 2, block, 1.0)
    assert half.agreement == pytest.approx((0.5 - share / 2) / (1 - share / 2))


def test_the_limits_of_the_samples(monkeypatch):
    names = pd.Index([f"c{i}" for i in range(50)])
    assert _sample_names(names, 50).tolist() == list(range(50))
    assert len(_sample_names(names, 49)) == 49
    monkeypatch.setattr(_pairing, "_MAX_BLOCKS", 5)
    order, block = _sample_blocks(names, np.zeros(50, np.int64))
    assert block.tolist() == sorted(block)
    assert np.bincount(block).tolist() == [4, 4, 4, 4, 2], "the first and the last block are among them"
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert order[-2:].tolist() == [48, 49]
    monkeypatch.setattr(_pairing, "_MAX_NAMES", 8)
    order, block = _sample_blocks(names, np.zeros(50, np.int64))
    assert np.bincount(block).tolist() == [4, 4]
    assert order.tolist() == sorted(_sample_names(names, 8).tolist())
