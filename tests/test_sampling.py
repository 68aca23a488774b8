"""Posterior samples of a whole image: how often a candidate is on, alone, beside others and as a duplicate."""

import numpy as np
import pytest
from reference import best_of_views_by_loop
from scipy import stats
from scipy.special import expit

from cellsegmenter.recognition.calibration import Calibration, Evidence, log_odds
from cellsegmenter.recognition.candidates import Candidates
from cellsegmenter.recognition.sampling import (
    OVERLAP,
    best_of_views,
    most_probable,
    sample_candidates,
    sample_presence,
    stratified_at,
)
from cellsegmenter.recognition.stars import N_RAYS, Stars, intersection_over_minimum
from cellsegmenter.recognition.suppression import overlapping_pairs


def discs(*places: tuple[float, float, float]) -> Stars:
    """Round stars (row, column, radius)."""
    place = np.array(places, np.float32).reshape(-1, 3)
    return Stars(place[:, :2], np.repeat(place[:, 2:], N_RAYS, axis=1))


def lattice(n: int, pitch: float = 20.0, radius: float = 5.0) -> Stars:
    """n discs that do not touch."""
    row, column = np.divmod(np.arange(n), 40)
    return discs(*zip(pitch * row + 10.5, pitch * column + 10.5, np.full(n, radius), strict=True))


def sampled(stars: Stars, logit, *, n_samples: int = 4000, seed: int = 0) -> np.ndarray:
    logit = np.broadcast_to(np.asarray(logit, float), len(stars.centre))
    pairs = overlapping_pairs(stars, OVERLAP)
    return sample_presence(stars, logit, pairs, n_samples=n_samples, seed=seed).present


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_a_lone_candidate_is_on_with_its_probability(logit):
    on = sampled(discs((30.5, 40.5, 6)), logit, n_samples=40000)
    assert on.shape == (1, 40000)
    deviation = np.sqrt(expit(logit) * (1 - expit(logit)) / 40000)
    assert on.mean() == pytest.approx(expit(logit), abs=4 * deviation)


def test_candidates_that_are_apart_are_independent():
    on = sampled(lattice(30), np.linspace(-1, 1, 30))
    correlation = np.corrcoef(on.astype(float))[np.triu_indices(30, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    of_places = sampled(lattice(400), 0.3, n_samples=50)
    assert of_places.mean() == pytest.approx(expit(0.3), abs=4 * 0.5 / np.sqrt(400 * 50))


def test_duplicates_do_not_make_an_object_more_probable():
    logit = np.array([0.2, 0.0, -0.4, 0.1])
    twins = discs((20.5, 20.5, 6), (20.5, 22.5, 6), (22.5, 20.5, 6), (21.5, 21.5, 6))
    on = sampled(twins, logit, n_samples=40000)
    assert on.sum(axis=0).max() == 1
    assert on.any(axis=0).mean() == pytest.approx(expit(0.2), abs=4 * 0.5 / np.sqrt(40000))
    # The same number decides, so that the best one is on whenever any is.
    assert on[0].mean() == on.any(axis=0).mean()


def test_of_a_conflicting_pair_one_is_on_at_most():
    # Neighbours that claim too much of each other, but are not the same object.
    pair = discs((20.5, 20.5, 6), (20.5, 25.5, 6))
    pairs = overlapping_pairs(pair, OVERLAP)
    assert len(pairs.first) == 1
    assert pairs.over_union[0] < 0.5
    on = sampled(pair, [0.5, 0.0], n_samples=40000)
    assert on.sum(axis=0).max() == 1
    # Each has noise of its own, so that either may win.
    either = 1 - (1 - expit(0.5)) * (1 - expit(0.0))
    assert on.any(axis=0).mean() == pytest.approx(either, abs=0.01)
    assert on[0].mean() > on[1].mean() > 0.1


def test_neighbours_that_overlap_little_are_both_on():
    on = sampled(discs((20.5, 20.5, 6), (20.5, 29.5, 6)), 8.0)
    assert on.all(axis=0).mean() > 0.99


def test_counts_vary_as_those_of_coins():
    # A candidate's samples are stratified, but those of one sample are independent.
    prob = np.linspace(0.1, 0.9, 200)
    counts = sampled(lattice(200), np.log(prob / (1 - prob))).sum(axis=0)
    assert counts.mean() == pytest.approx(prob.sum(), abs=0.1)
    assert counts.std() == pytest.approx(np.sqrt((prob * (1 - prob)).sum()), rel=0.05)


def crowd(seed: int = 0, n: int = 150) -> tuple[Stars, np.ndarray]:
    """Candidates on the points of a grid of 2 px, many of them in conflict."""
    rng = np.random.default_rng(seed)
    place = rng.choice(50 * 50, n, replace=False)
    centre = np.stack(np.divmod(place, 50), axis=1) * 2 + 0.5
    radii = rng.uniform(4, 8, (n, 1)) * rng.uniform(0.9, 1.1, (n, N_RAYS))
    return Stars(centre.astype(np.float32), radii.astype(np.float32)), rng.normal(0, 1.5, n)


def test_the_order_of_candidates_is_no_matter():
    stars, logit = crowd()
    on = sampled(stars, logit, n_samples=64)
    order = np.random.default_rng(1).permutation(len(logit))
    np.testing.assert_array_equal(sampled(stars.take(order), logit[order], n_samples=64), on[order])
    best = most_probable(logit, overlapping_pairs(stars, OVERLAP))
    of_order = most_probable(logit[order], overlapping_pairs(stars.take(order), OVERLAP))
    for ours, theirs in zip(of_order, best, strict=True):
        np.testing.assert_array_equal(ours, theirs[order])


def test_what_is_elsewhere_changes_nothing():
    stars, logit = crowd()
    far, logit_far = crowd(1)
    both = Stars(
        np.concatenate([far.centre + np.float32([0, 300]), stars.centre]),
        np.concatenate([far.radii, stars.radii]),
    )
    together = sampled(both, np.concatenate([logit_far, logit]), n_samples=64)
    np.testing.assert_array_equal(together[len(far.radii) :], sampled(stars, logit, n_samples=64))


def test_samples_are_those_of_the_seed():
    stars, logit = crowd()
    first, again, other = (sampled(stars, logit, n_samples=32, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_numbers_of_places_are_uniform(seed):
    centre = np.stack(np.meshgrid(np.arange(0.5, 100), np.arange(0.5, 100), indexing="ij"), -1).reshape(-1, 2)
    uniform = stratified_at(centre.astype(np.float32), 4, seed)
    np.testing.assert_array_equal(np.sort(np.floor(4 * uniform), axis=1), np.tile(np.arange(4), (10000, 1)))
    assert ((uniform > 0) & (uniform < 1)).all()
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert len(np.unique(uniform)) == uniform.size
    field = uniform.reshape(100, 100, 4)
    for neighbour in (np.roll(field, 1, 0), np.roll(field, 1, 1)):
        assert abs(np.corrcoef(field.ravel(), neighbour.ravel())[0, 1]) < 0.02


def test_the_most_probable_are_the_best_above_a_half():
    stars = discs((20.5, 20.5, 6), (20.5, 22.5, 6), (60.5, 60.5, 6), (60.5, 90.5, 6))
    pairs = overlapping_pairs(stars, OVERLAP)
    logit = np.array([1.0, 2.0, -0.1, 0.1])
    best = most_probable(logit, pairs)
    np.testing.assert_array_equal(best.present[:, 0], [False, True, False, True])
    np.testing.assert_allclose(best.prob, expit(logit) * [0, 1, 0, 1])


@pytest.mark.parametrize("n_samples", [1, 7, 32])
@pytest.mark.parametrize("prob", [0.03, 0.4, 0.9])
def test_a_lone_candidate_is_on_in_its_share_of_few_samples(n_samples, prob):
    on = sampled(lattice(300), np.log(prob / (1 - prob)), n_samples=n_samples)
    expected = prob * n_samples
    assert np.isin(on.sum(axis=1), [np.floor(expected), np.ceil(expected)]).all()
    # Which samples these are differs from candidate to candidate.
    deviation = np.sqrt(prob * (1 - prob) / (300 * n_samples))
    assert on.mean() == pytest.approx(prob, abs=4 * deviation)
    assert np.abs(on.mean(axis=0) - prob).max() < 4.5 * np.sqrt(prob * (1 - prob) / 300)


def test_probabilities_are_what_many_samples_tend_to():
    stars, logit = crowd()
    pairs = overlapping_pairs(stars, OVERLAP)
    few, many = (sample_presence(stars, logit, pairs, n_samples=n, seed=0) for n in (32, 20000))
    share = many.present.mean(axis=1)
    np.testing.assert_allclose(many.prob, share, atol=0.01)
    # Of few samples, probabilities are no worse than shares.
    assert np.abs(few.prob - share).mean() <= np.abs(few.present.mean(axis=1) - share).mean() + 1e-3


def test_an_image_without_candidates_has_empty_samples():
    assert sampled(discs(), np.zeros(0), n_samples=5).shape == (0, 5)


@pytest.mark.parametrize("n_samples", [None, 1, 20])
def test_candidates_are_sampled_by_their_evidence(n_samples):
    stars, _ = crowd()
    rng = np.random.default_rng(2)
    n = len(stars.radii)
    evidence = Evidence(rng.normal(0, 2, n), rng.uniform(0, 1, n), rng.uniform(0, 4, n))
    calibration = Calibration(1.0, 0.8, 0.5, 3.0)
    found = sample_candidates(
        Candidates(stars, evidence, np.zeros((n, 2))), calibration, n_samples=n_samples, seed=4
    )
    logit, pairs = log_odds(calibration, evidence), overlapping_pairs(stars, OVERLAP)
    expected = (
        most_probable(logit, pairs)
        if n_samples is None
        else sample_presence(stars, logit, pairs, n_samples=n_samples, seed=4)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.present.shape == (n, n_samples or 1)


# --- several views --------------------------------------------------------------------------------------


def candidates(stars: Stars, seed: int) -> Candidates:
    """With scores, and codes that tell each from the others."""
    rng = np.random.default_rng(seed)
    n = len(stars.centre)
    evidence = Evidence(rng.normal(0, 2, n), rng.random(n), rng.uniform(1, 20, n))
    return Candidates(stars, evidence, 1000.0 * seed + np.arange(n)[:, None])


def crowded_view(n: int, radius: float, seed: int) -> Candidates:
    rng = np.random.default_rng(seed)
    places = np.column_stack([rng.uniform(0, 80, (n, 2)), radius * rng.uniform(0.7, 1.3, n)])
    return candidates(discs(*places), seed)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (30, 12), (60, 20, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_of_several_views_the_better_candidate_stays(sizes, seed):
    calibration = Calibration.usual()
    views = [
        crowded_view(n, radius, 10 * seed + radius) for n, radius in zip(sizes, (4, 9, 20), strict=False)
    ]
    found = best_of_views(views, calibration)
    stars = Stars(*(np.concatenate(part) for part in zip(*(view.stars for view in views), strict=True)))
    z_what = np.concatenate([view.z_what for view in views])
    score = np.concatenate([log_odds(calibration, view.evidence) for view in views])
    n = sum(sizes)
    first, second = (index.ravel() for index in np.indices((n, n)))
    overlap = intersection_over_minimum(stars, first, second).reshape(n, n)
    kept = best_of_views_by_loop(np.repeat(np.arange(len(sizes)), sizes), score, overlap, OVERLAP)
    assert len(kept) < n or n < 2
    assert sorted(found.z_what.ravel()) == sorted(z_what[kept].ravel())
    # In order of their places, whichever view they come from.
    row, column = found.stars.centre.T
    np.testing.assert_array_equal(np.lexsort((column, row)), np.arange(len(kept)))


def test_candidates_of_one_view_do_not_compete_before_they_are_sampled():
    view = crowded_view(60, 5, 0)
    assert len(overlapping_pairs(view.stars, OVERLAP).first) > 10
    found = best_of_views([view], Calibration.usual())
    assert sorted(found.z_what.ravel()) == sorted(view.z_what.ravel())
    # Nor do those of another view that are somewhere else.
    far = view._replace(stars=view.stars._replace(centre=view.stars.centre + 500), z_what=view.z_what + 0.5)
    assert len(best_of_views([view, far], Calibration.usual()).z_what) == 120


def test_the_parts_of_a_large_object_and_a_group_of_small_ones_lose_to_what_is_there():
    fine = discs((50, 46, 4), (50, 54, 4), (20, 20, 4), (20, 29, 4))
    coarse = discs((50, 50, 10), (20, 24.5, 10))

    def of(stars, score):
        n = len(score)
        return Candidates(
            stars, Evidence(np.array(score), np.full(n, 0.5), np.full(n, 5.0)), np.arange(n)[:, None]
        )

    views = [of(fine, [0.5, 0.4, 2.0, 1.8]), of(coarse, [3.0, 1.0])]
    found = best_of_views(views, Calibration(0, 1, 0, 1))
    np.testing.assert_array_equal(found.stars.centre, [(20, 20), (20, 29), (50, 50)])
