"""Pixels that the posterior hardly tells apart become one vertex: most edges are between such pixels.

The inside of a cell is much the same to every window and sample, and so is each stretch of its rim.  Where
neighbouring pixels have nearly equal rows of Π, every community gains nearly as much by one as by the other, so that
all go the same way.  Groups grow by pairs, always the two neighbours that are most alike to each other, until what is
left differs.

A merged vertex has the sum of its pixels' rows, so that its edges are the sums of theirs, and weighs as much as
all of them in the objective: any cut of the merged graph has the objective that it has on the pixels (but for
pairs at the cut-off distance, which is measured between centres).  But the optimum is restricted.  Measured on two
images of nuclei: 2 % of the edges, a solver 12 to 22 times as fast, and of the objective that Leiden finds on the
pixels 99.8 to 99.97 % at γ_abs 0.2 and 0.3 (labels with an ARI of 0.98 to 0.99 to those), 98.2 to 99.2 % at 0.5 (ARI
0.90 to 0.95), where rims come off pixel by pixel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.edges import Visits
from cellsegmenter.types import CERTAIN

__all__ = ["CELL", "MERGE_TOLERANCE", "Vertices", "merge_pixels"]

# px: groups stay within squares of this side, which begin at multiples of it in the image, so that a pixel has the
# same group whatever else of the image is looked at.
CELL = 8
MERGE_TOLERANCE = 0.15
_LARGEST_GROUP = 16  # px
# The cut-off distance over the side of a square of as many pixels as the largest group: the distance between centres
# stands for that between pixels.
_LEAST_REACH = 4
_BLOCK = 2  # px, side of the blocks that are looked at first
_ROUNDS = 16  # of pairing at most
_STEP = 1e-3  # pairs whose spreads differ by less are equally alike


class Vertices(NamedTuple):
    """The k vertices that n pixels were merged into, by component and in it by the row of their centre."""

    of_pixel: np.ndarray  # (n,) int: the vertex of each pixel
    membership: sparse.csr_array  # (k, m) int32: sum of the pixels' rows of Π, in 255ths
    centre: np.ndarray  # (k, 2) float: mean row and column of the pixels, px
    component: np.ndarray  # (k,) int, ascending
    size: np.ndarray  # (k,) int64: pixels
    # (k,) int64: sum of the edges between the pixels of a vertex, in multiples of `edge_unit`
    inside: np.ndarray


def merge_pixels(
    membership: sparse.csr_array,
    position: np.ndarray,
    component: np.ndarray,
    *,
    tolerance: float,
    cutoff_distance: float,
    visits: Visits,
) -> Vertices:
    """Merge neighbouring pixels whose rows of Π are nearly equal.

    Parameters
    ----------
    membership : (n, m) sparse csr int32 array
        Rows of Π in 255ths.
    position : (n, 2) int array
        Row and column in px.
    component : (n,) int array
        Pixels of different components stay apart.
    tolerance : float
        How far the rows of a group may be from their mean, root mean square, as a fraction of the root mean square of
        their Euclidean norms; 0 merges nothing.
    cutoff_distance : float
        px; groups are small beside it.
    visits : Visits
        Groups lie within one cell of its lattice, and are so small that their edges cannot overflow.
    """
    largest = _largest_group(cutoff_distance, visits.total)
    group = np.arange(len(component))
    if tolerance > 0 and largest > 1 and len(group):
        seen = np.column_stack([component, visits.cell(position), position // CELL])
        seen_alike = np.unique(seen, axis=0, return_inverse=True)[1].ravel()
        group = _grow_groups(membership, position, seen_alike, tolerance, largest)
    size = np.bincount(group)
    centre = np.stack([np.bincount(group, weights=axis) for axis in position.T], axis=1) / size[:, None]
    group_component = np.zeros(len(size), dtype=component.dtype)
    group_component[group] = component
    order = np.lexsort((centre[:, 1], centre[:, 0], group_component))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_pixel = rank[group]
    summed = _sum_rows(membership, of_pixel)
    inside = (_squared_norm(summed) - np.bincount(of_pixel, weights=_squared_norm(membership))) / 2
    return Vertices(
        of_pixel, summed, centre[order], group_component[order], size[order], inside.astype(np.int64)
    )


def _largest_group(cutoff_distance: float, n_visits: int) -> int:
    """px of a group at most, such that it is small beside the cut-off distance, and edges stay within 32 bits."""
    within_reach = (cutoff_distance / _LEAST_REACH) ** 2
    countable = math.sqrt(np.iinfo(np.int32).max / max(n_visits, 1)) / CERTAIN
    return int(min(_LARGEST_GROUP, within_reach, countable))


def _grow_groups(
    membership: sparse.csr_array, position: np.ndarray, within: np.ndarray, tolerance: float, largest: int
) -> np.ndarray:
    """(n,) the group of each pixel, 0, 1, ...; pixels of different `within` (n,) stay apart."""
    groups = _Groups(
        np.arange(len(within)),
        membership,
        _squared_norm(membership),
        np.ones(len(within), dtype=np.int64),
        position[:, 0] * 2**31 + position[:, 1],
        _neighbours(position, within),
    )
    if largest >= _BLOCK**2:
        groups = groups.joined(_alike_blocks(membership, position, within, tolerance))
    for _ in range(_ROUNDS):
        n = len(groups.size)
        a, b = groups.pairs[:, groups.size[groups.pairs].sum(axis=0) <= largest]
        spread = groups.spread(a, b)
        alike = spread <= tolerance**2
        a, b, spread = a[alike], b[alike], spread[alike]
        # Between equals a pseudo-random name decides: by place, long rows would all choose the same way, and few
        # would be chosen back.
        order = np.lexsort((_scramble(groups.name[a], groups.name[b]), np.round(spread / _STEP)))
        a, b = _chosen_by_both(a[order], b[order], n)
        partner = np.arange(n)
        partner[b] = a
        groups = groups.joined(np.unique(partner, return_inverse=True)[1])
        if not len(a):
            break
    return groups.of_pixel


class _Groups(NamedTuple):
    """Groups of pixels, k of them, as they grow."""

    of_pixel: np.ndarray  # (n,) int
    total: sparse.csr_array  # (k, m) sum of the rows of Π
    norm: np.ndarray  # (k,) int64 sum of the squared norms of the rows
    size: np.ndarray  # (k,) int64 px
    name: np.ndarray  # (k,) int64: the place of the first pixel, wherever it stands in these arrays
    pairs: np.ndarray  # (2, l) neighbouring groups, the lower first

    def joined(self, into: np.ndarray) -> _Groups:
        """Groups of groups, as `into` (k,) numbers them."""
        n = int(into.max()) + 1
        name = np.full(n, np.iinfo(np.int64).max)
        np.minimum.at(name, into, self.name)
        low, high = np.sort(into[self.pairs], axis=0)
        pairs = np.unique((low * n + high)[low != high])
        return _Groups(
            into[self.of_pixel],
            _sum_rows(self.total, into),
            _sums(into, self.norm),
            _sums(into, self.size),
            name,
            np.stack(np.divmod(pairs, n)),
        )

    def spread(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Σ |Π_p - mean|² / Σ |Π_p|² over the pixels of groups a and b together."""
        own = _squared_norm(self.total)
        both = own[a] + own[b] + 2 * self.total[a].multiply(self.total[b]).sum(axis=1, dtype=np.int64)
        return 1 - both / ((self.size[a] + self.size[b]) * (self.norm[a] + self.norm[b]))


def _alike_blocks(
    membership: sparse.csr_array, position: np.ndarray, within: np.ndarray, tolerance: float
) -> np.ndarray:
    """(n,) the block of 2 × 2 pixels that each is in if they are all alike, and itself otherwise.

    It saves the first rounds, which look at the most pairs.
    """
    place = np.column_stack([within, position // _BLOCK])
    order = np.lexsort(place.T[::-1])
    begins = np.any(np.diff(place[order], axis=0, prepend=place[order[:1]] - 1) != 0, axis=1)
    block = np.empty(len(place), dtype=np.int64)
    block[order] = np.cumsum(begins) - 1
    norm = _sums(block, _squared_norm(membership))
    alike = 1 - _squared_norm(_sum_rows(membership, block)) / (np.bincount(block) * norm) <= tolerance**2
    alone = np.flatnonzero(~alike[block])
    block[alone] = len(alike) + np.arange(len(alone))
    return np.unique(block, return_inverse=True)[1]


def _neighbours(position: np.ndarray, within: np.ndarray) -> np.ndarray:
    """(2, k) pairs of pixels of equal `within` (n,) that share a side."""
    row, column = position.T
    height, width = int(row.max()) + 2, int(column.max()) + 2
    place = (within.astype(np.int64) * height + row) * width + column
    order = np.argsort(place)
    pairs = []
    for step in (1, width):
        at = np.minimum(np.searchsorted(place, place + step, sorter=order), len(order) - 1)
        there = np.flatnonzero(place[order[at]] == place + step)
        pairs.append(np.stack([there, order[at[there]]]))
    return np.concatenate(pairs, axis=1)


def _chosen_by_both(a: np.ndarray, b: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs, best first, each of whose two groups has no better pair."""
    rank = np.arange(len(a))
    best = np.full(n, len(a))
    np.minimum.at(best, a, rank)
    np.minimum.at(best, b, rank)
    mutual = (best[a] == rank) & (best[b] == rank)
    return a[mutual], b[mutual]


def _scramble(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A pseudo-random number for each pair of names, in whichever order."""
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    mixed = low * np.uint64(0x9E3779B97F4A7C15) ^ high * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def _sums(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum of whole numbers over each group."""
    return np.bincount(group, weights=values).astype(np.int64)


def _sum_rows(rows: sparse.csr_array, group: np.ndarray) -> sparse.csr_array:
    """The sum of the rows of each group."""
    n = len(group)
    ones = np.ones(n, np.int32)
    return sparse.csr_array(
        sparse.csr_array((ones, (group, np.arange(n))), shape=(int(group.max(initial=-1)) + 1, n)) @ rows
    )


def _squared_norm(rows: sparse.csr_array) -> np.ndarray:
    """(n,) int64 sum of the squares of each row."""
    return rows.astype(np.int64).power(2).sum(axis=1)
