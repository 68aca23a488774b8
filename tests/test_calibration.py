"""Calibration: simulated candidates whose probabilities are known, and intervals of simulated counts."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from cellsegmenter.recognition.calibration import (
    Calibration,
    Evidence,
    JudgedCandidates,
    count_interval,
    fit_calibration,
    fit_stretch,
    log_odds,
)

LEVEL = 0.9


def evidence(n: int, rng: np.random.Generator) -> Evidence:
    return Evidence(rng.normal(0.5, 2, n), rng.uniform(0.03, 0.97, n), rng.uniform(0.1, 8, n))


def simulated(truth: Calibration, n_images: int, n: int, seed: int = 0) -> list[JudgedCandidates]:
    """Images of n candidates each, which are right with the probability that `truth` says."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n_images):
        seen = evidence(n, rng)
        prob = expit(log_odds(truth, seen))
        images.append(JudgedCandidates(seen, (rng.random(n) < prob).astype(float)))
    return images


def test_log_odds_are_the_formula():
    calibration = Calibration(0.3, 0.7, 0.5, 1.4)
    seen = Evidence(np.array([1.0, -2.0]), np.array([0.8, 0.1]), np.array([2.0, 0.5]))
    quality = 2 * np.log(expit(seen.score)) + np.log(seen.contrast) / 2
    np.testing.assert_allclose(log_odds(calibration, seen), 0.3 + 0.7 * quality + 0.5 * logit(seen.witness))


def test_no_witness_and_no_contrast_has_infinite_weight():
    seen = Evidence(np.zeros(4), np.array([0.0, 1.0, 0.5, 0.5]), np.array([1.0, 1.0, 0.0, -3.0]))
    odds = log_odds(Calibration(0.0, 1.0, 1.0, 1.0), seen)
    assert np.isfinite(odds).all()
    assert odds[1] > odds[0]
    assert odds[2] == odds[3]


@pytest.mark.parametrize("truth", [Calibration(1.2, 0.6, 0.9, 1.0), Calibration(2.0, 1.4, 0.2, 1.0)])
def test_a_known_model_is_found_again(truth):
    fitted = fit_calibration(simulated(truth, 200, 100))
    np.testing.assert_allclose(fitted, truth, atol=0.15)
    assert fitted.stretch == 1


def test_opinions_say_more_than_truths():
    truth = Calibration(1.2, 0.6, 0.9, 1.0)
    images = simulated(truth, 4, 100)
    unsure = [image._replace(right=expit(log_odds(truth, image.evidence))) for image in images]
    np.testing.assert_allclose(fit_calibration(unsure), truth, atol=0.05)
    assert np.abs(np.subtract(fit_calibration(images), truth)).max() > 0.05


def test_no_evidence_speaks_against_an_object():
    misled = [image._replace(right=1 - image.right) for image in simulated(Calibration(0.5, 1, 1, 1), 20, 50)]
    fitted = fit_calibration(misled)
    assert fitted.of_quality == fitted.of_witness == 0
    right = np.concatenate([image.right for image in misled])
    assert expit(fitted.bias) == pytest.approx(right.mean(), abs=1e-3)


def test_fitted_probabilities_are_frequencies():
    truth = Calibration(1.5, 0.5, 0.7, 1.0)
    fitted = fit_calibration(simulated(truth, 60, 100))
    new = simulated(truth, 200, 100, seed=5)
    prob = np.concatenate([expit(log_odds(fitted, image.evidence)) for image in new])
    right = np.concatenate([image.right for image in new])
    for low in np.arange(0, 1, 0.2):
        chosen = (prob >= low) & (prob < low + 0.2)
        assert right[chosen].mean() == pytest.approx(prob[chosen].mean(), abs=0.05)


def test_nothing_right_or_nothing_wrong_is_the_usual():
    rng = np.random.default_rng(0)
    seen, empty = evidence(30, rng), JudgedCandidates(evidence(0, rng), np.zeros(0))
    for images in (
        [],
        [empty],
        [JudgedCandidates(seen, np.ones(30))],
        [JudgedCandidates(seen, np.zeros(30)), empty],
    ):
        assert fit_calibration(images) == Calibration.usual()


def test_images_without_candidates_are_left_out():
    images = simulated(Calibration(1.0, 0.8, 0.5, 1.0), 20, 40)
    empty = JudgedCandidates(evidence(0, np.random.default_rng(0)), np.zeros(0))
    assert fit_calibration([empty, *images, empty]) == fit_calibration(images)


# The interval of the count


def interval_by_sorting(counts, level: float, stretch: float) -> tuple[int, int]:
    """The order statistics nearest to the two tails, each count with one added taken times the stretch."""
    ordered = sorted(int(count) for count in counts)
    tail = (1 - level) / 2
    low, high = (
        ordered[min(max(round(len(ordered) * part), 1), len(ordered)) - 1] for part in (tail, 1 - tail)
    )
    low, high = (low + 1) / stretch - 1, (high + 1) * stretch - 1
    return max(0, math.floor(low)), math.ceil(high)


@pytest.mark.parametrize("stretch", [1.0, 1.2, 3.0])
@pytest.mark.parametrize("level", [0.5, 0.87, 0.9, 1.0])
@pytest.mark.parametrize("n_samples", [1, 2, 7, 32, 200])
def test_the_interval_is_that_of_the_order_statistics(n_samples, level, stretch):
    rng = np.random.default_rng(n_samples)
    for mean in (0.5, 6, 300):
        counts = rng.poisson(mean, n_samples)
        assert count_interval(counts, level, stretch) == interval_by_sorting(counts, level, stretch)


def test_an_interval_is_of_whole_numbers_and_not_below_zero():
    assert count_interval(np.array([0, 0, 1]), LEVEL, 5.0) == (0, 9)
    assert count_interval(np.array([19, 19]), LEVEL, 1.0) == (19, 19)
    assert count_interval(np.array([19, 19]), LEVEL, 1.25) == (15, 24)
    for bound in count_interval(np.array([3, 8]), LEVEL, 1.5):
        assert isinstance(bound, int)


def counts_of_images(n: int, seed: int, excess: float = 0.1):
    """Samples that miss a tenth of the objects, more or less, of n images; and the true numbers."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 120, n)
    seen = true / (1 + excess * np.abs(rng.standard_normal(n)))
    return [rng.poisson(mean, 64) for mean in seen], true.tolist()


def share_held(counts, expected, stretch: float) -> float:
    intervals = [count_interval(of_image, LEVEL, stretch) for of_image in counts]
    return float(np.mean([low <= n <= high for (low, high), n in zip(intervals, expected, strict=True)]))


@pytest.mark.parametrize("n_images", [9, 10, 30, 101])
@pytest.mark.parametrize("seed", range(3))
def test_the_stretch_is_the_least_that_holds_enough(n_images, seed):
    counts, expected = counts_of_images(n_images, seed, excess=0.5)
    stretch = fit_stretch(counts, expected, LEVEL)
    wanted = min(math.ceil(LEVEL * (n_images + 1)), n_images) / n_images
    assert stretch > 1
    assert share_held(counts, expected, stretch) >= wanted
    # Whole numbers round outwards, so that a bit less of it may do.
    exact = [
        (np.array(count_interval(of_image, LEVEL, 1.0)) + 1) / (true + 1)
        for of_image, true in zip(counts, expected, strict=True)
    ]
    needed = np.sort([max(low, 1 / high, 1) for low, high in exact])
    assert stretch == pytest.approx(needed[math.ceil(wanted * n_images - 1e-9) - 1])


def test_the_next_image_is_held_as_often_as_claimed():
    held, plain = [], []
    for seed in range(60):
        counts, expected = counts_of_images(21, seed, excess=0.4)
        stretch = fit_stretch(counts[:-1], expected[:-1], LEVEL)
        new_counts, new_expected = counts_of_images(40, 1000 + seed, excess=0.4)
        held.append(share_held(new_counts, new_expected, stretch))
        plain.append(share_held(new_counts, new_expected, 1.0))
    assert np.mean(held) > LEVEL - 0.02
    assert np.mean(plain) < 0.7


def test_an_interval_that_holds_all_is_not_stretched():
    counts = [np.arange(10, 20)] * 12
    assert fit_stretch(counts, [15] * 12, LEVEL) == 1
    # One image in twelve may be missed, but not two.
    assert (
        fit_stretch(counts, [15] * 11 + [39], LEVEL) == fit_stretch(counts, [15] * 10 + [39] * 2, LEVEL) == 2
    )
    assert fit_stretch([*counts] * 2, [15] * 23 + [39], LEVEL) == 1


def test_without_images_the_stretch_is_the_usual():
    assert fit_stretch([], [], LEVEL) == Calibration.usual().stretch
    with pytest.raises(ValueError, match="argument"):
        fit_stretch([np.zeros(3, int)], [], LEVEL)
