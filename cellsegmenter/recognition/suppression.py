"""Non-maximum suppression of shapes over a whole image: of two that share much of the smaller one, one stays (S5).

Only neighbours are compared, and all of them at once: whoever has no better neighbour left stays, the neighbours of
those that stay go, and so on.  That is the greedy suppression of Eq. 10, in a few rounds instead of one step an object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from cellsegmenter.recognition.stars import Stars, areas, intersection_over_minimum

__all__ = ["Pairs", "overlapping_pairs", "ranks", "suppress"]


class Pairs(NamedTuple):
    """m pairs of stars that overlap, each once."""

    first: np.ndarray  # (m,) int
    second: np.ndarray  # (m,) int
    over_minimum: np.ndarray  # (m,) intersection over the smaller area
    over_union: np.ndarray  # (m,) intersection over union

    def above(self, least: float) -> Pairs:
        """The pairs that share more than this of the smaller star."""
        return Pairs(*(values[self.over_minimum > least] for values in self))


def overlapping_pairs(stars: Stars, least: float) -> Pairs:
    """The pairs that share more than `least` of the smaller star (intersection over minimum)."""
    if len(stars.centre) < 2:
        nothing = np.zeros(0, np.int64)
        return Pairs(nothing, nothing, np.zeros(0), np.zeros(0))
    reach = stars.radii.max(axis=1)
    # Stars by size: a search as wide as the largest star would pair all small ones around it.
    order = np.argsort(reach, kind="stable")
    pairs = []
    for low, high in _size_classes(reach[order]):
        members, others = order[low:high], order[:high]
        near = cKDTree(stars.centre[members]).query_ball_tree(
            cKDTree(stars.centre[others]), r=2 * float(reach[members].max())
        )
        counts = [len(found) for found in near]
        first = np.repeat(members, counts)
        second = others[np.fromiter((i for found in near for i in found), np.int64, sum(counts))]
        # Within a class each pair is found from both ends.
        twice = np.isin(second, members)
        pairs.append(np.stack([first, second])[:, ~twice | (first < second)])
    first, second = np.concatenate(pairs, axis=1)
    apart = np.linalg.norm(stars.centre[first] - stars.centre[second], axis=1) >= reach[first] + reach[second]
    first, second = first[~apart], second[~apart]
    over_minimum = intersection_over_minimum(stars, first, second)
    area = areas(stars)
    common = over_minimum * np.minimum(area[first], area[second])
    over_union = common / (area[first] + area[second] - common)
    return Pairs(first, second, over_minimum, over_union).above(least)


def _size_classes(reach: np.ndarray) -> list[tuple[int, int]]:
    """Where classes of at most twice the size begin and end among ascending sizes."""
    level = np.floor(np.log2(reach / reach[0]))
    starts = np.flatnonzero(np.diff(level, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(reach)], strict=True))


def suppress(rank: np.ndarray, active: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Which stars stay, in each of S samples.

    Parameters
    ----------
    rank : (n, S) int array
        0 is the best; no two of a sample are equal.
    active : (n, S) bool array
        Those that take part.
    pairs : Pairs
        Of which only one can stay.

    Returns
    -------
    (n, S) bool array
    """
    n, m = len(rank), len(pairs.first)
    of_first, of_second = (
        sparse.csr_array((np.ones(m, np.int32), (ends, np.arange(m))), shape=(n, m))
        for ends in (pairs.first, pairs.second)
    )
    first_wins = rank[pairs.first] < rank[pairs.second]
    kept, undecided = np.zeros_like(active), active.copy()
    while undecided.any():
        both = undecided[pairs.first] & undecided[pairs.second]
        beaten = _any(of_first, both & ~first_wins) | _any(of_second, both & first_wins)
        winner = undecided & ~beaten
        kept |= winner
        loser = _any(of_first, winner[pairs.second]) | _any(of_second, winner[pairs.first])
        undecided &= ~winner & ~loser
    return kept


def _any(ends: sparse.csr_array, of_pair: np.ndarray) -> np.ndarray:
    """(n, S) whether it is so for any pair (m, S) that has a star at this end."""
    return ends @ of_pair.astype(np.int32) > 0


def ranks(value: np.ndarray) -> np.ndarray:
    """(n, S) 0 for the highest of each column; of equals the first."""
    order = np.argsort(-value, axis=0, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(value))[:, None], axis=0)
    return ranks
