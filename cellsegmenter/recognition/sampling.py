"""Posterior samples of a whole image: each is a complete segmentation with its own number of objects.

A sample switches each candidate on with its probability and then suppresses what overlaps (Eq. 10).  Both are one
step: a candidate's logit plus logistic noise is above 0 with the candidate's probability, and of two that overlap the
one that is higher in this sample stays.  Candidates that state the same object share their noise
(as in `model.proposals.shared_coins`).

Random numbers belong to a place in the image, so a region is sampled as in the whole image.  They are stratified over
the samples: of S samples, a candidate of probability p that meets no other is on in p S, give or take one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.special import logit as logit_of

from cellsegmenter.model.boxes import SAME_BOX
from cellsegmenter.recognition.calibration import Calibration, log_odds
from cellsegmenter.recognition.candidates import Candidates, concatenated, in_order
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.recognition.suppression import Pairs, overlapping_pairs, ranks, suppress

__all__ = [
    "OVERLAP",
    "SampledPresence",
    "best_of_views",
    "most_probable",
    "sample_candidates",
    "sample_presence",
    "stratified_at",
]

# alpha: the largest part of the smaller of two shapes that both may claim (S5).
OVERLAP = 0.4
_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


class SampledPresence(NamedTuple):
    """Which of n candidates are on in each of S samples."""

    present: np.ndarray  # (n, S) bool
    prob: np.ndarray  # (n,) that each is on; as exact as its own probability, where samples would be coarse


def most_probable(logit: np.ndarray, pairs: Pairs) -> SampledPresence:
    """The candidates that are more probable than not and better than those they overlap: one sample."""
    present = suppress(ranks(logit[:, None]), logit[:, None] > 0, pairs)
    return SampledPresence(present, expit(logit) * present[:, 0])


def sample_candidates(
    candidates: Candidates, calibration: Calibration, *, n_samples: int | None, seed: int
) -> SampledPresence:
    """Samples of which candidates are on; without a number of samples, the most probable one."""
    logit = log_odds(calibration, candidates.evidence)
    pairs = overlapping_pairs(candidates.stars, OVERLAP)
    if n_samples is None:
        return most_probable(logit, pairs)
    return sample_presence(candidates.stars, logit, pairs, n_samples=n_samples, seed=seed)


def best_of_views(of_views: Sequence[Candidates], calibration: Calibration) -> Candidates:
    """The candidates of several views of an image, each at a scale of its own, that no other view knows better.

    The parts of a large object at a fine scale, and a group of small ones at a coarse scale, have a lower score than
    the object at its own.  Samples would let them win now and then: the consensus of nuclei of 8 to 64 px then had
    302 objects for 240.

    Parameters
    ----------
    of_views : sequence of Candidates
        In the same px.
    calibration : Calibration
    """
    view = np.repeat(np.arange(len(of_views)), [len(found.stars.centre) for found in of_views])
    everything = concatenated(of_views)
    pairs = overlapping_pairs(everything.stars, OVERLAP)
    rivals = Pairs(*(values[view[pairs.first] != view[pairs.second]] for values in pairs))
    rank = ranks(log_odds(calibration, everything.evidence)[:, None])
    kept = suppress(rank, np.ones(rank.shape, bool), rivals)[:, 0]
    return in_order(everything.take(np.flatnonzero(kept)))


def sample_presence(
    stars: Stars,
    logit: np.ndarray,
    pairs: Pairs,
    *,
    n_samples: int,
    seed: int,
) -> SampledPresence:
    """Which candidates are on in each posterior sample.

    Parameters
    ----------
    stars : Stars
        n candidates.
    logit : (n,) array
        Log-odds that a candidate is an object.
    pairs : Pairs
        Those that overlap by more than alpha.
    n_samples : int
        S.
    seed : int
    """
    uniform = stratified_at(stars.centre, n_samples, seed)[_leaders(logit, pairs)]
    perturbed = logit[:, None] + logit_of(uniform)
    active = perturbed > 0
    present = suppress(ranks(perturbed), active, pairs)
    # Its own probability, times how often it survives suppression.
    survival = present.sum(axis=1) / np.maximum(active.sum(axis=1), 1)
    return SampledPresence(present, expit(logit) * survival)


def stratified_at(centre: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """(n, S) pseudo-random numbers in (0, 1) that depend on the place (n, 2), the sample and the seed alone.

    One of each row lies in each S-th of the interval.
    """
    stratum = np.argsort(_uniform_at(centre, n_samples, seed), axis=1)
    return (stratum + _uniform_at(centre, n_samples, seed + 2**32)) / n_samples


def _uniform_at(centre: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """As `stratified_at`, but independent."""
    place = np.floor(2 * centre).astype(np.int64).astype(np.uint64)
    of_seed = np.full(1, seed, np.uint64) * _MIX[0]  # an array, as numpy warns when a single number overflows
    key = _scrambled(_scrambled(place[:, 0] + of_seed) + place[:, 1])
    key = _scrambled(key[:, None] + np.arange(n_samples, dtype=np.uint64) * _MIX[0])
    return ((key >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _scrambled(key: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    key = key + _MIX[0]
    key = (key ^ (key >> np.uint64(30))) * _MIX[1]
    key = (key ^ (key >> np.uint64(27))) * _MIX[2]
    return key ^ (key >> np.uint64(31))


def _leaders(logit: np.ndarray, pairs: Pairs) -> np.ndarray:
    """(n,) the most probable of the candidates that state the same object as each."""
    same = pairs.over_union > SAME_BOX
    one, other = (
        np.concatenate([pairs.first[same], pairs.second[same]]),
        np.concatenate([pairs.second[same], pairs.first[same]]),
    )
    rank = ranks(logit[:, None])[:, 0]
    best = rank.copy()
    np.minimum.at(best, one, rank[other])
    return np.argsort(rank)[best]
