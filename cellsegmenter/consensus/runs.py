"""Pixels of shapes as runs: pixels of a row that follow each other, from a first one to one past the last.

A shape of hundreds of pixels is some dozens of runs, so what is done run by run is done fast.  Pixels are flat: row ×
width + column of a rectangle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellsegmenter.recognition.stars import Stars, vertices

__all__ = [
    "Box", "Spans", "covering_shapes", "paint_runs", "runs_of_spans", "spread", "star_spans", "touching_runs"
]  # fmt: skip

Box = tuple[int, int, int, int]  # first row, one past the last, first column, one past the last


class Spans(NamedTuple):
    """Pixels of a rectangle that follow each other in a row, for some shapes."""

    shape: np.ndarray  # (n,) int64
    start: np.ndarray  # (n,) int64: first flat pixel of the rectangle
    stop: np.ndarray  # (n,) int64: one past the last


def star_spans(stars: Stars, box: Box) -> Spans:
    """The pixels of a rectangle whose centres lie in shapes.

    An outline enters and leaves a row of pixel centres at points that are sorted and taken in pairs.  Each point
    depends on the outline alone, so that a pixel belongs to the same shapes in every rectangle.
    """
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    corner = vertices(stars).astype(np.float64)
    following = np.roll(corner, -1, axis=1)
    swap = corner[..., :1] > following[..., :1]
    y0, x0 = np.where(swap, following, corner).reshape(-1, 2).T
    y1, x1 = np.where(swap, corner, following).reshape(-1, 2).T
    # Row r crosses a side if r + 0.5 lies in [y0, y1).
    first = np.clip(np.ceil(y0 - 0.5), top, bottom).astype(np.int64)
    count = np.clip(np.ceil(y1 - 0.5), top, bottom).astype(np.int64) - first
    side, step = spread(count)
    row = first[side] + step
    slope = (x1[side] - x0[side]) / (y1[side] - y0[side])
    column = np.ceil(x0[side] + slope * (row + 0.5 - y0[side]) - 0.5)
    column = np.clip(column, left, right).astype(np.int64) - left
    line = side // corner.shape[1] * height + row - top
    line, column = np.divmod(np.sort(line * (width + 1) + column), width + 1)
    shape, row = np.divmod(line[::2], height)
    start, stop = row * width + column[::2], row * width + column[1::2]
    kept = start < stop
    return Spans(shape[kept], start[kept], stop[kept])


def runs_of_spans(spans: Spans, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First pixel, one past the last, and sum of keys of the longest runs of pixels in the same spans."""
    at = np.concatenate([spans.start, spans.stop])
    change = np.concatenate([key[spans.shape], np.negative(key[spans.shape])])
    order = np.argsort(at, kind="stable")
    at, total = at[order], np.cumsum(change[order])  # modulo 2**64
    last = np.flatnonzero(np.diff(at, append=-1))
    at, total = at[last], total[last]
    covered = np.flatnonzero(total)  # never the last one, where every span has ended
    return at[covered], at[covered + 1], total[covered]


def covering_shapes(spans: Spans, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (index of a pixel, shape) of some pixels and the shapes that cover them, sorted."""
    order = np.argsort(pixel)
    low, high = np.searchsorted(pixel[order], [spans.start, spans.stop])
    span, step = spread(high - low)
    found, shape = order[low[span] + step], spans.shape[span]
    by_pixel = np.lexsort((shape, found))
    return found[by_pixel], shape[by_pixel]


def touching_runs(start: np.ndarray, stop: np.ndarray, width: int) -> np.ndarray:
    """(m, 2) pairs of runs that touch, sideways or diagonally, of runs in order."""
    row = start // width * width
    sideways = np.flatnonzero((stop[:-1] == start[1:]) & (row[:-1] == row[1:]))
    low = np.maximum(start - 1, row) + width
    high = np.minimum(stop + 1, row + width) + width
    first = np.searchsorted(stop, low, side="right")
    upper, step = spread(np.searchsorted(start, high) - first)
    pairs = [np.stack([sideways, sideways + 1], axis=1), np.stack([upper, first[upper] + step], axis=1)]
    return np.concatenate(pairs)


def paint_runs(shape: tuple[int, int], start: np.ndarray, stop: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Image of the value of each run; 0 elsewhere."""
    edges = np.stack([start, stop], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=shape[0] * shape[1])
    alternating = np.zeros(len(lengths), values.dtype)
    alternating[1::2] = values
    return np.repeat(alternating, lengths).reshape(shape)


def spread(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each index as often as `count` says, and 0, 1, ... within it."""
    index = np.repeat(np.arange(len(count)), count)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
