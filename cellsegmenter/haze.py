"""Light between the objects that varies slowly: out-of-focus tissue, uneven illumination.

Where it is bright it looks like one large object, which a model for small ones fills with a lattice.  So a map of it
is taken off before intensities are normalised: the tenth percentile of blocks of four objects' diameters, as far
as it is above the background of the whole image, and linear between the blocks' centres.  In a block that is crowded
this is the level of the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cellsegmenter.validation import full_key

__all__ = ["Haze", "estimate_haze"]

_BLOCK = 64  # px at working scale
_PERCENTILE = 10


@dataclass(frozen=True)
class Haze:
    """A map of an image (C, H, W) that is computed where it is sliced."""

    levels: np.ndarray  # (C, m, n) intensity above the background in each block; not negative
    image_shape: tuple[int, int]  # H, W

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = full_key(key, 3)
        height, width = self.image_shape
        by_row = _interpolation(height, self.levels.shape[1])[rows]
        by_column = _interpolation(width, self.levels.shape[2])[columns]
        return by_row @ self.levels[channels] @ by_column.T


def estimate_haze(image: Any, background: np.ndarray) -> Haze:
    """The haze of an image.

    Parameters
    ----------
    image : array-like (C, H, W)
        At working scale; read once, one row of blocks after the other.
    background : ndarray (C,)
        Of the whole image, see `cellsegmenter.normalize.image_statistics`.
    """
    height, width = (int(n) for n in image.shape[-2:])
    rows, columns = _edges(height), _edges(width)
    levels = []
    for top, bottom in pairwise(rows):
        band = np.asarray(image[:, top:bottom, :])
        blocks = np.split(band, columns[1:-1], axis=2)
        levels.append([np.percentile(block, _PERCENTILE, axis=(1, 2)) for block in blocks])
    above = np.moveaxis(np.array(levels), -1, 0) - np.asarray(background)[:, None, None]
    return Haze(np.maximum(above, 0), (height, width))


def _edges(length: int) -> np.ndarray:
    """Where blocks of about 64 px begin on an axis, and its end."""
    return np.linspace(0, length, max(1, round(length / _BLOCK)) + 1).astype(int)


def _interpolation(length: int, n_blocks: int) -> np.ndarray:
    """(length, n_blocks): weights of the blocks in each pixel; constant beyond the outermost centres."""
    position = np.clip((np.arange(length) + 0.5) * n_blocks / length - 0.5, 0, n_blocks - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(n_blocks)), 0)
