"""A few squares of a large image, stacked into a small one to try resolutions on (S9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellsegmenter.types import Instances

__all__ = ["stack_regions"]


def stack_regions(
    instances: Instances, *, n_regions: int, side: int, gap: int, rng: np.random.Generator
) -> tuple[Instances, np.ndarray] | None:
    """Random squares of the image, one above the other, with `gap` empty rows between them.

    The squares come from a regular tiling, so that they never overlap, and are drawn in proportion to the
    number of instances centred in them, so that they show objects.

    Parameters
    ----------
    instances : Instances
    n_regions, side : int
        How many squares, and their side in px.
    gap : int
        px; at least the cut-off distance, so that no edge crosses it.
    rng : numpy.random.Generator

    Returns
    -------
    regions : Instances
        Of the stacked image, with all instances that reach into it; `window_origin` is translated for
        the windows below and meaningless for others.
    windows : (m,) int array
        The windows that lie within one square.

    None if the image is not much larger than the squares would be, and is better taken whole.
    """
    height, width = instances.image_shape
    n_rows, n_columns = height // side, width // side
    if n_rows * n_columns < 2 * n_regions:
        return None
    centre = (instances.boxes[:, 1::-1] // side).astype(int)
    complete = np.all((centre >= 0) & (centre < (n_rows, n_columns)), axis=1)
    count = np.bincount(centre[complete] @ (n_columns, 1), minlength=n_rows * n_columns)
    n_regions = min(n_regions, int(np.count_nonzero(count)))
    if not n_regions:
        return None
    square = np.sort(rng.choice(len(count), n_regions, replace=False, p=count / count.sum()))

    corner = np.stack(np.divmod(square, n_columns), axis=1) * side  # (n_regions, 2)
    local = np.arange(side)
    pixels = (corner[:, 0, None, None] + local[:, None]) * width + corner[:, 1, None, None] + local
    index = np.full((n_regions, side + gap, side), -1)
    index[:, :side] = pixels
    flat = index.ravel()
    membership = instances.membership.tocsr()[np.maximum(flat, 0)].multiply((flat >= 0)[:, None]).tocsc()
    membership.eliminate_zeros()

    offset = instances.window_origin[:, None] - corner  # (n_windows, n_regions, 2)
    inside = np.all((offset >= 0) & (offset + instances.window_size <= side), axis=2)
    window, region = np.nonzero(inside)
    origin = instances.window_origin.copy()
    origin[window] = offset[window, region] + np.stack([region * (side + gap), 0 * region], axis=1)
    shape = (n_regions * (side + gap), side)
    return replace(instances, membership=membership, image_shape=shape, window_origin=origin), window
