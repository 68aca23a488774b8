"""The part of the co-membership graph that one task solves, cut into blocks (Sec. 4).

Vertices are the pixels that are foreground often enough, those that nothing tells apart as one; see `contraction`.

**Solving by component is exact.**  Joining two components adds no internal weight and a positive penalty,
γ |C| |C'| for CPM and γ/2m S(C) S(C') for RB, so no optimum does it; for RB the m must be that of the whole
graph, which is why it is measured before anything is solved.

A component too large for memory (dense tissue) is cut into squares with a halo; each community then belongs to
the square that holds its centroid.  This is an approximation, with a halo of two object diameters a good one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.components import Share, local_components
from cellsegmenter.consensus.contraction import merge_pixels
from cellsegmenter.consensus.edges import Visits, pixel_edges
from cellsegmenter.consensus.membership import load_pixels
from cellsegmenter.store import Store

__all__ = ["Block", "EdgeRule", "PixelGraph", "load_graph"]

# Small components are solved together up to this many vertices (enough to make Python's share negligible).
_BLOCK_PIXELS = 8_192


@dataclass(frozen=True)
class EdgeRule:
    """Which pairs of pixels have an edge, and what it weighs."""

    cutoff_distance: float  # px, d_c
    min_edge: float  # E_min, of the average weight
    visits: Visits
    merge_tolerance: float = 0.0  # by how much the rows of merged pixels may differ, see `merge_pixels`

    @property
    def n_visits(self) -> int:
        """Windows that see a pixel × posterior samples."""
        return self.visits.total


@dataclass(frozen=True)
class Block:
    """Vertices that are solved together: several whole components, or one square of a large component."""

    rows: np.ndarray  # (n,) int: vertices of the graph, ascending
    component_start: np.ndarray  # (k + 1,) int: where the components begin among the rows, and the end
    own: np.ndarray  # (n,) bool: False in the halo of a square
    square: np.ndarray | None = None  # (2, 2): its first row and column, and where the next square begins; px

    def reach_end(self, image_row: np.ndarray, cutoff_distance: float) -> np.ndarray:
        """(n,) per pixel: the first one after it that is in another component or too many image rows down."""
        component = np.repeat(np.arange(len(self.component_start) - 1), np.diff(self.component_start))
        span = float(image_row.max(initial=0)) + cutoff_distance + 1
        key = component * span + image_row
        return np.searchsorted(key, key + cutoff_distance, side="left")


class PixelGraph:
    """Some pixels of an image as vertices, and blocks of these whose edges are built when they are needed.

    Attributes
    ----------
    vertices : Vertices
    pixels : (n,) int64 array
        Flat pixels of the image, vertex by vertex, and within one ascending.
    blocks : list of Block

    Parameters
    ----------
    membership : (n, m) sparse csr int32 array
        Rows of Π in 255ths.
    pixels : (n,) int64 array
        Flat pixels of the image.
    component : (n,) int array
        Two pixels of different components share no instance.
    width : int
        Of the image, px.
    rule : EdgeRule
    squares : (k, 5) array
        Component, and first row and column, and where the next square begins, in px: components that occur here
        are solved square by square, the others as a whole.
    halo : float
        Margin in px around squares.
    """

    def __init__(
        self,
        membership: sparse.csr_array,
        pixels: np.ndarray,
        component: np.ndarray,
        *,
        width: int,
        rule: EdgeRule,
        squares: np.ndarray | None = None,
        halo: float = 0,
    ) -> None:
        self.rule = rule
        position = np.stack(np.divmod(pixels, width), axis=1)
        # By component, and within it by row: components become slices, and reach a binary search.
        self.vertices = merge_pixels(
            membership,
            position,
            component,
            tolerance=rule.merge_tolerance,
            cutoff_distance=rule.cutoff_distance,
            visits=rule.visits,
        )
        self.pixels = pixels[np.lexsort((pixels, self.vertices.of_pixel))]
        self._start = np.concatenate([[0], np.cumsum(self.vertices.size)])
        squares = np.zeros((0, 5)) if squares is None else squares
        self.blocks = list(_make_blocks(self.vertices.component, self.vertices.centre, squares, halo))

    def __len__(self) -> int:
        return len(self.vertices.size)

    def edges(self, index: int) -> sparse.csr_array:
        """The edges of a block, see `pixel_edges`."""
        block = self.blocks[index]
        centre = self.vertices.centre[block.rows]
        return pixel_edges(
            self.vertices.membership[block.rows],
            centre,
            block.reach_end(centre[:, 0], self.rule.cutoff_distance),
            visits=self.rule.visits,
            cutoff_distance=self.rule.cutoff_distance,
            min_edge=self.rule.min_edge,
            size=self.vertices.size[block.rows],
        )

    def strength(self, index: int, edges: sparse.csr_array) -> np.ndarray:
        """(n,) int64 sum of the strengths of the pixels of each vertex of a block, given the block's edges."""
        outside = edges.sum(axis=1, dtype=np.int64) + edges.sum(axis=0, dtype=np.int64)
        return outside + 2 * self.vertices.inside[self.blocks[index].rows]

    def pixels_of(self, rows: np.ndarray) -> np.ndarray:
        """All flat pixels of some vertices, one vertex after the other."""
        size = self.vertices.size[rows]
        offset = self._start[rows] - np.cumsum(size) + size
        return self.pixels[np.repeat(offset, size) + np.arange(int(size.sum()))]


def load_graph(
    store: Store,
    share: Share,
    *,
    min_weight: float,
    width: int,
    rule: EdgeRule,
    halo: float,
) -> PixelGraph:
    """The graph of a share of the work, from the pixels of its tiles."""
    parts, pixels, components, instances = [], [], [], []
    is_large = np.unique(share.squares[:, 0])
    for tile, number in zip(share.tiles, share.number, strict=True):
        rows = load_pixels(store, tile)
        vertices, local = local_components(rows.membership, min_weight)
        component = number[local]
        flat = rows.flat(vertices, width)
        wanted = (component >= 0) & (~np.isin(component, is_large) | _in_squares(flat, width, share, halo))
        parts.append(rows.membership[vertices[wanted]])
        pixels.append(flat[wanted])
        components.append(component[wanted])
        instances.append(rows.instance)
    return PixelGraph(
        _stack_rows(parts, instances),
        np.concatenate(pixels),
        np.concatenate(components),
        width=width,
        rule=rule,
        squares=share.squares,
        halo=halo,
    )


def _in_squares(flat: np.ndarray, width: int, share: Share, halo: float) -> np.ndarray:
    """(n,) bool: whether a pixel lies in any of the squares or their halo."""
    row, column = np.divmod(flat, width)
    inside = np.zeros(len(flat), dtype=bool)
    for _, top, left, bottom, right in share.squares:
        inside |= _within(row, top, bottom, halo) & _within(column, left, right, halo)
    return inside


def _within(position: np.ndarray, low: float, high: float, halo: float) -> np.ndarray:
    return (position >= low - halo) & (position < high + halo)


def _stack_rows(parts: list[sparse.csr_array], instances: list[np.ndarray]) -> sparse.csr_array:
    """Rows of several tiles below each other, with a column for each instance that occurs in them."""
    used = np.unique(
        np.concatenate([i[np.unique(part.indices)] for part, i in zip(parts, instances, strict=True)])
    )
    columns = [
        np.searchsorted(used, instance)[part.indices].astype(np.int32)
        for part, instance in zip(parts, instances, strict=True)
    ]
    starts = np.cumsum([0, *(part.nnz for part in parts)])
    indptr = [part.indptr[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return sparse.csr_array(
        (
            np.concatenate([part.data for part in parts]),
            np.concatenate(columns),
            np.concatenate([*indptr, starts[-1:]]).astype(np.int32),
        ),
        shape=(sum(part.shape[0] for part in parts), len(used)),
    )


def _make_blocks(
    component: np.ndarray, position: np.ndarray, squares: np.ndarray, halo: float
) -> Iterator[Block]:
    """Whole components together up to `_BLOCK_PIXELS`; those that are listed in `squares` by these."""
    start = np.append(np.flatnonzero(np.diff(component, prepend=-1)), len(component))
    is_large = np.isin(component[start[:-1]], squares[:, 0])
    first = 0  # first component of the block that is being filled
    for j, large in enumerate(is_large):
        if large:
            yield from _whole(start, first, j)
            here = slice(start[j], start[j + 1])
            yield from _cut(start[j], position[here], squares[squares[:, 0] == component[start[j]]], halo)
            first = j + 1
        elif start[j + 1] - start[first] > _BLOCK_PIXELS:
            yield from _whole(start, first, j)
            first = j
    yield from _whole(start, first, len(is_large))


def _whole(start: np.ndarray, first: int, stop: int) -> Iterator[Block]:
    """Components first .. stop - 1 as one block, if there are any."""
    rows = np.arange(start[first], start[stop])
    if len(rows):
        yield Block(rows, start[first : stop + 1] - start[first], np.ones(len(rows), bool))


def _cut(offset: int, position: np.ndarray, squares: np.ndarray, halo: float) -> Iterator[Block]:
    """The squares of one component that hold any of its pixels."""
    for _, top, left, bottom, right in squares:
        row, column = position.T
        local = np.flatnonzero(_within(row, top, bottom, halo) & _within(column, left, right, halo))
        own = _within(row[local], top, bottom, 0) & _within(column[local], left, right, 0)
        if own.any():
            square = np.array([[top, left], [bottom, right]])
            yield Block(offset + local, np.array([0, len(local)]), own, square)
