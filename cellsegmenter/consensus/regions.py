"""A few squares of a large image, stacked into a small one to try resolutions on (S9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from cellsegmenter.types import Instances

__all__ = ["draw_squares", "stack_regions"]


def draw_squares(
    boxes: np.ndarray,
    image_shape: tuple[int, int],
    *,
    n_regions: int,
    side: int,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Corners (n, 2) of random squares of the image.

    The squares come from a regular tiling, so that they never overlap, and are drawn in proportion to the
    number of instances centred in them, so that they show objects.

    Parameters
    ----------
    boxes : (m, 4) array
        Of all instances, px.
    image_shape : (height, width)
    n_regions, side : int
        How many squares, and their side in px.
    rng : numpy.random.Generator

    Returns
    -------
    (n, 2) int array, row and column
        None if the image is not much larger than the squares would be, and is better taken whole.
    """
    height, width = image_shape
    n_rows, n_columns = height // side, width // side
    if n_rows * n_columns < 2 * n_regions:
        return None
    centre = (boxes[:, 1::-1] // side).astype(int)
    complete = np.all((centre >= 0) & (centre < (n_rows, n_columns)), axis=1)
    count = np.bincount(centre[complete] @ (n_columns, 1), minlength=n_rows * n_columns)
    n_regions = min(n_regions, int(np.count_nonzero(count)))
    if not n_regions:
        return None
    square = np.sort(rng.choice(len(count), n_regions, replace=False, p=count / count.sum()))
    return np.stack(np.divmod(square, n_columns), axis=1) * side


def stack_regions(
    instances: Instances, corner: np.ndarray, *, side: int, gap: int
) -> tuple[Instances, np.ndarray]:
    """Squares of the image, one above the other, with `gap` empty rows between them.

    Parameters
    ----------
    instances : Instances
        All that reach into the squares, and any others.
    corner : (n, 2) int array
        Of the squares, which do not overlap.
    side : int
        Of the squares, px.
    gap : int
        px; at least the cut-off distance, so that no edge crosses it.

    Returns
    -------
    regions : Instances
        Of the stacked image, those that have pixels in it; `window_origin` is translated for the windows below and
        meaningless for others.
    windows : (m,) int array
        The windows that lie within one square.
    """
    width, height = side, len(corner) * (side + gap)
    membership = instances.membership
    row, column = np.divmod(membership.indices, instances.image_shape[1])
    region, place = np.full(len(row), -1), np.zeros(len(row), dtype=np.int64)
    for k, (top, left) in enumerate(corner):
        here = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        region[here] = k
        place[here] = (row[here] - top + k * (side + gap)) * width + column[here] - left
    shown = np.flatnonzero(region >= 0)
    owner = np.repeat(np.arange(len(instances)), np.diff(membership.indptr))[shown]
    seen, owner = np.unique(owner, return_inverse=True)
    stacked = sparse.csc_array(
        (membership.data[shown], (place[shown], owner)), shape=(height * width, len(seen))
    )
    offset = instances.window_origin[:, None] - corner  # (n_windows, n, 2)
    inside = np.all((offset >= 0) & (offset + instances.window_size <= side), axis=2)
    window, number = np.nonzero(inside)
    origin = instances.window_origin.copy()
    origin[window] = offset[window, number] + np.stack([number * (side + gap), 0 * number], axis=1)
    regions = replace(
        instances,
        membership=stacked,
        image_shape=(height, width),
        window_origin=origin,
        **{
            name: getattr(instances, name)[seen]
            for name in ("window", "sample", "presence_prob", "boxes", "z_what")
        },
    )
    return regions, window
