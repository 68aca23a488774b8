"""Parts of a large image in which objects are of one size, each with a diameter of its own.

A model knows objects of one size, and an image is rescaled to it.  Across a large image that size can change: from
tissue to tissue of a section, from well to well of a plate.  So the diameter is estimated in blocks, a median over
neighbours takes out the estimates that are off, and the image is cut in two between blocks, where that parts sizes
best, until the blocks of every part agree.  An image of one size stays whole.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from scipy.ndimage import generic_filter

from cellsegmenter.block_map import block_edges
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.region import Region

__all__ = ["Part", "parts_of_one_size", "split_by_size"]

# Side of a block: it has to hold enough objects to be judged by.
_BLOCK = 512  # px, at least
_BLOCK_DIAMETERS = 20
# In an image of more blocks than that along an axis they are larger, and judged by their middle.
_BLOCKS_PER_AXIS = 16
# The blocks of a part may differ by this factor in diameter: AP of nuclei falls by a tenth when an image is seen at 0.8
# or 1.25 times its size.  On the mosaic, where it was chosen, AP is .76 with 1.1 and .75 with 1.2.
_SPREAD = 1.1


class Part(NamedTuple):
    """A rectangle of an image and the size of the objects in it."""

    region: Region  # px
    diameter: float  # px; nan if no object stands out


def parts_of_one_size(image: Any, n_jobs: int | None = None) -> list[Part]:
    """Cut an image (C, H, W) into rectangles in each of which objects are about of one size.

    Parameters
    ----------
    image : array-like (C, H, W)
        One of more than a block and a half is read once more, block by block; of a very large one the middles of 256
        blocks.
    n_jobs : int, optional
        For joblib: blocks are judged side by side.

    Returns
    -------
    list of Part
        They cover the image and do not overlap.  One part, with the diameter of `estimate_diameter`, if the image is
        small or of one size.
    """
    height, width = (int(side) for side in image.shape[-2:])
    whole = Part(Region(0, 0, height, width), estimate_diameter(image))
    if np.isnan(whole.diameter):
        return [whole]
    block = max(_BLOCK, _BLOCK_DIAMETERS * whole.diameter)
    rows, columns = (block_edges(side, block, _BLOCKS_PER_AXIS) for side in (height, width))
    if len(rows) == len(columns) == 2:
        return [whole]
    blocks = (
        image[:, slice(*down), slice(*across)]
        for down in _middles(rows, block)
        for across in _middles(columns, block)
    )
    estimates = Parallel(n_jobs)(delayed(estimate_diameter)(pixels) for pixels in blocks)
    log_diameter = np.log(np.reshape(estimates, (len(rows) - 1, len(columns) - 1)))
    log_diameter = generic_filter(log_diameter, _known_median, size=3, mode="nearest")
    rectangles = split_by_size(log_diameter, math.log(_SPREAD))
    if len(rectangles) == 1:
        return [whole]
    return [
        Part(
            Region(
                int(rows[top]),
                int(columns[left]),
                int(rows[bottom] - rows[top]),
                int(columns[right] - columns[left]),
            ),
            _geometric_mean(log_diameter[top:bottom, left:right], whole.diameter),
        )
        for top, bottom, left, right in rectangles
    ]


def split_by_size(log_diameter: np.ndarray, spread: float) -> list[tuple[int, int, int, int]]:
    """Cut blocks (m, n) in two until those of a rectangle differ by at most `spread`; nan agrees with everything.

    Of all straight cuts that is made which leaves the smallest sum, over the two sides, of blocks times spread.

    Returns
    -------
    list of (first row, one past the last, first column, one past the last)
    """
    n_rows, n_columns = log_diameter.shape
    if _spread(log_diameter) <= spread:
        return [(0, n_rows, 0, n_columns)]
    cuts = [(0, at) for at in range(1, n_rows)] + [(1, at) for at in range(1, n_columns)]

    def cost(cut: tuple[int, int]) -> float:
        axis, at = cut
        return sum(part.size * _spread(part) for part in np.split(log_diameter, [at], axis))

    axis, at = min(cuts, key=cost)
    first, second = np.split(log_diameter, [at], axis)
    down, right = (at, 0) if axis == 0 else (0, at)
    return split_by_size(first, spread) + [
        (top + down, bottom + down, left + right, end + right)
        for top, bottom, left, end in split_by_size(second, spread)
    ]


def _middles(edges: np.ndarray, block: float) -> list[tuple[int, int]]:
    """What each block is judged by, from and to where on its axis: all of it, or of a larger one `block` px."""
    spans = []
    for low, high in pairwise(edges.tolist()):
        spare = 0 if high - low < 1.5 * block else round((high - low - block) / 2)
        spans.append((low + spare, high - spare))
    return spans


def _known_median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


def _spread(log_diameter: np.ndarray) -> float:
    known = log_diameter[~np.isnan(log_diameter)]
    return float(np.ptp(known)) if len(known) else 0.0


def _geometric_mean(log_diameter: np.ndarray, unknown: float) -> float:
    known = log_diameter[~np.isnan(log_diameter)]
    return float(np.exp(np.mean(known))) if len(known) else unknown
