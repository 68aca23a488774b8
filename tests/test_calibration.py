"""Calibration: simulated candidates whose probabilities are known."""

import numpy as np
import pytest
from scipy.special import expit

from cellsegmenter.recognition.calibration import (
    Calibration,
    Evidence,
    JudgedCandidates,
    fit_calibration,
    log_odds,
)


def evidence(n: int, rng: np.random.Generator) -> Evidence:
    return Evidence(rng.normal(0.5, 2, n), rng.uniform(0.03, 0.97, n), rng.uniform(0.1, 4, n))


def simulated(truth: Calibration, n_images: int, n: int, seed: int = 0) -> list[JudgedCandidates]:
    """Images of n candidates each, which are right with the probability that `truth` says."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n_images):
        seen = evidence(n, rng)
        logit = log_odds(truth, seen) + truth.spread * rng.standard_normal()
        images.append(JudgedCandidates(seen, rng.random(n) < expit(logit)))
    return images


def test_log_odds_are_the_formula():
    calibration = Calibration(0.3, 0.7, 0.5, 1.1, 0.4)
    seen = Evidence(np.array([1.0, -2.0]), np.array([0.8, 0.1]), np.array([2.0, 0.5]))
    expected = (
        0.3
        + 0.7 * seen.score
        + 0.5 * np.log(seen.witness / (1 - seen.witness))
        + 1.1 * np.log(1 - np.exp(-seen.contrast))
    )
    np.testing.assert_allclose(log_odds(calibration, seen), expected)


def test_the_surest_witness_has_no_infinite_weight():
    seen = Evidence(np.zeros(4), np.array([0.0, 1.0, 0.5, 0.5]), np.array([1.0, 1.0, 0.0, -3.0]))
    odds = log_odds(Calibration(0.0, 1.0, 1.0, 1.0, 0.0), seen)
    assert np.isfinite(odds).all()
    assert odds[1] > odds[0]
    assert odds[2] == odds[3]


def test_the_identity_takes_scores_as_they_are():
    seen = evidence(20, np.random.default_rng(0))
    np.testing.assert_array_equal(log_odds(Calibration.identity(), seen), seen.score)


@pytest.mark.parametrize(
    "truth", [Calibration(-0.8, 0.6, 0.9, 0.7, 0.0), Calibration(1.0, 1.4, 0.2, 1.5, 0.0)]
)
def test_a_known_model_is_found_again(truth):
    fitted = fit_calibration([simulated(truth, 100, 100), simulated(truth, 100, 100, seed=1)])
    np.testing.assert_allclose(fitted[:4], truth[:4], atol=0.15)
    assert fitted.spread <= 0.25


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_the_spread_of_images_is_found_again(spread):
    truth = Calibration(0.0, 0.8, 0.5, 0.0, spread)
    fitted = fit_calibration([simulated(truth, 150, 60)])
    assert abs(fitted.spread - spread) <= 0.25
    # What images have in common makes single candidates less sure.
    assert 0.5 * truth.of_score < fitted.of_score < 1.1 * truth.of_score


def test_fitted_probabilities_are_frequencies():
    truth = Calibration(-0.5, 0.5, 0.7, 0.4, 0.0)
    fitted = fit_calibration([simulated(truth, 60, 100)])
    new = simulated(truth, 200, 100, seed=5)
    prob = np.concatenate([expit(log_odds(fitted, image.evidence)) for image in new])
    right = np.concatenate([image.right for image in new])
    for low in np.arange(0, 1, 0.2):
        bin_ = (prob >= low) & (prob < low + 0.2)
        assert right[bin_].mean() == pytest.approx(prob[bin_].mean(), abs=0.05)


def test_kinds_of_images_count_the_same_however_many_they_are():
    often, seldom = Calibration(1.5, 0.0, 0.0, 0.0, 0.0), Calibration(-1.5, 0.0, 0.0, 0.0, 0.0)
    fitted = fit_calibration([simulated(often, 10, 100), simulated(seldom, 200, 100, seed=1)])
    assert fitted.bias == pytest.approx(0, abs=0.25)
    alone = fit_calibration([simulated(often, 10, 100) + simulated(seldom, 200, 100, seed=1)])
    assert alone.bias < -1


def test_nothing_right_or_nothing_wrong_is_the_identity():
    seen = evidence(30, np.random.default_rng(0))
    empty = JudgedCandidates(evidence(0, np.random.default_rng(0)), np.zeros(0, bool))
    for groups in (
        [],
        [[], []],
        [[empty], []],
        [[JudgedCandidates(seen, np.ones(30, bool))]],
        [[JudgedCandidates(seen, np.zeros(30, bool))], [empty]],
    ):
        assert fit_calibration(groups) == Calibration.identity()


def test_images_without_candidates_are_left_out():
    images = simulated(Calibration(-0.3, 0.8, 0.5, 0.2, 0.5), 20, 40)
    empty = JudgedCandidates(evidence(0, np.random.default_rng(0)), np.zeros(0, bool))
    assert fit_calibration([[empty, *images], [empty]]) == fit_calibration([images])
