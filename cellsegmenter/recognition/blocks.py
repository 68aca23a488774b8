"""A fixed lattice of blocks over an image, each read with a margin as wide as a network looks.

So the networks give in every block what they would give for the whole image, and no border exists at any stage.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.region import Region
from cellsegmenter.windows import read_reflected

__all__ = ["BLOCK", "Surroundings", "block_lattice", "read_around"]

BLOCK = 1024  # px at working scale; a multiple of every network's pitches


class Surroundings(NamedTuple):
    """A block's pixels with those around it."""

    pixels: np.ndarray  # (C, h, w)
    corner: np.ndarray  # (2,) row and column of the first pixel, in px of the image; negative in the padding


def block_lattice(shape: tuple[int, int], side: int = BLOCK) -> list[Region]:
    """Blocks that cover an image (height, width) without overlap, row by row."""
    height, width = shape
    whole = Region(0, 0, height, width)
    return [
        Region(row, column, side, side).common(whole)
        for row in range(0, height, side)
        for column in range(0, width, side)
    ]


def read_around(image: Any, block: Region, *, halo: int, padding: int, multiple: int) -> Surroundings:
    """A block of an image (C, H, W) with `halo` px around it, as far as the padded image goes.

    Parameters
    ----------
    image : array-like (C, H, W)
        Only what is needed is read.
    block : Region
        It begins at a multiple of `multiple`.
    halo : int
        px around the block; a multiple of `multiple`.
    padding : int
        px by which the image is continued by reflection on each side, and by a few more at its end so that sides are
        whole multiples; a multiple of `multiple`.  The network sees nothing beyond.
    multiple : int
        Sides of the result are multiples of this.
    """
    low, high = [], []
    for first, length, side in zip(block.corner.tolist(), block.shape, image.shape[-2:], strict=True):
        end = multiple * math.ceil((side + padding) / multiple)
        low.append(max(first - halo, -padding))
        high.append(min(multiple * math.ceil((first + length) / multiple) + halo, end))
    corner = np.array(low)
    return Surroundings(read_reflected(image, corner, np.array(high) - corner), corner)
