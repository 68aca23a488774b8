"""The weights of the co-membership graph (Sec. 4, Suppl. S9).

The paper sums, over the objects k of every window and posterior sample,

    e_{p,p'} = Σ_k π_k(p) π_k(p')            (S6, one displacement of the pixels at a time)

and averages over what was summed.  With Π (pixels × instances, sparse) all of it is one Gram matrix, Π Πᵀ, so we
take a sparse product of a block of rows at a time: about twenty times faster than shifting displacement by
displacement, and each edge is already the sum over windows and samples.  Π is some 25 times smaller than the edges.

**What a pair is divided by.**  The paper divides every pair by the visits to a pixel.  But of two pixels on different
sides of a window's edge, that window sees only one, and has nothing to say about the pair: with four windows side by
side, every pair across such an edge, one every stride, would lose a quarter of its weight, and objects come apart
along these lines (measured in an image of dense nuclei: 3.4 straight cuts along each, against 0.1 along other lines;
divided as here, 0.5 against 0.2).  So we divide by the visits that see *both* pixels: an edge is how often two pixels
are in one object, where that could be seen.

Π counts in 255ths, so the sums are whole numbers, exact whatever the order; `edge_unit` makes them weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.types import CERTAIN, Instances

__all__ = ["MIN_EDGE", "Visits", "edge_unit", "pixel_edges", "visits_of"]

MIN_EDGE = 0.01  # E_min of the paper

# Rows per product: bounds the memory of one product, and halves its work, because
# pixels before the block were paired with it already.
_ROWS = 2048


class Visits(NamedTuple):
    """Which visits see a pixel, and which see two: windows stand on a lattice, and each has the same samples."""

    per_axis: int  # windows along an axis that see a pixel
    n_samples: int
    stride: int  # px between the corners of windows
    phase: tuple[int, int] = (0, 0)  # row and column of the corner of any window

    @property
    def total(self) -> int:
        """Visits to each pixel."""
        return self.per_axis**2 * self.n_samples

    def cell(self, position: np.ndarray) -> np.ndarray:
        """(n, 2) cell of the lattice that each position (n, 2) lies in: the same windows see all of a cell."""
        return np.floor_divide(np.asarray(position) - self.phase, self.stride).astype(np.int64)

    def share(self, apart: np.ndarray) -> np.ndarray:
        """(n,) share of the visits to one of two pixels that see the other too, so many cells (n, 2) apart.

        At least one visit, as where there is none, there is nothing to divide.
        """
        return np.prod(np.maximum(self.per_axis - np.abs(apart), 1) / self.per_axis, axis=1)


def visits_of(instances: Instances) -> Visits:
    """Where the windows of some instances stand."""
    per_axis = math.isqrt(instances.n_visits // instances.n_samples)
    stride = instances.window_size // per_axis
    row, column = (int(side) % stride for side in instances.window_origin[0])
    return Visits(per_axis, instances.n_samples, stride, (row, column))


def edge_unit(n_visits: int) -> float:
    """The co-membership weight, 0..1, that an edge of 1 stands for."""
    return 1 / (CERTAIN**2 * max(n_visits, 1))


def pixel_edges(
    membership: sparse.csr_array,
    position: np.ndarray,
    reach_end: np.ndarray,
    *,
    visits: Visits,
    cutoff_distance: float,
    min_edge: float,
    size: np.ndarray | None = None,
) -> sparse.csr_array:
    """The edges among some pixels, or among groups of pixels whose rows are summed up, each pair once.

    Parameters
    ----------
    membership : (n, m) sparse int32 array
        Rows of Π in 255ths; columns without an entry cost time.
    position : (n, 2) array
        Row and column of the pixels, or of the groups' centres, in px.
    reach_end : (n,) int array, non-decreasing
        No pixel at or after ``reach_end[p]`` can have an edge with pixel p or with a pixel before it.
    visits : Visits
        Groups lie within one cell of its lattice.
    cutoff_distance : float
        Only pairs closer than this many px have an edge (d_c of S9).
    min_edge : float
        Only weights of at least this are kept (E_min of S9); between groups, the mean weight of the pairs.
    size : (n,) int array, optional
        Pixels of each group; by default 1.

    Returns
    -------
    (n, n) strictly upper triangular int32 array of co-membership weights, in multiples of `edge_unit`.
    """
    n_pixels = membership.shape[0]
    least = min_edge / edge_unit(visits.total)
    cell = visits.cell(position)
    # The loop is over all candidate pairs, so that single pixels should not pay for groups.
    groups = size is not None and bool((size > 1).any())
    counts, neighbours, weights = [], [], []
    for start in range(0, n_pixels, _ROWS):
        stop = min(start + _ROWS, n_pixels)
        product = membership[start:stop] @ membership[start : reach_end[stop - 1]].T
        first = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(product.indptr))
        second = product.indices + np.int32(start)
        weight = product.data
        # The paper drops what is below E_min in each window and sample, before averaging.  We compare the
        # average: it is what communities weigh against the resolution, it does not depend on how many
        # windows saw the pair, and 0.01 is far below any useful threshold (0.02 and more), so that
        # nothing that could hold two pixels together is lost.
        later = np.flatnonzero(second > first)
        first, second, weight = first[later], second[later], weight[later]
        # Rounded, so that sums stay exact.  In floating point: pairs too far apart to have an edge may have any weight,
        # as where a region's squares are put one above the other.
        weight = np.rint(weight / visits.share(cell[first] - cell[second]))
        needed = least * size[first] * size[second] if size is not None and groups else least
        keep = np.flatnonzero(weight >= needed)
        first, second, weight = first[keep], second[keep], weight[keep]
        near = ((position[first] - position[second]) ** 2).sum(1) < cutoff_distance**2
        counts.append(np.bincount(first[near] - start, minlength=stop - start))
        neighbours.append(second[near])
        weights.append(weight[near].astype(np.int32))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts or [np.zeros(0, int)]))])
    indices = np.concatenate(neighbours or [np.zeros(0, np.int32)])
    data = np.concatenate(weights or [np.zeros(0, np.int32)])
    return sparse.csr_array((data, indices, indptr), shape=(n_pixels, n_pixels))
