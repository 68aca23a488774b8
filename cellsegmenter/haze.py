"""Light between the objects that varies slowly: out-of-focus tissue, uneven illumination.

Where it is bright it looks like one large object, which a model for small ones fills with a lattice.  So a map of it
is taken off before intensities are normalised: the tenth percentile of blocks of four objects' diameters, as far
as it is above the background, and linear between the blocks' centres.  In a block that is crowded
this is the level of the gaps; of one without gaps it would be the objects' own, which are then taken off, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cellsegmenter.block_map import BlockMap, read_blocks
from cellsegmenter.normalize import fill_unknown

__all__ = ["estimate_haze"]

_BLOCK_DIAMETERS = 4  # side of a block, in diameters of an object
_PERCENTILE = 10


def estimate_haze(image: Any, background: BlockMap, diameter: float) -> BlockMap:
    """The haze of an image, its intensity above the background; not negative.

    Parameters
    ----------
    image : array-like (C, H, W)
        At working scale; read once, in bands.
    background : BlockMap
        See `cellsegmenter.normalize.local_statistics`.
    diameter : float
        px of an object in it.
    """
    rows = read_blocks(image, round(_BLOCK_DIAMETERS * diameter))
    of_blocks = [[_dark_level(pixels) for pixels in row] for row in rows]
    levels = fill_unknown(np.moveaxis(np.array(of_blocks), -1, 0))
    above = levels - background.in_blocks(levels.shape[1:])
    return BlockMap(np.maximum(above, 0).astype(np.float32), background.image_shape)


def _dark_level(pixels: np.ndarray) -> np.ndarray:
    """(C,) of the pixels (C, h, w) of a block; nan if it has no data."""
    known = ~np.isnan(pixels[0])
    if not known.any():
        return np.full(len(pixels), np.nan)
    return np.percentile(pixels[:, known], _PERCENTILE, axis=1)
