"""Light between the objects that varies slowly: out-of-focus tissue, uneven illumination.

Where it is bright it looks like one large object, which a model for small ones fills with a lattice.  So a map of it
is taken off before intensities are normalised: the tenth percentile of blocks of four objects' diameters, as far
as it is above the background of the whole image, and linear between the blocks' centres.  In a block that is crowded
this is the level of the gaps; of one without gaps it would be the objects' own, which are then taken off, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cellsegmenter.validation import full_key

__all__ = ["Haze", "estimate_haze"]

_BLOCK_DIAMETERS = 4  # side of a block, in diameters of an object
_PERCENTILE = 10
_BAND = 512  # rows that are read at a time: chunks of a zarr array are not read once for every row of blocks


@dataclass(frozen=True)
class Haze:
    """A map of an image (C, H, W) that is computed where it is sliced; each pixel is the same in every slice."""

    levels: np.ndarray  # (C, m, n) float32 intensity above the background in each block; not negative
    image_shape: tuple[int, int]  # H, W

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = full_key(key, 3)
        above, below, down = _between(self.image_shape[0], self.levels.shape[1], rows)
        left, right, across = _between(self.image_shape[1], self.levels.shape[2], columns)
        levels = self.levels[channels]
        levels = levels[:, above] + down[:, None] * (levels[:, below] - levels[:, above])  # (C, h, n)
        return levels[..., left] + across * (levels[..., right] - levels[..., left])


def estimate_haze(image: Any, background: np.ndarray, diameter: float) -> Haze:
    """The haze of an image.

    Parameters
    ----------
    image : array-like (C, H, W)
        At working scale; read once, in bands.
    background : ndarray (C,)
        Of the whole image, see `cellsegmenter.normalize.image_statistics`.
    diameter : float
        px of an object in it.
    """
    height, width = (int(n) for n in image.shape[-2:])
    block = round(_BLOCK_DIAMETERS * diameter)
    rows, columns = _edges(height, block), _edges(width, block)
    per_band = max(1, _BAND // block)
    levels = []
    for first in range(0, len(rows) - 1, per_band):
        of_band = rows[first : first + per_band + 1]
        band = np.asarray(image[:, of_band[0] : of_band[-1], :])
        for top, bottom in pairwise(of_band - of_band[0]):
            blocks = np.split(band[:, top:bottom], columns[1:-1], axis=2)
            levels.append([np.percentile(pixels, _PERCENTILE, axis=(1, 2)) for pixels in blocks])
    above = np.moveaxis(np.array(levels), -1, 0) - np.asarray(background)[:, None, None]
    return Haze(np.maximum(above, 0).astype(np.float32), (height, width))


def _edges(length: int, block: int) -> np.ndarray:
    """Where blocks of about `block` px begin on an axis, and its end."""
    return np.linspace(0, length, max(1, round(length / block)) + 1).astype(int)


def _between(length: int, n_blocks: int, wanted: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two blocks between whose centres each wanted pixel of an axis lies, and how far it is from the first.

    Beyond the outermost centres it is at these.
    """
    pixel = np.arange(*wanted.indices(length))
    position = np.clip((pixel + 0.5) * n_blocks / length - 0.5, 0, n_blocks - 1)
    first = position.astype(int)
    return first, np.minimum(first + 1, n_blocks - 1), (position - first).astype(np.float32)
