"""The arrangement of candidate shapes: which pixels are covered by the same ones.

Every posterior sample is a choice among the same shapes.  So pixels in the same shapes share their object in every
sample, and are solved as one:

- a *cell* is all pixels of the image that are covered by the same shapes;
- a *part* is a connected part (8-neighbourhood) of a cell.  Objects are unions of parts.

A tile lists its pixels as runs: pixels of one cell that follow each other in a row.  It looks one pixel beyond its
edges.  So two neighbouring tiles know the same pixels, and parts that share one are the same part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from cellsegmenter.consensus.runs import (
    Box,
    covering_shapes,
    paint_runs,
    runs_of_spans,
    spread,
    star_spans,
    touching_runs,
)
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.windows import Tiling

__all__ = ["Arrangement", "arrange", "label_parts", "paint"]

_NOBODY = np.iinfo(np.int64).max
# What the whole image needs to know of a tile: all but its runs.
_JOINED = (
    "key", "shape_start", "shape", "part_cell", "part_size", "part_first", "neighbours", "ring_pixel", "ring_part"
)  # fmt: skip


class Arrangement(NamedTuple):
    """The cells of an image in the order of their first pixel, and their parts."""

    size: np.ndarray  # (n_cells,) int64 px
    part_cell: np.ndarray  # (n_parts,) int64: the cell that each part belongs to
    part_size: np.ndarray  # (n_parts,) int64 px
    part_first: np.ndarray  # (n_parts,) int64: first flat pixel
    neighbours: np.ndarray  # (m, 2) int64: pairs of parts that touch
    tile_start: np.ndarray  # (n_tiles + 1,) int64: where each tile begins in `tile_parts`
    tile_parts: np.ndarray  # int64: for every tile, the number of each part that it shows

    def in_tile(self, tile: int, values: np.ndarray) -> np.ndarray:
        """Those of the values (n_parts,) whose parts a tile shows, in the tile's order."""
        return values[self.tile_parts[self.tile_start[tile] : self.tile_start[tile + 1]]]

    def merged(self, number: np.ndarray) -> Arrangement:
        """With cells of the same number (n_cells,) as one cell; numbers are in the order of their first cell."""
        size = np.bincount(number, weights=self.size).astype(np.int64)
        return self._replace(size=size, part_cell=number[self.part_cell])


def arrange(
    store: Store,
    tiling: Tiling,
    stars: Stars,
    used: np.ndarray,
    *,
    n_jobs: int | None = 1,
    progress: str | None = None,
) -> tuple[Arrangement, sparse.csr_array]:
    """Find the cells of an image, tile by tile.

    Parameters
    ----------
    store : Store
        Receives the records `cells-{tile}`.
    tiling : Tiling
    stars : Stars
        n shapes, px.  They may reach beyond the image.
    used : (n,) bool array
        The shapes that take part.
    n_jobs, progress
        See `run_tasks`.

    Returns
    -------
    arrangement : Arrangement
    covering : (n_cells, n) sparse int8 array
        1 where a shape covers a cell.
    """
    # A set of shapes is known by the sum of their keys.  Among millions of sets no two have the same sum.
    key = np.random.default_rng(0).integers(1, 2**64, len(used), dtype=np.uint64)
    boxes = stars.boxes

    def touching(box: Box) -> tuple[Stars, np.ndarray, np.ndarray]:
        top, bottom, left, right = box
        near = (boxes[:, 0] < bottom) & (boxes[:, 2] > top) & (boxes[:, 1] < right) & (boxes[:, 3] > left)
        index = np.flatnonzero(near & used)
        return stars.take(index), index, key[index]

    def task(tile: int) -> Task:
        frame = _frame(tiling, tile)
        return Task(
            f"cells-{tile}",
            _tile_cells,
            (),
            lambda: (*touching(frame), tiling.box(tile), frame, tiling.image_shape[1]),
        )

    tasks = [task(tile) for tile in range(len(tiling))]
    run_tasks(store, tasks, n_jobs, progress=progress)
    return _join([store.load(task.name, *_JOINED) for task in tasks], len(used))


def paint(store: Store, tiling: Tiling, tile: int, values: np.ndarray) -> np.ndarray:
    """(height, width) image of a tile, from the value (n,) of each part that it shows; 0 where no shape is."""
    frame_top, frame_bottom, frame_left, frame_right = _frame(tiling, tile)
    shape = (frame_bottom - frame_top, frame_right - frame_left)
    runs = store.load(f"cells-{tile}", "start", "stop", "part")
    top, bottom, left, right = tiling.box(tile)
    inner = np.s_[top - frame_top : bottom - frame_top, left - frame_left : right - frame_left]
    return paint_runs(shape, runs["start"], runs["stop"], values[runs["part"]])[inner]


def label_parts(arrangement: Arrangement, community: np.ndarray, min_size: int) -> np.ndarray:
    """(n_parts,) int32 label of each part, given the community (n_cells,) of each cell; -1 for none.

    A community is one object per connected part (8-neighbourhood) of at least the minimum size, as in `labels`.
    Objects are 1..n in the order of their first pixel.  The minimum size is at least 1 px.
    """
    of_part = community[arrangement.part_cell]
    first, second = arrangement.neighbours.T
    whole = _connected(len(of_part), arrangement.neighbours[of_part[first] == of_part[second]])
    n = int(whole.max(initial=-1)) + 1
    begins = np.full(n, _NOBODY)
    np.minimum.at(begins, whole, arrangement.part_first)
    inside = of_part >= 0
    size = np.bincount(whole[inside], weights=arrangement.part_size[inside], minlength=n)
    order = np.argsort(begins)
    order = order[size[order] >= min_size]
    label = np.zeros(n, np.int32)
    label[order] = np.arange(1, len(order) + 1)
    return label[whole]


def _connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """(n,) int component of each of n nodes, given linked pairs (m, 2)."""
    if not n:
        return np.zeros(0, np.int32)
    links = sparse.coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return csgraph.connected_components(links, directed=False)[1]


def _tile_cells(
    store: Store, stars: Stars, index: np.ndarray, key: np.ndarray, box: Box, frame: Box, image_width: int
) -> Record:
    """The cells and parts that a tile shows, with the pixels around it.

    Parameters
    ----------
    store : Store
        Not used.
    stars : Stars
        The shapes that touch the tile.
    index : (n,) int array
        Their numbers in the image.
    key : (n,) uint64 array
    box, frame : four ints
        The tile without and with the pixels around it.
    image_width : int
    """
    height, width = frame[1] - frame[0], frame[3] - frame[2]
    spans = star_spans(stars, frame)
    start, stop, total = runs_of_spans(spans, key)
    cell_key, begins, cell = np.unique(total, return_index=True, return_inverse=True)
    covered, shape = covering_shapes(spans, start[begins])

    pairs = touching_runs(start, stop, width)
    alike = cell[pairs[:, 0]] == cell[pairs[:, 1]]
    part = _connected(len(start), pairs[alike]).astype(np.int64)
    n = int(part.max(initial=-1)) + 1
    part_cell = np.zeros(n, np.int64)
    part_cell[part] = cell
    touching = np.sort(part[pairs[~alike]], axis=1)
    touching = np.unique(touching[:, 0] * n + touching[:, 1])

    # Only pixels of the tile itself count.
    row, column = np.divmod(start, width)
    row, low, high = row + frame[0], column + frame[2], stop - start + column + frame[2]
    low, high = np.maximum(low, box[2]), np.minimum(high, box[3])
    own = np.flatnonzero((row >= box[0]) & (row < box[1]) & (low < high))
    part_first = np.full(n, _NOBODY)
    np.minimum.at(part_first, part[own], row[own] * image_width + low[own])

    canvas = paint_runs((height, width), start, stop, part + 1)
    ring = np.ones(canvas.shape, dtype=bool)
    ring[2:-2, 2:-2] = False  # the pixels around the tile, and its own beside them
    row, column = np.nonzero(ring & (canvas > 0))
    return {
        "start": start,
        "stop": stop,
        "part": part,
        "key": cell_key,
        "shape_start": np.searchsorted(covered, np.arange(len(cell_key) + 1)),
        "shape": index[shape],
        "part_cell": part_cell,
        "part_size": np.bincount(part[own], weights=(high - low)[own], minlength=n).astype(np.int64),
        "part_first": part_first,
        "neighbours": np.stack(np.divmod(touching, max(n, 1)), axis=1),
        "ring_pixel": (row + frame[0]) * image_width + column + frame[2],
        "ring_part": canvas[row, column] - 1,
    }


def _join(records: list[Record], n_shapes: int) -> tuple[Arrangement, sparse.csr_array]:
    """The cells of the image, and the shapes that cover them, from those of its tiles."""
    # Cells of the same key are one cell; the first tile that shows it tells its shapes.
    cell_start = _starts(records, "key")
    key, shown, cell = np.unique(_whole(records, "key"), return_index=True, return_inverse=True)
    n_of_shapes = np.concatenate([np.diff(record["shape_start"]) for record in records])
    shape_start = np.cumsum(n_of_shapes) - n_of_shapes
    of_cell, step = spread(n_of_shapes[shown])
    shape = _whole(records, "shape")[shape_start[shown][of_cell] + step]

    part = _whole_parts(records)
    n_parts = int(part.max(initial=-1)) + 1
    part_cell = np.zeros(n_parts, np.int64)
    part_cell[part] = cell[_whole(records, "part_cell", cell_start)]
    part_size = np.bincount(part, weights=_whole(records, "part_size"), minlength=n_parts).astype(np.int64)
    part_first = np.full(n_parts, _NOBODY)
    np.minimum.at(part_first, part, _whole(records, "part_first"))

    cell_first = np.full(len(key), _NOBODY)
    np.minimum.at(cell_first, part_cell, part_first)
    number = np.empty(len(key), np.int64)
    number[np.argsort(cell_first)] = np.arange(len(key))
    part_cell = number[part_cell]
    tile_start = _starts(records, "part_cell")
    arrangement = Arrangement(
        np.bincount(part_cell, weights=part_size, minlength=len(key)).astype(np.int64),
        part_cell,
        part_size,
        part_first,
        part[_whole(records, "neighbours", tile_start)],
        tile_start,
        part,
    )
    ones = np.ones(len(shape), np.int8)
    return arrangement, sparse.csr_array((ones, (number[of_cell], shape)), shape=(len(key), n_shapes))


def _whole_parts(records: list[Record]) -> np.ndarray:
    """The part of the image that each part in a tile belongs to: those of two tiles with a common pixel are one."""
    start = _starts(records, "part_cell")
    n_shown = int(start[-1])
    _, pixel = np.unique(_whole(records, "ring_pixel"), return_inverse=True)
    links = np.stack([_whole(records, "ring_part", start), pixel + n_shown], axis=1)
    joined = _connected(n_shown + int(pixel.max(initial=-1)) + 1, links)[:n_shown]
    return np.unique(joined, return_inverse=True)[1]


def _starts(records: list[Record], field: str) -> np.ndarray:
    """(n_tiles + 1,) int: where the values of each tile begin, of those of all tiles."""
    return np.cumsum([0, *(len(record[field]) for record in records)])


def _whole(records: list[Record], field: str, start: np.ndarray | None = None) -> np.ndarray:
    """The values of all tiles, numbered on from tile to tile if they are numbers that `start` says."""
    if start is None:
        return np.concatenate([record[field] for record in records])
    return np.concatenate([record[field] + begin for record, begin in zip(records, start, strict=False)])


def _frame(tiling: Tiling, tile: int) -> Box:
    """A tile with the pixels around it."""
    top, bottom, left, right = tiling.box(tile)
    height, width = tiling.image_shape
    return max(top - 1, 0), min(bottom + 1, height), max(left - 1, 0), min(right + 1, width)
