"""Whether the objects of an image are blobs, so that their masks may be held to that form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from skimage.measure import regionprops_table

from cellsegmenter.counting import count_objects

__all__ = ["choose_shape"]

_MAX_IMAGES = 50
# Median solidity (area over that of the convex hull) of what `count_objects` finds: nuclei of BBBC038 .96, overlapping
# blobs of Suppl. S6 .90, handwritten digits .78, those of scikit-learn, which are coarser, .86.
_LEAST_SOLIDITY = 0.88
# Median ratio of the axes: what a `BlobMask` cannot follow are rods.
_LARGEST_AXIS_RATIO = 2.5


def choose_shape(images: Sequence[Any]) -> Literal["blob", "free"]:
    """The form of mask that suits the objects in images; "free" if there are none to judge by.

    Parameters
    ----------
    images : sequence of array-like (C, H, W)
        Bright objects on a darker background; of many images 50 are looked at, evenly spread.
    """
    looked_at = np.unique(np.linspace(0, len(images) - 1, _MAX_IMAGES).astype(int))
    tiles = [tile for i in looked_at for tile in count_objects(images[i])]
    properties = ("solidity", "axis_major_length", "axis_minor_length")
    shapes = [regionprops_table(tile.labels, properties=properties) for tile in tiles if len(tile.areas)]
    if not shapes:
        return "free"
    whole = np.concatenate([tile.whole for tile in tiles if len(tile.areas)])
    solidity, longer, shorter = (
        np.concatenate([shape[name] for shape in shapes])[whole] for name in properties
    )
    if not len(solidity):
        return "free"
    round_enough = np.median(longer / np.maximum(shorter, 1)) <= _LARGEST_AXIS_RATIO
    return "blob" if round_enough and np.median(solidity) >= _LEAST_SOLIDITY else "free"
