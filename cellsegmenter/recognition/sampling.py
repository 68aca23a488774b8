"""Posterior samples of a whole image: each is a complete segmentation with its own number of objects.

A sample switches each candidate on with its probability and then suppresses what overlaps (Eq. 10).  Both are one
step: a candidate's logit plus logistic noise is above 0 with the candidate's probability, and of two that overlap the
one that is higher in this sample stays.  Three noises are added up:

- one for each candidate;
- one for all candidates that state the same object, in place of their own (as `model.proposals.shared_coins`);
- one for the whole image, as what makes a network too sure or too shy concerns all objects of an image alike.

Random numbers belong to a place in the image, so a region is sampled as in the whole image.
"""

from __future__ import annotations

import numpy as np

from cellsegmenter.model.boxes import SAME_BOX
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.recognition.suppression import Pairs, suppress

__all__ = ["OVERLAP", "most_probable", "sample_presence", "uniform_at"]

# alpha: the largest part of the smaller of two shapes that both may claim (S5).
OVERLAP = 0.4
_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


def most_probable(logit: np.ndarray, pairs: Pairs) -> np.ndarray:
    """(n,) bool: the candidates that are more probable than not and better than those they overlap."""
    rank = _ranks(logit[:, None])
    return suppress(rank, logit[:, None] > 0, pairs.above(OVERLAP))[:, 0]


def sample_presence(
    stars: Stars,
    logit: np.ndarray,
    pairs: Pairs,
    *,
    spread: float,
    n_samples: int,
    seed: int,
) -> np.ndarray:
    """Which candidates are on in each posterior sample.

    Parameters
    ----------
    stars : Stars
        n candidates.
    logit : (n,) array
        Log-odds that a candidate is an object.
    pairs : Pairs
        Those that overlap.
    spread : float
        Standard deviation of the noise of the whole image, in log-odds.
    n_samples : int
        S.
    seed : int

    Returns
    -------
    (n, S) bool array
    """
    uniform = uniform_at(stars.centre, n_samples, seed)[_leaders(logit, pairs)]
    noise = np.log(uniform) - np.log1p(-uniform)
    of_image = np.random.default_rng(seed).standard_normal(n_samples)
    perturbed = logit[:, None] + noise + spread * of_image
    return suppress(_ranks(perturbed), perturbed > 0, pairs.above(OVERLAP))


def uniform_at(centre: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """(n, S) pseudo-random numbers in (0, 1) that depend on the place (n, 2), the sample and the seed alone."""
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
    rank = _ranks(logit[:, None])[:, 0]
    best = rank.copy()
    np.minimum.at(best, one, rank[other])
    return np.argsort(rank)[best]


def _ranks(value: np.ndarray) -> np.ndarray:
    """(n, S) 0 for the highest of each column; of equals the first."""
    order = np.argsort(-value, axis=0, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(value))[:, None], axis=0)
    return ranks
