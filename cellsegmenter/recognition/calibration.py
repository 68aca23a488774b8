"""From what is known of a candidate to the probability that it is an object.

A network's score ranks its objects, but its 0.9 is no 90 %.  The generative model is another witness, which saw the
same image and learned from another objective: where both agree, a candidate is right more often.  And an object stands
out from what is around it.  So the log-odds are

    bias + a · score + b · logit(witness) + c · log(1 - exp(-contrast)),

fitted on candidates of which something is known without an annotation: those of fresh composites, whose truth is
exact, and those of training images that were held back from the network, by the teacher's confidence.  What is left
differs from image to image: the log-odds of all candidates of an image move together, by a normal distribution of
standard deviation `spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import log_expit, logsumexp
from sklearn.linear_model import LogisticRegression

__all__ = ["Calibration", "Evidence", "JudgedCandidates", "fit_calibration", "log_odds"]

# The witness is a probability; beyond these it says no more.  Nor does a contrast below this.
_SURE, _LEAST_CONTRAST = 0.98, 0.02
# Of the random effect: its values that are tried, and the points of the quadrature.
_SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_POINTS = 15
_REGULARISATION = 10.0


class Calibration(NamedTuple):
    """What turns scores into log-odds."""

    bias: float
    of_score: float
    of_witness: float
    of_contrast: float
    spread: float  # standard deviation of what all candidates of an image have in common

    @classmethod
    def identity(cls) -> Calibration:
        """Scores as they are."""
        return cls(0.0, 1.0, 0.0, 0.0, 0.0)


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
    return calibration.bias + _features(evidence) @ np.array(calibration[1:4])


def fit_calibration(groups: Sequence[Sequence[JudgedCandidates]]) -> Calibration:
    """The calibration that fits several kinds of images, each kind with equal weight.

    Parameters
    ----------
    groups : sequence of sequences of JudgedCandidates
        Of composites, say, and of real images.

    Returns
    -------
    Calibration
        Scores as they are, if there is nothing right or nothing wrong to learn from.
    """
    filled = [[image for image in images if len(image.right)] for images in groups]
    filled = [images for images in filled if images]
    images = [image for group in filled for image in group]
    right = np.concatenate([image.right for image in images]) if images else np.zeros(0)
    if not 0 < (right.mean() if len(right) else 0) < 1:
        return Calibration.identity()
    counts = [sum(len(image.right) for image in group) for group in filled]
    weight = np.concatenate([np.full(n, len(right) / len(filled) / n) for n in counts])
    features = np.concatenate([_features(image.evidence) for image in images])
    # Each candidate is right with its probability, and wrong with the rest.
    model = LogisticRegression(C=_REGULARISATION).fit(
        np.concatenate([features, features]),
        np.repeat([True, False], len(right)),
        np.concatenate([weight * right, weight * (1 - right)]),
    )
    of_score, of_witness, of_contrast = model.coef_[0].tolist()
    plain = Calibration(float(model.intercept_[0]), of_score, of_witness, of_contrast, 0.0)
    return plain._replace(spread=_spread(plain, images))


def _features(evidence: Evidence) -> np.ndarray:
    """(n, 3) what the log-odds are linear in."""
    score, witness, contrast = (np.asarray(values, np.float64) for values in evidence)
    witness = np.clip(witness, 1 - _SURE, _SURE)
    distinct = np.log(-np.expm1(-np.maximum(contrast, _LEAST_CONTRAST)))
    return np.stack([score, np.log(witness) - np.log1p(-witness), distinct], axis=1)


def _spread(calibration: Calibration, images: Sequence[JudgedCandidates]) -> float:
    """The most likely spread, by Gauss-Hermite quadrature over the random effect of each image."""
    point, weight = np.polynomial.hermite_e.hermegauss(_POINTS)
    log_weight = np.log(weight / weight.sum())
    logits = [log_odds(calibration, image.evidence) for image in images]

    def log_likelihood(spread: float) -> float:
        total = 0.0
        for image, logit in zip(images, logits, strict=True):
            at_point = logit[:, None] + spread * point
            right = image.right[:, None]
            of_points = (right * log_expit(at_point) + (1 - right) * log_expit(-at_point)).sum(axis=0)
            total += float(logsumexp(of_points + log_weight))
        return total

    return max(_SPREADS, key=log_likelihood)
