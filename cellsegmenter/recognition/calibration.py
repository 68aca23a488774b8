"""From what is known of a candidate to the probability that it is an object.

A network's score s ranks its objects, but its 0.9 is no 90 %.  An object stands out from its surroundings by some
contrast q.  And the generative model is another witness: it saw the same image and learned from another objective, and
gives a probability w that an object is there.  So the log-odds are

    bias + a · (2 log s + 1/2 log q) + b · logit(w).

The form in brackets ranked best among simple ones (57 training images of nuclei, right or wrong by their annotation,
AUROC: s alone .84, q alone .82, the brackets .88).  The three numbers are fitted without an
annotation, on training images that gave the network no real crop, by what the teacher says of each candidate.

Samples know nothing of objects that nothing proposes.  So the interval of the count is stretched by a factor: that
which holds the teacher's count in as many of these images as the interval claims (after split conformal prediction:
Vovk et al., 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, logit

__all__ = [
    "Calibration",
    "Evidence",
    "JudgedCandidates",
    "count_interval",
    "fit_calibration",
    "fit_stretch",
    "log_odds",
]

# The witness, a probability, is clipped to this and its complement; the contrast is clipped from below.
_SURE, _LEAST_CONTRAST = 0.98, 0.02
_REGULARISATION = 0.05


class Calibration(NamedTuple):
    """What turns scores into log-odds."""

    bias: float
    of_quality: float
    of_witness: float
    stretch: float  # factor by which the interval of the count is wider than that of the samples

    @classmethod
    def usual(cls) -> Calibration:
        """As fitted to nuclei: for a network of which nothing is known."""
        return cls(0.7, 1.4, 0.6, 1.1)


class Evidence(NamedTuple):
    """What is known of n candidates."""

    score: np.ndarray  # (n,) logit of the recognition network
    witness: np.ndarray  # (n,) presence probability of the generative model
    contrast: np.ndarray  # (n,) how far the inside is above the surroundings, over its standard deviation

    def take(self, index: np.ndarray) -> Evidence:
        return Evidence(*(values[index] for values in self))


class JudgedCandidates(NamedTuple):
    """Candidates of one image of which something is known."""

    evidence: Evidence
    right: np.ndarray  # (n,) in 0..1: how probably each is an object


def log_odds(calibration: Calibration, evidence: Evidence) -> np.ndarray:
    """(n,) log-odds that candidates are objects."""
    return calibration.bias + _features(evidence) @ np.array(calibration[1:3])


def fit_calibration(images: Sequence[JudgedCandidates]) -> Calibration:
    """The calibration that fits some images, without a stretch.

    The usual one, if there is nothing right or nothing wrong in them.
    """
    right = np.concatenate([image.right for image in images]) if images else np.zeros(0)
    if not len(right) or not 0 < right.mean() < 1:
        return Calibration.usual()
    features = np.concatenate([_features(image.evidence) for image in images])

    def loss(parameters: np.ndarray) -> float:
        """Of a logistic regression: each candidate is right with its probability, and wrong with the rest."""
        log_odds = parameters[0] + features @ parameters[1:]
        entropy = right * log_expit(log_odds) + (1 - right) * log_expit(-log_odds)
        return float(_REGULARISATION * parameters[1:] @ parameters[1:] - entropy.sum())

    # No evidence speaks against an object.
    bounds = [(None, None), (0, None), (0, None)]
    bias, of_quality, of_witness = minimize(loss, Calibration.usual()[:3], bounds=bounds).x.tolist()
    return Calibration(bias, of_quality, of_witness, 1.0)


def _features(evidence: Evidence) -> np.ndarray:
    """(n, 2) what the log-odds are linear in."""
    score, witness, contrast = (np.asarray(values, np.float64) for values in evidence)
    quality = 2 * log_expit(score) + np.log(np.maximum(contrast, _LEAST_CONTRAST)) / 2
    return np.stack([quality, logit(np.clip(witness, 1 - _SURE, _SURE))], axis=1)


def fit_stretch(counts: Sequence[np.ndarray], expected: Sequence[int], level: float) -> float:
    """The least stretch for which the interval of `level` holds what is expected in as large a share of the images.

    Parameters
    ----------
    counts : sequence of (S,) int arrays
        Objects in the samples of each image.
    expected : sequence of int
    level : float
        In 0..1.
    """
    needed = []
    for of_image, count in zip(counts, expected, strict=True):
        low, high = count_interval(of_image, level, 1.0)
        needed.append(max((low + 1) / (count + 1), (count + 1) / (high + 1), 1.0))
    # One more than the images, as the next image is one of them (finite-sample correction).
    rank = min(math.ceil(level * (len(needed) + 1)), len(needed))
    return float(np.sort(needed)[rank - 1]) if needed else Calibration.usual().stretch


def count_interval(counts: np.ndarray, level: float, stretch: float) -> tuple[int, int]:
    """The middle `level` of the counts (S,) of posterior samples, stretched."""
    tail = (1 - level) / 2
    low, high = np.quantile(counts, [tail, 1 - tail], method="closest_observation")
    return max(0, math.floor((low + 1) / stretch) - 1), math.ceil((high + 1) * stretch) - 1
