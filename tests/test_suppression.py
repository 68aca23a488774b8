"""Suppression in rounds against suppression one by one, and the pairs it looks at against all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import greedy_suppression

from cellsegmenter.recognition.stars import N_RAYS, Stars, areas, intersection_over_minimum
from cellsegmenter.recognition.suppression import Pairs, overlapping_pairs, suppress


def pairs_of(first, second, share=None) -> Pairs:
    share = np.ones(len(first)) if share is None else share
    return Pairs(np.asarray(first, int), np.asarray(second, int), share, share)


def one_by_one(rank: np.ndarray, active: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The best that is left stays, and those that it overlaps go, until none is left."""
    n = len(rank)
    overlap = np.zeros((n, n))
    overlap[pairs.first, pairs.second] = overlap[pairs.second, pairs.first] = 1
    kept = np.zeros_like(active)
    for sample in range(rank.shape[1]):
        index = np.flatnonzero(active[:, sample])
        stay = greedy_suppression(-rank[index, sample], overlap[np.ix_(index, index)], 0.5)
        kept[index[stay], sample] = True
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), density=st.floats(0, 0.6))
def test_it_is_greedy_in_every_sample(seed, n, density):
    rng = np.random.default_rng(seed)
    n_samples = 5
    rank = np.argsort(rng.random((n, n_samples)), axis=0)
    active = rng.random((n, n_samples)) < 0.7
    first, second = np.triu_indices(n, 1)
    chosen = rng.random(len(first)) < density
    swap = rng.random(len(first)) < 0.5  # a pair may be written either way
    first, second = np.where(swap, second, first)[chosen], np.where(swap, first, second)[chosen]
    pairs = pairs_of(first, second)
    before = active.copy()
    np.testing.assert_array_equal(suppress(rank, active, pairs), one_by_one(rank, active, pairs))
    np.testing.assert_array_equal(active, before)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_is_decided_from_its_best_end(reverse):
    n = 201
    rank = np.arange(n)[:, None]
    rank = rank[::-1].copy() if reverse else rank
    kept = suppress(rank, np.ones((n, 1), bool), pairs_of(np.arange(n - 1), np.arange(1, n)))
    np.testing.assert_array_equal(np.flatnonzero(kept[:, 0]), np.arange(0, n, 2))


def test_without_candidates_or_pairs_everything_active_stays():
    nothing = pairs_of([], [])
    assert suppress(np.zeros((0, 3), int), np.zeros((0, 3), bool), nothing).shape == (0, 3)
    active = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(suppress(np.array([[0, 1], [1, 0]]), active, nothing), active)


def stars_of_sizes(n: int, seed: int, sizes=(1.0, 25.0), spread: float = 60.0) -> Stars:
    rng = np.random.default_rng(seed)
    radius = np.exp(rng.uniform(*np.log(sizes), n))
    radii = radius[:, None] * rng.uniform(0.75, 1.2, (n, N_RAYS))
    return Stars(rng.uniform(0, spread, (n, 2)).astype(np.float32), radii.astype(np.float32))


def table(first, second, *values) -> dict:
    """{(lower, higher index): values}; each pair once."""
    low, high = np.minimum(first, second).tolist(), np.maximum(first, second).tolist()
    found = dict(zip(zip(low, high, strict=True), zip(*values, strict=True), strict=True))
    assert len(found) == len(first)
    return found


@pytest.mark.parametrize("least", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_are_all_that_overlap(seed, least):
    stars = stars_of_sizes(120, seed)
    reach = stars.radii.max(axis=1)
    assert reach.max() > 20 * reach.min()
    first, second = np.triu_indices(120, 1)
    share = intersection_over_minimum(stars, first, second)
    area = areas(stars)
    common = share * np.minimum(area[first], area[second])
    over_union = common / (area[first] + area[second] - common)
    kept = share > least
    expected = table(first[kept], second[kept], share[kept], over_union[kept])
    pairs = overlapping_pairs(stars, least)
    found = table(*pairs)
    assert len(expected) > 100
    assert found.keys() == expected.keys()
    for pair in found:
        np.testing.assert_allclose(found[pair], expected[pair], rtol=1e-5)


def test_a_giant_overlaps_all_that_it_covers():
    small = stars_of_sizes(50, 4, sizes=(1.0, 1.5), spread=40)
    giant = Stars(np.full((1, 2), 20, np.float32), np.full((1, N_RAYS), 60, np.float32))
    stars = Stars(*(np.concatenate([parts, whole]) for parts, whole in zip(small, giant, strict=True)))
    pairs = overlapping_pairs(stars, 0.9)
    with_giant = (pairs.first == 50) | (pairs.second == 50)
    others = np.where(pairs.first == 50, pairs.second, pairs.first)[with_giant]
    np.testing.assert_array_equal(np.sort(others), np.arange(50))
    np.testing.assert_allclose(pairs.over_minimum[with_giant], 1, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_few_stars_have_no_pairs(n):
    pairs = overlapping_pairs(stars_of_sizes(5, 0).take(np.arange(n)), 0.4)
    assert [len(values) for values in pairs] == [0] * 4
    rank, active = np.zeros((n, 2), int), np.ones((n, 2), bool)
    np.testing.assert_array_equal(suppress(rank, active, pairs), active)


def test_equal_stars_are_one_pair():
    star = stars_of_sizes(1, 0)
    pairs = overlapping_pairs(star.take(np.array([0, 0])), 0.4)
    assert sorted([*pairs.first, *pairs.second]) == [0, 1]
    np.testing.assert_allclose([*pairs.over_minimum, *pairs.over_union], 1, atol=1e-6)


def test_pairs_above_a_share():
    pairs = pairs_of([0, 1, 2], [3, 4, 5], np.array([0.3, 0.5, 0.7]))
    np.testing.assert_array_equal(pairs.above(0.5).first, [2])
    np.testing.assert_array_equal(pairs.above(0.2).second, [3, 4, 5])
