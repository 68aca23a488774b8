"""What the solver needs of a share of the graph, made once and kept: any further cut starts from it.

Building the edges takes about as long as a cut, and nothing of them depends on the resolution.  Between merged pixels
they are few, some ten a pixel, and so they can be kept like the rows of Π that they are made from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.graph import PixelGraph
from cellsegmenter.store import Record

__all__ = ["Pieces", "assemble", "pieces_of_record", "pieces_record"]


class Pieces(NamedTuple):
    """k pieces of the graph that share no edge, with n vertices: whole components, or squares of large ones."""

    edges: sparse.csr_array  # (n, n) strictly upper triangular int32, in multiples of `edge_unit`
    start: np.ndarray  # (k + 1,) int64: the first vertex of each piece, and n
    # (k, 2, 2) float: its first row and column, and where the next begins; nan: the whole component
    square: np.ndarray
    size: np.ndarray  # (n,) int64 pixels of each vertex
    centre: np.ndarray  # (n, 2) float, px
    inside: np.ndarray  # (n,) int64 sum of the edges between its pixels, in multiples of `edge_unit`
    strength: np.ndarray  # (n,) int64 sum of the strengths of its pixels, in multiples of `edge_unit`
    pixels: np.ndarray  # (Σ size,) int64 flat pixels, vertex by vertex, and within one ascending
    total: np.ndarray  # (1,) int64 sum of all strengths, without those in the halos of squares
    n_visits: np.ndarray  # (1,) int64 windows that see a pixel × posterior samples

    @property
    def first_pixel(self) -> np.ndarray:
        """(n,) the first flat pixel of each vertex."""
        return self.pixels[np.cumsum(self.size) - self.size]


def assemble(graph: PixelGraph) -> Pieces:
    """Build every edge of a graph."""
    edges, strength, squares = [], [], []
    starts = [np.zeros(1, np.int64)]
    total = n = 0
    for index, block in enumerate(graph.blocks):
        edges.append(graph.edges(index))
        strength.append(graph.strength(index, edges[-1]))
        total += int(strength[-1][block.own].sum())
        starts.append(n + block.component_start[1:])
        n += len(block.rows)
        square = np.full((2, 2), np.nan) if block.square is None else block.square
        squares.append(np.repeat(square[None], len(block.component_start) - 1, axis=0))
    rows = np.concatenate([block.rows for block in graph.blocks] or [np.zeros(0, np.int64)])
    return Pieces(
        edges=_block_diagonal(edges),
        start=np.concatenate(starts),
        square=np.concatenate(squares or [np.zeros((0, 2, 2))]),
        size=graph.vertices.size[rows],
        centre=graph.vertices.centre[rows],
        inside=graph.vertices.inside[rows],
        strength=np.concatenate(strength or [np.zeros(0, np.int64)]),
        pixels=graph.pixels_of(rows),
        total=np.array([total]),
        n_visits=np.array([graph.rule.n_visits]),
    )


def pieces_record(pieces: Pieces) -> Record:
    """Pieces as arrays, to be stored."""
    record = pieces._asdict()
    edges = record.pop("edges")
    return record | {"weight": edges.data, "neighbour": edges.indices, "row_start": edges.indptr}


def pieces_of_record(record: Record) -> Pieces:
    """The inverse of `pieces_record`."""
    fields = dict(record)
    n = len(fields["size"])
    parts = fields.pop("weight"), fields.pop("neighbour"), fields.pop("row_start")
    return Pieces(edges=sparse.csr_array(parts, shape=(n, n)), **fields)


def _block_diagonal(blocks: list[sparse.csr_array]) -> sparse.csr_array:
    """As `scipy.sparse.block_diag`, which goes through coordinates and takes three times the memory."""
    offset = np.cumsum([0, *(block.shape[0] for block in blocks)])
    before = np.cumsum([0, *(block.nnz for block in blocks)])
    nothing = np.zeros(0, np.int32)
    data = np.concatenate([nothing, *(block.data for block in blocks)])
    indices = np.concatenate(
        [nothing, *(block.indices + np.int32(at) for block, at in zip(blocks, offset, strict=False))]
    )
    starts = [block.indptr[1:] + at for block, at in zip(blocks, before, strict=False)]
    indptr = np.concatenate([np.zeros(1, np.int64), *starts])
    return sparse.csr_array((data, indices, indptr), shape=(int(offset[-1]),) * 2)
