"""The weights of the co-membership graph (Sec. 4, Suppl. S9).

The paper sums, over the objects k of every window and posterior sample,

    e_{p,p'} = Σ_k π_k(p) π_k(p')            (S6, one displacement of the pixels at a time)

and averages over what was summed.  With Π (pixels × instances, sparse) all of it is one Gram matrix,
e = Π Πᵀ / n_visits, so we take a sparse product of a block of rows at a time: about twenty times faster
than shifting displacement by displacement, and each edge is already the sum over windows and samples.
Π is some 25 times smaller than the edges; it is Π that is kept, and edges come and go in blocks.

Π counts in 255ths, so edges are sums of whole numbers, exact whatever the order; `edge_unit` makes them weights.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cellsegmenter.types import CERTAIN

__all__ = ["MIN_EDGE", "edge_unit", "pixel_edges"]

MIN_EDGE = 0.01  # E_min of the paper

# Rows per product: bounds the memory of one product, and halves its work, because
# pixels before the block were paired with it already.
_ROWS = 2048


def edge_unit(n_visits: int) -> float:
    """The co-membership weight, 0..1, that an edge of 1 stands for."""
    return 1 / (CERTAIN**2 * max(n_visits, 1))


def pixel_edges(
    membership: sparse.csr_array,
    position: np.ndarray,
    reach_end: np.ndarray,
    *,
    n_visits: int,
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
    n_visits : int
        Windows that see a pixel × posterior samples.
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
    least = min_edge / edge_unit(n_visits)
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
        needed = least * size[first] * size[second] if size is not None and groups else least
        keep = np.flatnonzero((second > first) & (weight >= needed))
        first, second = first[keep], second[keep]
        near = ((position[first] - position[second]) ** 2).sum(1) < cutoff_distance**2
        counts.append(np.bincount(first[near] - start, minlength=stop - start))
        neighbours.append(second[near])
        weights.append(weight[keep[near]])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts or [np.zeros(0, int)]))])
    indices = np.concatenate(neighbours or [np.zeros(0, np.int32)])
    data = np.concatenate(weights or [np.zeros(0, np.int32)])
    return sparse.csr_array((data, indices, indptr), shape=(n_pixels, n_pixels))
