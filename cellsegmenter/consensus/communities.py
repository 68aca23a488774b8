"""Communities of the pixel graph by the Leiden algorithm, component by component (Sec. 4, S9).

Both of the paper's objectives have one form, with node weights a and a threshold θ:

    Q = Σ over communities C of  Σ_{p<p' in C} (e_{p,p'} - θ a_p a_{p'})

- CPM (constant Potts model): a = 1, θ = γ_abs.
- RB (Reichardt-Bornholdt):   a = strength of the pixel, θ = γ / 2m, with the m of the *whole* graph.

A vertex of several merged pixels has the sum of their weights a.  The solver cannot part them, so a community with
Q < 0 comes apart into its pixels afterwards, which is worth 0.  (At γ_abs above 1 all of them do, as no pair
weighs more than 1.)

The solver is igraph's, which reaches leidenalg's objective some ten times faster.  leidenalg, the published solver,
can be chosen instead, to compare.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from threading import Lock
from typing import NamedTuple

import igraph
import leidenalg
import numpy as np
from scipy import sparse

from cellsegmenter.consensus.edges import edge_unit
from cellsegmenter.consensus.pieces import Pieces
from cellsegmenter.consensus.resolution import Solver

__all__ = ["Objective", "leiden_communities", "quality", "solve_graph", "solve_pieces"]

_ITERATIONS = 2  # as in leidenalg; further ones change the objective in the fourth digit
_PAIRS = 2**16  # edges that are Python objects at a time
_igraph_random = Lock()


class Objective(NamedTuple):
    """Which cut is wanted."""

    threshold: float  # θ: γ_abs for CPM; for RB γ / 2m, with m of the whole graph
    use_strength: bool = False  # weigh pixels by their strength (RB) instead of equally (CPM)
    solver: Solver = "igraph"


def solve_graph(
    pieces: Pieces, objective: Objective, *, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The communities of the pixels of some pieces of the graph.

    Parameters
    ----------
    pieces : Pieces
    objective : Objective
    random_state : int
        Seeds every piece separately, so that the result does not depend on what else is in the image.

    Returns
    -------
    pixel, community : two (n,) int64 arrays
        A community is named after its first flat pixel.  Where two squares of a large component claim a
        pixel, it occurs twice; pixels that squares leave to nobody do not occur.
    """
    unit = edge_unit(int(pieces.n_visits[0]))
    edges = sparse.csr_array(
        (pieces.edges.data * unit, pieces.edges.indices, pieces.edges.indptr), shape=pieces.edges.shape
    )
    weight = pieces.strength * unit if objective.use_strength else pieces.size
    first = pieces.first_pixel
    community = solve_pieces(edges, pieces.start, first, weight, objective, random_state)
    kept = np.ones(len(community), dtype=bool)
    for piece in np.flatnonzero(np.isfinite(pieces.square[:, 0, 0])):
        here = slice(pieces.start[piece], pieces.start[piece + 1])
        kept[here] = _own(community[here], pieces.centre[here], pieces.size[here], pieces.square[piece])
    apart = quality(edges, pieces.inside * unit, pieces.size, weight, community, objective.threshold) < 0
    name = np.where(
        np.repeat(apart, pieces.size), pieces.pixels, np.repeat(_first_pixel(community, first), pieces.size)
    )
    of_pixel = np.repeat(kept, pieces.size)
    return pieces.pixels[of_pixel], name[of_pixel]


def leiden_communities(
    edges: sparse.csr_array,
    node_weight: np.ndarray,
    threshold: float,
    *,
    solver: Solver = "igraph",
    seed: int = 0,
) -> np.ndarray:
    """Communities of one graph.

    Parameters
    ----------
    edges : (n, n) strictly upper triangular sparse array
    node_weight : (n,) array
    threshold : float
        θ of the objective.
    solver : {"igraph", "leidenalg"}
    seed : int
        Of leidenalg; igraph draws from its current random generator.

    Returns
    -------
    (n,) int array of communities 0, 1, ...
    """
    n = edges.shape[0]
    first = np.repeat(np.arange(n), np.diff(edges.indptr))
    # An iterator of pairs, and not an array: igraph turns an array into a list for every edge, and Python's
    # garbage collector, woken by so many lists, then takes several times as long as the solver (measured:
    # 1.3 µs an edge against 0.2).  Piece by piece, as Python's numbers take ten times the memory of the edges.
    pieces = range(0, len(first), _PAIRS)
    pairs = chain.from_iterable(
        zip(first[i : i + _PAIRS].tolist(), edges.indices[i : i + _PAIRS].tolist(), strict=True)
        for i in pieces
    )
    graph = igraph.Graph(n, edges=pairs)
    if solver == "leidenalg":
        partition = leidenalg.find_partition(
            graph,
            leidenalg.CPMVertexPartition,
            weights=edges.data.tolist(),
            node_sizes=node_weight.tolist(),
            resolution_parameter=threshold,
            n_iterations=_ITERATIONS,
            seed=seed,
        )
        return np.asarray(partition.membership)
    found = graph.community_leiden(
        objective_function="CPM",
        weights=edges.data,
        node_weights=node_weight.tolist(),
        resolution=threshold,
        n_iterations=_ITERATIONS,
    )
    return np.asarray(found.membership)


def solve_pieces(
    edges: sparse.csr_array,
    start: np.ndarray,
    first_pixel: np.ndarray,
    node_weight: np.ndarray,
    objective: Objective,
    random_state: int,
) -> np.ndarray:
    """(n,) community of each vertex, named after the place of its first vertex."""
    threshold = objective.threshold
    linked, start, edges = _prune(edges, start, node_weight, threshold)
    node_weight = node_weight[linked]
    community = np.arange(len(first_pixel))  # alone, until the solver says otherwise
    with _private_igraph_random() as generator:
        for low, high in pairwise(start):
            if high - low < 2:
                continue
            members = linked[low:high]
            generator.seed(f"{random_state} {first_pixel[members[0]]}")
            part = sparse.csr_array(edges[low:high, low:high])
            local = leiden_communities(
                part,
                node_weight[low:high],
                threshold,
                solver=objective.solver,
                seed=generator.getrandbits(31) if objective.solver == "leidenalg" else 0,
            )
            community[members] = members[np.unique(local, return_index=True)[1]][local]
    return community


def quality(
    edges: sparse.csr_array,
    inside: np.ndarray,
    size: np.ndarray,
    node_weight: np.ndarray,
    community: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """(n,) part that the community of each vertex has in Q, over all pairs of its pixels."""
    _, community = np.unique(community, return_inverse=True)
    n = int(community.max(initial=-1)) + 1
    first = np.repeat(community, np.diff(edges.indptr))
    within = first == community[edges.indices]
    gained = np.bincount(community, weights=inside, minlength=n)
    gained += np.bincount(first[within], weights=edges.data[within], minlength=n)
    # Σ_{p<p'} a a' = ((Σ a)² - Σ a²) / 2; the pixels of a vertex are alike, so each has the same share of its weight.
    squares = np.bincount(community, weights=node_weight**2 / size, minlength=n)
    pairs = (np.bincount(community, weights=node_weight, minlength=n) ** 2 - squares) / 2
    return (gained - threshold * pairs)[community]


def _first_pixel(community: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(n,) the first pixel in the community of each vertex, given the first pixel of each vertex."""
    _, inverse = np.unique(community, return_inverse=True)
    least = np.full(int(inverse.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, first)
    return least[inverse]


def _prune(
    edges: sparse.csr_array, start: np.ndarray, node_weight: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Leave out vertices that every optimum leaves alone: those of whose edges none exceeds θ a a'.

    Exact: such a vertex takes part in no community, because leaving one gains Σ (θ a a' - e) > 0; and as none
    of its edges pays, no neighbour loses an edge that could hold it.

    Returns
    -------
    The vertices that stay, where the pieces now start among them, and the edges between them.
    """
    n = edges.shape[0]
    first = np.repeat(np.arange(n, dtype=np.int32), np.diff(edges.indptr))
    expected = threshold * node_weight[first] * node_weight[edges.indices]
    pays = np.flatnonzero(edges.data > expected)
    stays = np.zeros(n, dtype=bool)
    stays[first[pays]] = True
    stays[edges.indices[pays]] = True
    linked = np.flatnonzero(stays)
    start = np.concatenate([[0], np.cumsum(stays)])[start]
    return linked, start, edges if stays.all() else edges[linked][:, linked]


def _own(community: np.ndarray, centre: np.ndarray, size: np.ndarray, square: np.ndarray) -> np.ndarray:
    """(n,) bool: the vertices of communities whose centroid lies in the square; its neighbours have the others."""
    _, inverse = np.unique(community, return_inverse=True)
    moments = [np.bincount(inverse, weights=axis * size) for axis in centre.T]
    centroid = np.stack(moments, axis=1) / np.bincount(inverse, weights=size)[:, None]
    return np.all((centroid >= square[0]) & (centroid < square[1]), axis=1)[inverse]


@contextmanager
def _private_igraph_random() -> Iterator[random.Random]:
    """Let igraph draw from a generator of our own, and give it back Python's afterwards (its default)."""
    generator = random.Random()
    with _igraph_random:  # igraph has one generator per process
        igraph.set_random_number_generator(generator)
        try:
            yield generator
        finally:
            igraph.set_random_number_generator(random)
