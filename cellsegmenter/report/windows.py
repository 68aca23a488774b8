"""Windows worth showing: where the images have something to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage.transform import resize

from cellsegmenter.segmenting import working_scale
from cellsegmenter.validation import check_images

__all__ = ["telling_windows"]

_CANDIDATES = 12  # of which the one with the most contrast is shown


def telling_windows(segmenter: Any, images: Sequence[Any], n_windows: int = 4) -> np.ndarray:
    """Cut windows from images, at the model's working scale.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    images : sequence of array-likes
        As in `CellSegmenter.predict`.
    n_windows : int
        At most; evenly spread over the images.

    Returns
    -------
    ndarray (n, size, size), or with channels (n, C, size, size); float32

    Raises
    ------
    ValueError
        If an image is not understood, or smaller than a window.
    """
    views, _ = check_images(
        list(images), channel_axis=segmenter.channel_axis, n_channels=segmenter.n_channels_in_
    )
    size = segmenter.model_.config.window_size
    random = np.random.default_rng(0)
    chosen = np.linspace(0, len(views) - 1, n_windows).astype(int)
    windows = []
    for view in (views[i] for i in chosen):
        side = round(size / working_scale(view, segmenter.working_diameter_, segmenter.diameter))
        height, width = view.shape[1:]
        if min(height, width) < side:
            raise ValueError(
                f"{view.name} has {height} × {width} px, less than a window of {side} px; leave it out"
            )
        corners = random.integers((0, 0), (height - side + 1, width - side + 1), size=(_CANDIDATES, 2))
        crops = [view[:, top : top + side, left : left + side] for top, left in corners]
        best = max(crops, key=lambda crop: float(crop.std()))
        windows.append(
            resize(best, (len(best), size, size), order=1, anti_aliasing=side > size, preserve_range=True)
        )
    stacked = np.stack(windows).astype(np.float32)
    return stacked[:, 0] if segmenter.channel_axis is None else stacked
