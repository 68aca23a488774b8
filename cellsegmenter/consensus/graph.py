"""The co-membership graph, cut into blocks that can be solved one by one (Sec. 4).

Vertices are the pixels that are foreground often enough; two of them can have an edge only if some instance
covers both.  So the connected components of the bipartite graph pixel - instance bound those of the pixel
graph, and they follow from Π without a single edge.

**Solving by component is exact.**  Joining two components adds no internal weight and a positive penalty,
γ |C| |C'| for CPM and γ/2m S(C) S(C') for RB, so no optimum does it; for RB the m must be that of the whole
graph, which is why `PixelGraph` computes the strengths of all pixels before anything is solved.

A component too large for memory (dense tissue) is cut into tiles with a halo; each community then belongs to
the tile that holds its centroid.  This is an approximation, with a halo of two object diameters a good one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.sparse import csgraph

from cellsegmenter.consensus.edges import pixel_edges

__all__ = ["Block", "EdgeSource", "PixelGraph"]

# Small components are solved together up to this many pixels (enough to make Python's share negligible),
# and components beyond the second number are tiled: its edges take about 1 GB in the solver.
_BLOCK_PIXELS = 8_192
_TILED_PIXELS = 65_536

EdgeSource: TypeAlias = "sparse.csr_array | partial[sparse.csr_array]"  # edges, or how to build them


@dataclass(frozen=True)
class Block:
    """Pixels that are solved together: several whole components, or one tile of a large component."""

    rows: np.ndarray  # (n,) int: vertices of the graph, ascending
    component_start: np.ndarray  # (k + 1,) int: where the components begin among the rows, and the end
    own: np.ndarray  # (n,) bool: False in the halo of a tile
    tile: np.ndarray | None = None  # (2, 2): its first row and column, and where the next tile begins; px

    def reach_end(self, image_row: np.ndarray, cutoff_distance: float) -> np.ndarray:
        """(n,) per pixel: the first one after it that is in another component or too many image rows down."""
        component = np.repeat(np.arange(len(self.component_start) - 1), np.diff(self.component_start))
        span = float(image_row.max(initial=0)) + cutoff_distance + 1
        key = component * span + image_row
        return np.searchsorted(key, key + cutoff_distance, side="left")


class PixelGraph:
    """The graph over some pixels of an image: Π, blocks, and as many edges as the memory budget holds.

    Parameters
    ----------
    membership : (height * width, n_instances) sparse csr array, Π
    vertices : (n,) int array
        Flat pixels that take part.
    width : int
        Of the image, in px.
    n_visits : int
        Windows that see a pixel × posterior samples.
    cutoff_distance, min_edge : float
        Which pairs have an edge, see `pixel_edges`.
    halo : float
        Margin in px around the tiles of very large components.
    n_jobs : int
        Processes for joblib.
    max_cache_bytes : int
        Edges beyond this are rebuilt each time they are needed.
    tiled_pixels : int
        Components with more pixels than this are tiled.
    """

    def __init__(
        self,
        membership: sparse.csr_array,
        vertices: np.ndarray,
        *,
        width: int,
        n_visits: int,
        cutoff_distance: float,
        min_edge: float,
        halo: float,
        n_jobs: int = 1,
        max_cache_bytes: int = 2**30,
        tiled_pixels: int = _TILED_PIXELS,
    ) -> None:
        self.n_visits = n_visits
        self.cutoff_distance = cutoff_distance
        self.min_edge = min_edge
        self.n_jobs = n_jobs
        rows = membership[vertices]
        component = _components(rows)
        # By component, and within it in row-major order: components become slices, and reach a binary search.
        order = np.argsort(component, kind="stable")
        self.membership = rows[order]
        self.pixels = vertices[order]
        self.position = np.stack(np.divmod(self.pixels, width), axis=1).astype(np.int32)
        self.blocks = _make_blocks(component[order], self.position, halo, tiled_pixels)
        self._budget = max_cache_bytes
        self._cache: dict[int, sparse.csr_array] = {}
        self._strength: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def source(self, index: int) -> EdgeSource:
        """The edges of a block if they are in memory, otherwise a recipe that another process can follow."""
        if index in self._cache:
            return self._cache[index]
        block = self.blocks[index]
        position = self.position[block.rows]
        return partial(
            pixel_edges,
            self.membership[block.rows],
            position,
            block.reach_end(position[:, 0], self.cutoff_distance),
            n_visits=self.n_visits,
            cutoff_distance=self.cutoff_distance,
            min_edge=self.min_edge,
        )

    @property
    def strength(self) -> np.ndarray:
        """(n,) sum of the weights of each pixel's edges; the first call builds every edge once."""
        if self._strength is None:
            strength = np.zeros(len(self))
            for index, (of_block, edges) in enumerate(self._measure()):
                block = self.blocks[index]
                strength[block.rows[block.own]] = of_block[block.own]
                if edges is not None and edges.data.nbytes + edges.indices.nbytes <= self._budget:
                    self._budget -= edges.data.nbytes + edges.indices.nbytes
                    self._cache[index] = edges
            self._strength = strength
        return self._strength

    @property
    def mean_weight(self) -> float:
        """2W / (n (n - 1)): the mean weight over all pairs of pixels, with or without an edge."""
        n = len(self)
        return float(self.strength.sum()) / (n * (n - 1)) if n > 1 else 0.0

    def _measure(self) -> Iterator[tuple[np.ndarray, sparse.csr_array | None]]:
        # Dispatch is lazy, so that blocks sent off once the budget is spent need not send their edges back.
        jobs = (delayed(_strength)(self.source(i), self._budget > 0) for i in range(len(self.blocks)))
        return Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs)


def _strength(source: EdgeSource, keep: bool) -> tuple[np.ndarray, sparse.csr_array | None]:
    edges = source() if callable(source) else source
    strength = edges.sum(axis=1, dtype=float) + edges.sum(axis=0, dtype=float)
    return strength, edges if keep else None


def _components(rows: sparse.csr_array) -> np.ndarray:
    """(n,) component of each pixel, numbered by first pixel; an instance links all pixels that it covers."""
    n_pixels, n_instances = rows.shape
    indptr = np.concatenate([rows.indptr, np.full(n_instances, rows.indptr[-1])])
    size = n_pixels + n_instances
    bipartite = sparse.csr_array((rows.data, rows.indices + n_pixels, indptr), shape=(size, size))
    component = csgraph.connected_components(bipartite, directed=False)[1][:n_pixels]
    return _by_first_occurrence(component)


def _by_first_occurrence(values: np.ndarray) -> np.ndarray:
    """The same partition, numbered 0, 1, ... in the order in which its parts first occur."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _make_blocks(component: np.ndarray, position: np.ndarray, halo: float, tiled_pixels: int) -> list[Block]:
    """Whole components together up to `_BLOCK_PIXELS`; components above `tiled_pixels` as tiles."""
    start = np.flatnonzero(np.diff(component, prepend=-1))
    start = np.append(start, len(component))
    size = np.diff(start)
    blocks: list[Block] = []
    first = 0  # first component of the block that is being filled
    for j, pixels in enumerate(size):
        if pixels > tiled_pixels:
            blocks += _whole(start, first, j)
            blocks += _tiles(start[j], position[start[j] : start[j + 1]], halo, tiled_pixels)
            first = j + 1
        elif start[j + 1] - start[first] > _BLOCK_PIXELS:
            blocks += _whole(start, first, j)
            first = j
    return blocks + _whole(start, first, len(size))


def _whole(start: np.ndarray, first: int, stop: int) -> list[Block]:
    """Components first .. stop - 1 as one block, or nothing if there are none."""
    rows = np.arange(start[first], start[stop])
    return (
        [Block(rows, start[first : stop + 1] - start[first], np.ones(len(rows), bool))] if len(rows) else []
    )


def _tiles(offset: int, position: np.ndarray, halo: float, tiled_pixels: int) -> Iterator[Block]:
    """Square tiles of one component, which with their halo have at most about `tiled_pixels` pixels."""
    side = max(np.sqrt(tiled_pixels) - 2 * halo, 2 * halo)
    tile = (position / side).astype(int)
    for corner in np.unique(tile, axis=0):
        box = np.stack([corner, corner + 1]) * side
        local = np.flatnonzero(np.all((position >= box[0] - halo) & (position < box[1] + halo), axis=1))
        own = np.all(tile[local] == corner, axis=1)
        yield Block(offset + local, np.array([0, len(local)]), own, box)
