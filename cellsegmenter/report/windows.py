"""Windows worth showing: where the images have something to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.preparation import PreparedImage, prepare_image
from cellsegmenter.region import Region
from cellsegmenter.scales import working_scale
from cellsegmenter.validation import check_images

__all__ = ["TellingWindow", "telling_windows"]

_CANDIDATES = 12  # for each window: those with the most contrast are shown


class TellingWindow(NamedTuple):
    """A part of an image that fits into a window, as `predict` sees it."""

    image: Any  # all of it, as the user gave it
    region: Region  # px of the image
    pixels: np.ndarray  # (C, h, w) float32 at working scale, normalised; h, w at most window_size
    rows: np.ndarray  # (h,) the row of the region that each row of pixels shows
    columns: np.ndarray  # (w,)


def telling_windows(segmenter: Any, images: Sequence[Any], n_windows: int = 4) -> list[TellingWindow]:
    """Cut windows from images, prepared as a whole for the model.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    images : sequence of array-likes
        As in `CellSegmenter.predict`.
    n_windows : int
        At most; evenly spread over the images, and no two of one image overlap.  An image that is smaller than a
        window is shown as it is.

    Raises
    ------
    ValueError
        If an image is not understood.
    """
    views, _ = check_images(
        list(images), channel_axis=segmenter.channel_axis, n_channels=segmenter.n_channels_in_
    )
    random = np.random.default_rng(0)
    spread = np.linspace(0, len(views) - 1, n_windows).round().astype(int)
    windows = []
    for index, count in zip(*np.unique(spread, return_counts=True), strict=True):
        prepared = prepare_image(
            views[index],
            scale=working_scale(views[index], segmenter.working_diameter_, segmenter.diameter),
            diameter=segmenter.working_diameter_,
            intensity=segmenter.intensity,
        )
        places = _contrasting(prepared, segmenter.model_.config.window_size, int(count), random)
        windows += [_window(images[index], prepared, place) for place in places]
    return windows


def _contrasting(
    prepared: PreparedImage, size: int, n_windows: int, random: np.random.Generator
) -> list[Region]:
    """Places at working scale with much contrast, none over another."""
    height, width = (min(size, side) for side in prepared.shape[1:])
    last = prepared.shape[1] - height, prepared.shape[2] - width
    corners = random.integers((0, 0), last, size=(_CANDIDATES * n_windows, 2), endpoint=True)
    candidates = [Region(int(row), int(column), height, width) for row, column in corners]
    contrast = [-float(prepared[(slice(None), *place.slices)].std()) for place in candidates]
    chosen: list[Region] = []
    for i in np.argsort(contrast, kind="stable"):
        apart = [np.abs(candidates[i].corner - other.corner) >= (height, width) for other in chosen]
        if len(chosen) < n_windows and all(axes.any() for axes in apart):
            chosen.append(candidates[i])
    return chosen


def _window(image: Any, prepared: PreparedImage, place: Region) -> TellingWindow:
    """A place at working scale with its pixels, and where it is in the user's image."""
    spans = []
    for first, n, new, old in zip(
        place.corner.tolist(), place.shape, prepared.shape[1:], prepared.original_shape, strict=True
    ):
        low, high = first * old // new, -(-(first + n) * old // new)
        shown = ((np.arange(first, first + n) + 0.5) * old / new).astype(np.int64)
        spans.append((low, high - low, shown - low))
    (row, height, rows), (column, width, columns) = spans
    pixels = prepared[(slice(None), *place.slices)]
    return TellingWindow(image, Region(row, column, height, width), pixels, rows, columns)
