"""Calibration: simulated candidates whose probabilities are known."""

import numpy as np
import pytest
from scipy.special import expit, logit

from cellsegmenter.recognition.calibration import (
    Calibration,
    Evidence,
    JudgedCandidates,
    fit_calibration,
    log_odds,
)


def evidence(n: int, rng: np.random.Generator) -> Evidence:
    return Evidence(rng.normal(0.5, 2, n), rng.uniform(0.03, 0.97, n), rng.uniform(0.1, 8, n))


def simulated(truth: Calibration, n_images: int, n: int, seed: int = 0) -> list[JudgedCandidates]:
    """Images of n candidates each, which are right with the probability that `truth` says."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n_images):
        seen = evidence(n, rng)
        odds = log_odds(truth, seen) + truth.spread * rng.standard_normal()
        images.append(JudgedCandidates(seen, (rng.random(n) < expit(odds)).astype(float)))
    return images


def test_log_odds_are_the_formula():
    calibration = Calibration(0.3, 0.7, 0.5, 0.4)
    seen = Evidence(np.array([1.0, -2.0]), np.array([0.8, 0.1]), np.array([2.0, 0.5]))
    quality = 2 * np.log(expit(seen.score)) + np.log(seen.contrast) / 2
    np.testing.assert_allclose(log_odds(calibration, seen), 0.3 + 0.7 * quality + 0.5 * logit(seen.witness))


def test_no_witness_and_no_contrast_has_infinite_weight():
    seen = Evidence(np.zeros(4), np.array([0.0, 1.0, 0.5, 0.5]), np.array([1.0, 1.0, 0.0, -3.0]))
    odds = log_odds(Calibration(0.0, 1.0, 1.0, 0.0), seen)
    assert np.isfinite(odds).all()
    assert odds[1] > odds[0]
    assert odds[2] == odds[3]


@pytest.mark.parametrize("truth", [Calibration(1.2, 0.6, 0.9, 0.0), Calibration(2.0, 1.4, 0.2, 0.0)])
def test_a_known_model_is_found_again(truth):
    fitted = fit_calibration(simulated(truth, 200, 100))
    np.testing.assert_allclose(fitted[:3], truth[:3], atol=0.15)
    assert fitted.spread <= 0.25


def test_opinions_say_more_than_truths():
    truth = Calibration(1.2, 0.6, 0.9, 0.0)
    images = simulated(truth, 4, 100)
    unsure = [image._replace(right=expit(log_odds(truth, image.evidence))) for image in images]
    fitted = fit_calibration(unsure)
    np.testing.assert_allclose(fitted[:3], truth[:3], atol=0.05)
    assert fitted.spread == 0
    assert np.abs(np.subtract(fit_calibration(images), truth)).max() > 0.05


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_the_spread_of_images_is_found_again(spread):
    truth = Calibration(1.0, 0.8, 0.5, spread)
    fitted = fit_calibration(simulated(truth, 150, 60))
    assert abs(fitted.spread - spread) <= 0.25
    # What images have in common makes single candidates less sure.
    assert 0.5 * truth.of_quality < fitted.of_quality < 1.15 * truth.of_quality


def test_fitted_probabilities_are_frequencies():
    truth = Calibration(1.5, 0.5, 0.7, 0.0)
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
    images = simulated(Calibration(1.0, 0.8, 0.5, 0.5), 20, 40)
    empty = JudgedCandidates(evidence(0, np.random.default_rng(0)), np.zeros(0))
    assert fit_calibration([empty, *images, empty]) == fit_calibration(images)
